"""Pass: constant matrices become blocks of signed int4 or int8 codes behind `DequantizeLinear`. In place.

For TensorRT, which reads weights so (opset 21, symmetric, one scale for `block` successive inputs of an output) and
keeps the codes in the engine; ONNX Runtime takes the same graph. The matrix is [inputs, outputs], blocked along axis 0,
with no transpose between it and its MatMul.

A table that `Gather` takes rows from stays as it is: `DequantizeLinear` would make all of it float in every step. A
head that shares it gets codes of its own, int8 in either format.

Postcondition: no float matrix that a MatMul of the main graph multiplies by is left, and the initializers and
transposes that nothing reads any more are gone. Graph and function bodies are of opset 21, which adds types to the
operators of opset 20 that exported graphs hold, and changes none of them.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from retentive_export.export.passes.constants import new_initializer
from retentive_export.export.passes.matrices import constant_matrix, drop_unread
from retentive_export.export.passes.weight_codes import signed_codes
from retentive_export.spec.weights import TABLE_BITS, WeightsRecord, WeightsSection, check_blocks

__all__ = ["OPSET", "block_weights"]

OPSET = 21


def block_weights(model: ir.Model, weights: WeightsSection) -> WeightsRecord:
    """Quantise every matrix that a MatMul of the main graph multiplies by; what was made of them.

    Raises:
        RecipeError: a matrix whose inputs are no whole number of blocks.
    """
    graph, made = model.graph, dict[tuple[ir.Value, bool], tuple[ir.Value, list[ir.Value], int]]()
    for node in list(graph):
        if node.op_type != "MatMul" or node.domain != "":
            continue
        source, turned = constant_matrix(node.inputs[1])
        if source is None:
            continue
        if (source, turned) not in made:
            made[source, turned] = _dequantised(graph, node, source, turned, weights)
        node.replace_input_with(1, made[source, turned][0])
    drop_unread(graph)
    model.opset_imports[""] = OPSET
    for function in model.functions.values():
        function.opset_imports[""] = OPSET
    return WeightsRecord(
        format="int4" if weights.format == "int4" else "int8",
        block=weights.block,
        matrices=len(made),
        parameters=sum(parameters for _, _, parameters in made.values()),
        bytes=sum(v.const_value.nbytes for _, values, _ in made.values() for v in values if v.const_value is not None),
    )


def _dequantised(
    graph: ir.Graph, before: ir.Node, source: ir.Value, turned: bool, weights: WeightsSection
) -> tuple[ir.Value, list[ir.Value], int]:
    """(the matrix [inputs, outputs] in the model's dtype, codes and scales, parameters)."""
    assert source.const_value is not None
    array = source.const_value.numpy()
    rows = np.ascontiguousarray(array if turned else array.T)
    check_blocks(weights, rows.shape[1], str(source.name))
    bits = TABLE_BITS if any(use.node.op_type == "Gather" for use in source.uses()) else weights.bits
    codes, scales = signed_codes(rows, weights.block, bits)
    values = [
        new_initializer(graph, f"{source.name}_codes", codes.astype(ml_dtypes.int4) if bits == 4 else codes),
        new_initializer(graph, f"{source.name}_scales", scales),
    ]
    attributes = {"axis": 0, "block_size": weights.block}
    node = ir.node("DequantizeLinear", values, attributes, name=f"{source.name}_dequantised")
    node.outputs[0].name = f"{source.name}_matrix"
    node.outputs[0].shape, node.outputs[0].dtype = ir.Shape(codes.shape), source.const_value.dtype
    graph.insert_before(before, node)
    return node.outputs[0], values, rows.size
