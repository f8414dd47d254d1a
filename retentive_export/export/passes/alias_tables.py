"""Pass: a Reshape of a stored initializer becomes a second initializer over the same bytes of the file. In place.

Precondition: the model was loaded from a file, so that its initializers are references into the external data.
Postcondition: no Reshape of such an initializer is left. Why: a runtime that folds the Reshape would hold the
table twice; both initializers are one mapping of the file.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["alias_tables"]


def alias_tables(model: ir.Model) -> None:
    """Replace each Reshape of an external uint8 initializer, whose shape is a constant, by an initializer."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Reshape" or node.inputs[0] is None or node.inputs[1] is None:
            continue
        stored, shape = node.inputs[0].const_value, node.inputs[1].const_value
        if not isinstance(stored, ir.ExternalTensor) or stored.dtype != ir.DataType.UINT8 or shape is None:
            continue
        name = f"{stored.name}_table"
        table = ir.ExternalTensor(
            stored.location,
            stored.offset,
            stored.length,
            stored.dtype,
            shape=ir.Shape(shape.numpy().tolist()),
            name=name,
            base_dir=stored.base_dir,
        )
        value = ir.val(name, const_value=table)
        graph.register_initializer(value)
        node.outputs[0].replace_all_uses_with(value)
        unread = node.inputs[1]
        graph.remove(node, safe=True)
        if not unread.uses() and unread.name is not None:
            graph.initializers.pop(unread.name, None)
