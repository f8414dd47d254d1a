"""Geometries for the plugin tests and what their operators' inputs and outputs are, by the torch operators."""

from __future__ import annotations

import dataclasses
from functools import cache

import torch

from retentive_export.ops import torch_ops
from retentive_export.ops.contract import OPS, encode_config
from retentive_export.ops.onnx_functions import example_inputs
from retentive_export.spec.geometry import CacheGeometry
from tests.ops.helpers import GATE, GEOMETRIES, SCALE
from tests.plugins.plugin_driver import Offer

SERVED = {name: geometry for name, geometry in GEOMETRIES.items() if not geometry.latent_rows}
"""What the plugins have kernels for."""
CASES = SERVED | {
    "float16": dataclasses.replace(GEOMETRIES["mass"], dtype="float16"),
    "bfloat16": dataclasses.replace(GEOMETRIES["exact+int4"], dtype="bfloat16"),
}
_OPERATORS = {
    "RetentiveAttention": torch_ops.attention,
    "EntropyGate": torch_ops.gate,
    "StateTransition": torch_ops.transition,
}


@cache
def signature(op: str, geometry: CacheGeometry, steps: int) -> tuple[tuple[Offer, ...], tuple[Offer, ...]]:
    """Inputs and outputs of one call with T = steps, in the contract's order, as the torch operator has them."""
    # On the meta device, where an operator computes shapes and types alone.
    inputs = {name: tensor.to("meta") for name, tensor in example_inputs(op, geometry, steps).items()}
    fixed = [inputs[name] for name in OPS[op].inputs]
    state = [tensor for name, tensor in inputs.items() if name not in OPS[op].inputs]
    outputs = _OPERATORS[op](*fixed, state, encode_config(geometry, GATE, SCALE))
    return tuple(map(_offer, inputs.values())), tuple(map(_offer, outputs))


def symbolic(op: str, geometry: CacheGeometry) -> tuple[Offer, ...]:
    """The inputs while building: dimensions that follow T are -1."""
    one, two = signature(op, geometry, 1)[0], signature(op, geometry, 2)[0]
    return tuple(
        a._replace(shape=tuple(x if x == y else -1 for x, y in zip(a.shape, b.shape, strict=True)))
        for a, b in zip(one, two, strict=True)
    )


def _offer(tensor: torch.Tensor) -> Offer:
    return Offer(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
