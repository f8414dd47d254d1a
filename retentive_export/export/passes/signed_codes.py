"""Pass: packed int4 codes as int8 instead of uint8. In place.

TensorRT takes uint8 neither from a plugin nor into one. The bytes are the same, and the operators take either.

Precondition: only custom nodes read and write the codes. Postcondition: no input or output of a custom node is uint8.
"""

from __future__ import annotations

import onnx_ir as ir

from retentive_export.errors import ExportError
from retentive_export.ops.contract import DOMAIN

__all__ = ["sign_codes"]


def sign_codes(model: ir.Model) -> None:
    """Retype the codes.

    Raises:
        ExportError: another operator reads or writes a uint8 tensor of a custom node, and would see other numbers.
    """
    for node in list(model.graph):
        if node.domain != DOMAIN:
            continue
        for value in (*node.inputs, *node.outputs):
            if value is None or value.dtype != ir.DataType.UINT8:
                continue
            producer = value.producer()
            others = [user for user in (producer, *(use.node for use in value.uses())) if user is not None]
            if foreign := [user for user in others if user.domain != DOMAIN]:
                raise ExportError(
                    f"node {foreign[0].name!r} of type {foreign[0].op_type!r} uses the packed codes {value.name!r}"
                )
            value.type = ir.TensorType(ir.DataType.INT8)
