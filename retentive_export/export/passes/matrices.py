"""What the passes that quantise weights share: which matrices there are, and removing those that are left unread."""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["constant_matrix", "drop_unread"]

_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def constant_matrix(value: ir.Value | None) -> tuple[ir.Value | None, bool]:
    """The constant float matrix behind a value, and whether a transpose lies between; None if there is none."""
    producer = value.producer() if value is not None else None
    turned = producer is not None and producer.op_type == "Transpose" and producer.domain == ""
    constant = producer.inputs[0] if turned and producer is not None else value
    if constant is None or constant.const_value is None or not constant.is_initializer():
        return None, False
    if len(constant.const_value.shape) != 2 or constant.const_value.dtype not in _FLOATS:
        return None, False
    return constant, turned


def drop_unread(graph: ir.Graph) -> None:
    """Remove transposes and initializers that nothing reads any more."""
    for node in reversed(list(graph)):
        if node.op_type == "Transpose" and not any(o.uses() or o.is_graph_output() for o in node.outputs):
            graph.remove(node, safe=True)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
