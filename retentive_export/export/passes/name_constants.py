"""Pass: constants of the cache (key scales, latent bases) are initializers called `LAYER.NAME`. In place.

Whoever reads an artifact finds them by these names, in every flavour.

Precondition: a StateTransition reads all constants of its layer, and names its layer by its state inputs.
"""

from __future__ import annotations

import onnx_ir as ir

from retentive_export.export.passes.flavours import custom_nodes
from retentive_export.ops.contract import OPS
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["name_constants"]


def name_constants(model: ir.Model, geometry: CacheGeometry) -> None:
    """Rename the initializers behind the operator's constant inputs."""
    contract = OPS["StateTransition"]
    constants = contract.constant_inputs(geometry)
    for node in custom_nodes(model):
        if node.op_type != contract.name:
            continue
        layer = next(str(value.name).split(".")[1] for value in node.inputs if value and _is_state(value))
        for name, value in zip(contract.input_names(geometry), node.inputs, strict=True):
            if name in constants and value is not None and value.is_initializer():
                value.name = f"{layer}.{name}"


def _is_state(value: ir.Value) -> bool:
    return str(value.name).startswith("past.")
