"""Signature of the operators: which inputs, in which order, and which attributes. Torch-free.

Inputs are dense (no empty optional input, which TensorRT's plugin interface cannot express): the fixed ones, then
the layer's constants (`CacheGeometry.constants()`), then those of the layer's state tensors that the operator reads, in
the order of `CacheGeometry.state()`. The attributes tell which ones are there.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry, TensorSpec

__all__ = ["DOMAIN", "OPS", "VERSION", "OpContract", "attributes", "decode_config", "encode_config", "tensor_specs"]

DOMAIN = "com.retentivekv"
VERSION = 1

_STATISTICS = frozenset({"importance", "entropy"})
_GATE_STATE = _STATISTICS | {"row_meta"}


@dataclass(frozen=True, kw_only=True)
class OpContract:
    """Names of one operator's inputs and outputs for a geometry."""

    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def state_inputs(self, geometry: CacheGeometry) -> tuple[str, ...]:
        """Names of the state tensors that this operator reads, in order."""
        names = (spec.name for spec in geometry.state())
        if self.name == "EntropyGate":
            return tuple(name for name in names if name in _GATE_STATE)
        return tuple(name for name in names if name not in _STATISTICS)

    def input_names(self, geometry: CacheGeometry) -> tuple[str, ...]:
        """All inputs, in order."""
        return (*self.inputs, *self.constant_inputs(geometry), *self.state_inputs(geometry))

    def constant_inputs(self, geometry: CacheGeometry) -> tuple[str, ...]:
        """Names of the layer's constants that this operator reads, in order."""
        if self.name == "EntropyGate":
            return ()
        unread = {"latent_encode"} if self.name == "RetentiveAttention" else set()
        return tuple(spec.name for spec in geometry.constants() if spec.name not in unread)

    def output_names(self, geometry: CacheGeometry) -> tuple[str, ...]:
        """All outputs, in order; StateTransition yields every state tensor of the layer."""
        return self.outputs or tuple(spec.name for spec in geometry.state())


OPS: dict[str, OpContract] = {
    op.name: op
    for op in (
        OpContract(
            name="RetentiveAttention",
            inputs=("query", "key", "value", "token_meta"),
            outputs=("output", "received", "surprise", "visual_entropy"),
        ),
        OpContract(
            name="EntropyGate",
            inputs=("received", "surprise", "visual_entropy", "token_meta"),
            outputs=("victims", "importance_next", "entropy_next", "absorption", "retention"),
        ),
        OpContract(
            name="StateTransition",
            inputs=(
                "victims",
                "importance_next",
                "entropy_next",
                "absorption",
                "retention",
                "key",
                "value",
                "token_meta",
            ),
            outputs=(),
        ),
    )
}


def tensor_specs(op: str, geometry: CacheGeometry, steps: int) -> dict[str, TensorSpec]:
    """Shape and dtype of every input of an operator for `steps` new tokens, in order; outputs of one are among the
    inputs of the next, except for `output`, which is as `query`."""
    batch, heads, dim, one = geometry.batch, geometry.kv_heads, geometry.head_dim, geometry.row_heads
    columns, local = geometry.rows + steps, geometry.local_rows + steps
    fixed: dict[str, tuple[tuple[int, ...], str]] = {
        "query": ((batch, geometry.q_heads, steps, dim), geometry.dtype),
        "key": ((batch, heads, steps, dim), geometry.dtype),
        "value": ((batch, heads, steps, dim), geometry.dtype),
        "token_meta": ((batch, steps, 2), "int32"),
        "received": ((batch, one, columns), "float32"),
        "surprise": ((batch, one, columns), "float32"),
        "visual_entropy": ((batch, one), "float32"),
        "victims": ((batch, one, len(geometry.tiers), steps), "int64"),
        "importance_next": ((batch, one, local), "float32"),
        "entropy_next": ((batch, one, local), "float32"),
        "absorption": ((batch, one, steps), "float32"),
        "retention": ((batch, one), "float32"),
    }
    fixed |= {spec.name: (spec.shape, spec.dtype) for spec in (*geometry.constants(), *geometry.state())}
    names = OPS[op].input_names(geometry)
    return {name: TensorSpec(name=name, shape=fixed[name][0], dtype=fixed[name][1]) for name in names}


def encode_config(geometry: CacheGeometry, gate: GateConfig, scale: float) -> str:
    """Canonical JSON of everything constant in a layer's step; the torch operators' only attribute."""
    return json.dumps(
        {"geometry": dataclasses.asdict(geometry), "gate": dataclasses.asdict(gate), "scale": scale}, sort_keys=True
    )


def decode_config(config: str) -> tuple[CacheGeometry, GateConfig, float]:
    """Inverse of `encode_config`."""
    fields = json.loads(config)
    geometry, gate = fields["geometry"], fields["gate"]
    for name in ("memory_grid", "frame_grid"):
        geometry[name] = tuple(geometry[name])
    for name in ("retention", "absorption", "readout"):
        gate[name] = SigmoidGate(**gate[name])
    return CacheGeometry(**geometry), GateConfig(**gate), float(fields["scale"])


def attributes(geometry: CacheGeometry, gate: GateConfig, scale: float) -> dict[str, Any]:
    """ONNX attributes of every node of a layer: plain ints, floats, strings and int lists."""
    result: dict[str, Any] = {"scale": scale}
    for name, item in dataclasses.asdict(geometry).items():
        if name.startswith("latent_") and not geometry.latent_rows:
            continue  # so that operators without latents stay what the plugins know
        result[name] = list(item) if isinstance(item, tuple) else int(item) if isinstance(item, bool) else item
    for name, item in dataclasses.asdict(gate).items():
        if isinstance(item, dict):
            result |= {f"{name}_gate_{key}": int(x) if isinstance(x, bool) else float(x) for key, x in item.items()}
        else:
            result["lambda" if name == "lambda_" else name] = item
    return result
