"""Pass: make the statistics of RetentiveAttention depend on its output.

Precondition: the function's body computes `received` without needing `output`. Postcondition: it needs it. Why: state
outputs are bound to the memory of the state inputs. Victims derive from `received`, and every state write from the
victims, so with this edge no write can be scheduled before the attention has read all rows. In place.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["order_reads_before_writes"]


def order_reads_before_writes(function: ir.Function) -> None:
    """`received <- received + 0 * Size(output)`; Size looks at the shape alone, so NaN cannot spread."""
    graph = function.graph
    output, received = graph.outputs[0], graph.outputs[1]
    size = ir.node("Size", [output])
    zero = ir.node("Constant", [], attributes={"value": ir.tensor(0, dtype=ir.DataType.INT64)})
    nothing = ir.node("Mul", [size.outputs[0], zero.outputs[0]])
    cast = ir.node("Cast", [nothing.outputs[0]], attributes={"to": ir.DataType.FLOAT})
    ordered = ir.node("Add", [received, cast.outputs[0]])
    for node, suffix in ((size, "size"), (zero, "zero"), (nothing, "nothing"), (cast, "edge"), (ordered, "ordered")):
        node.outputs[0].name = f"{received.name}_{suffix}"
    ordered.outputs[0].type, ordered.outputs[0].shape = received.type, received.shape
    graph.extend([size, zero, nothing, cast, ordered])
    graph.outputs[1] = ordered.outputs[0]
