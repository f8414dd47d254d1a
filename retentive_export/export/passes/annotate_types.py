"""Pass: give every output of a custom node its element type, which the tracer leaves open. In place."""

from __future__ import annotations

import onnx_ir as ir

from retentive_export.export.passes.flavours import custom_nodes
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["annotate_custom_types"]

_TYPES = {"float32": "FLOAT", "float16": "FLOAT16", "bfloat16": "BFLOAT16"}


def annotate_custom_types(model: ir.Model, geometry: CacheGeometry) -> None:
    """Postcondition: no output of our operators lacks a type, so that shapes can be stored beside it."""
    own = [_TYPES.get(spec.dtype, spec.dtype.upper()) for spec in geometry.state()]
    kinds = {
        "RetentiveAttention": [_TYPES[geometry.dtype], "FLOAT", "FLOAT", "FLOAT"],
        "EntropyGate": ["INT64", "FLOAT", "FLOAT", "FLOAT", "FLOAT"],
        "StateTransition": own,
    }
    for node in custom_nodes(model):
        if node.op_type == "StateTransition":
            node.resize_outputs(len(own))  # the exporter gives it as many as any geometry could need
        for output, kind in zip(node.outputs, kinds[node.op_type], strict=True):
            output.type = ir.TensorType(ir.DataType[kind])
