"""Passes: no write to the state before the attention has read it. In place.

State outputs are bound to the memory of the state inputs, and every state write derives from the victims. So the body
of RetentiveAttention makes `received` depend on its output, which needs all rows, and the body of EntropyGate makes
the victims depend on `received`, which a score without statistics does not read.

Precondition: the function's body computes the one without needing the other. Postcondition: it needs it.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["order_reads_before_writes", "order_victims_after_reads"]


def order_reads_before_writes(attention: ir.Function) -> None:
    """`received <- received + 0 * Size(output)`; Size looks at the shape alone, so NaN cannot spread."""
    graph = attention.graph
    _depend(graph, 1, graph.outputs[0], ir.DataType.FLOAT)


def order_victims_after_reads(gate: ir.Function) -> None:
    """`victims <- victims + 0 * Size(received)`."""
    graph = gate.graph
    _depend(graph, 0, graph.inputs[0], ir.DataType.INT64)


def _depend(graph: ir.Graph, position: int, on: ir.Value, dtype: ir.DataType) -> None:
    """Make the output at `position` depend on a value."""
    result = graph.outputs[position]
    size = ir.node("Size", [on])
    zero = ir.node("Constant", [], attributes={"value": ir.tensor(0, dtype=ir.DataType.INT64)})
    nothing = ir.node("Mul", [size.outputs[0], zero.outputs[0]])
    cast = ir.node("Cast", [nothing.outputs[0]], attributes={"to": dtype})
    ordered = ir.node("Add", [result, cast.outputs[0]])
    for node, suffix in ((size, "size"), (zero, "zero"), (nothing, "nothing"), (cast, "edge"), (ordered, "ordered")):
        node.outputs[0].name = f"{result.name}_{suffix}"
    ordered.outputs[0].type, ordered.outputs[0].shape = result.type, result.shape
    graph.extend([size, zero, nothing, cast, ordered])
    graph.outputs[position] = ordered.outputs[0]
