"""Pass: `x * Reciprocal(s)` becomes `x / s`. In place.

torch's exporter writes rsqrt as a reciprocal; ONNX Runtime recognises an RMS norm, and computes it in one node, only
where it divides. The result may differ in the last bit.

Postcondition: no Reciprocal of a Sqrt is left whose one reader is a Mul.
"""

from __future__ import annotations

import onnx_ir as ir

__all__ = ["divide_by_norms"]


def divide_by_norms(model: ir.Model) -> None:
    """Turn every Mul by the reciprocal of a square root into a Div."""
    graph = model.graph
    for node in list(graph):
        if node.op_type != "Reciprocal" or node.domain != "" or len(node.outputs[0].uses()) != 1:
            continue
        root = node.inputs[0]
        assert root is not None
        source = root.producer()
        product = next(iter(node.outputs[0].uses())).node
        if source is None or source.op_type != "Sqrt" or product.op_type != "Mul" or product.domain != "":
            continue
        (factor,) = [value for value in product.inputs if value is not node.outputs[0]]
        quotient = ir.node("Div", [factor, root], name=f"{product.name}_quotient")
        ir.convenience.replace_nodes_and_values(
            graph, product, [product, node], [quotient], product.outputs, quotient.outputs
        )
