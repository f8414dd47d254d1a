"""The operators as torch custom operators, so that a traced model holds one node per operator and layer.

Eager calls run the reference in `cache/`, or the CUDA kernels once `ops.dispatch.enable_cuda` was called; fake calls
(tracing) only compute shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from retentive_export.cache.attention import AttentionResult, retentive_attention
from retentive_export.cache.gate import GateDecision, RowStatistics, entropy_gate
from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.cache.step import layer_step as reference_step
from retentive_export.cache.transition import state_transition
from retentive_export.ops.contract import OPS, decode_config, encode_config
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["attention", "gate", "layer_step", "step_", "step_in_place", "transition"]

_decode = lru_cache(maxsize=64)(decode_config)
_encode = lru_cache(maxsize=64)(encode_config)


@torch.library.custom_op("retentivekv::attention", mutates_args=())
def attention(
    query: Tensor, key: Tensor, value: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """RetentiveAttention; `state` holds key_scale (with coarse rows) and the state tensors of the contract."""
    geometry, gate_config, scale = _decode(config)
    tensors, key_scale = _unpack("RetentiveAttention", state, geometry)
    result = retentive_attention(
        query, key, value, token_meta, tensors, key_scale, geometry=geometry, gate=gate_config, scale=scale
    )
    return _own(result.output, query), result.received, result.surprise, result.visual_entropy


@attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, ...]:
    geometry, _, _ = _decode(config)
    batch, _, steps, _ = query.shape
    columns = query.new_empty((batch, geometry.kv_heads, geometry.rows + steps), dtype=torch.float32)
    entropy = query.new_empty((batch, geometry.kv_heads), dtype=torch.float32)
    return torch.empty_like(query), columns, torch.empty_like(columns), entropy


@torch.library.custom_op("retentivekv::gate", mutates_args=())
def gate(
    received: Tensor, surprise: Tensor, visual_entropy: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """EntropyGate."""
    geometry, gate_config, _ = _decode(config)
    tensors, _ = _unpack("EntropyGate", state, geometry)
    result = AttentionResult(received, received, surprise, visual_entropy)  # the gate does not read the output
    decision = entropy_gate(result, token_meta, tensors, None, geometry=geometry, gate=gate_config)
    return tuple(x.clone() for x in decision)  # type: ignore[return-value]


@gate.register_fake
def _(
    received: Tensor, surprise: Tensor, visual_entropy: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, ...]:
    geometry, _, _ = _decode(config)
    batch, steps = token_meta.shape[:2]
    lead = (batch, geometry.kv_heads)
    columns = received.new_empty((*lead, geometry.local_rows + steps))
    return (
        received.new_empty((*lead, len(geometry.tiers), steps), dtype=torch.int64),
        columns,
        torch.empty_like(columns),
        received.new_empty((*lead, steps)),
        received.new_empty(lead),
    )


@torch.library.custom_op("retentivekv::transition", mutates_args=())
def transition(
    victims: Tensor,
    importance_next: Tensor,
    entropy_next: Tensor,
    absorption: Tensor,
    retention: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Sequence[Tensor],
    config: str,
) -> list[Tensor]:
    """StateTransition: every state tensor of the layer after the step, in the order of `CacheGeometry.state()`."""
    geometry, _, _ = _decode(config)
    tensors, key_scale = _unpack("StateTransition", state, geometry)
    decision = GateDecision(victims, importance_next, entropy_next, absorption, retention)
    after = state_transition(decision, key, value, token_meta, tensors, key_scale, geometry=geometry)
    return [_own(x, *state, importance_next, entropy_next) for x in after.values()]


@transition.register_fake
def _(
    victims: Tensor,
    importance_next: Tensor,
    entropy_next: Tensor,
    absorption: Tensor,
    retention: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Sequence[Tensor],
    config: str,
) -> list[Tensor]:
    geometry, _, _ = _decode(config)
    return [key.new_empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype]) for spec in geometry.state()]


@torch.library.custom_op("retentivekv::step_", mutates_args=("state",))
def step_(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Sequence[Tensor],
    key_scale: Tensor | None,
    config: str,
) -> Tensor:
    """A layer's whole step in place: `state`, all tensors of `CacheGeometry.state()` in order, is the state after it.

    Returns the output [B, Hq, T, D].
    """
    geometry, gate_config, scale = _decode(config)
    before = {spec.name: tensor for spec, tensor in zip(geometry.state(), state, strict=True)}
    output, after = reference_step(
        query, key, value, token_meta, before, key_scale, geometry=geometry, gate=gate_config, scale=scale
    )
    for name, tensor in before.items():
        tensor.copy_(after[name])
    return _own(output, query)


@step_.register_fake
def _(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Sequence[Tensor],
    key_scale: Tensor | None,
    config: str,
) -> Tensor:
    return query.new_empty(query.shape)


def layer_step(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Mapping[str, Tensor],
    key_scale: Tensor | None = None,
    *,
    geometry: CacheGeometry,
    gate: GateConfig,
    scale: float,
    score: Callable[[RowStatistics], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`cache.step.layer_step` as three operator calls; a policy's own `score` has no operator and is refused."""
    _refuse(score)
    config = _encode(geometry, gate, scale)
    ops = torch.ops.retentivekv
    output, *statistics = ops.attention(
        query, key, value, token_meta, _pack("RetentiveAttention", state, key_scale, geometry), config
    )
    decision = ops.gate(*statistics, token_meta, _pack("EntropyGate", state, None, geometry), config)
    rest = _pack("StateTransition", state, key_scale, geometry)
    after = ops.transition(*decision, key, value, token_meta, rest, config)
    return output, {spec.name: tensor for spec, tensor in zip(geometry.state(), after, strict=True)}


def step_in_place(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: dict[str, Tensor],
    key_scale: Tensor | None = None,
    *,
    geometry: CacheGeometry,
    gate: GateConfig,
    scale: float,
    score: Callable[[RowStatistics], Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`cache.step.layer_step` that overwrites the tensors of `state` and returns the same dict: addresses stay."""
    _refuse(score)
    tensors = [state[spec.name] for spec in geometry.state()]
    output = torch.ops.retentivekv.step_(
        query, key, value, token_meta, tensors, key_scale, _encode(geometry, gate, scale)
    )
    return output, state


def _refuse(score: object) -> None:
    if score is not None:
        raise ValueError("score is set: only the scores of GateConfig have an operator; use cache.step.layer_step")


def _pack(op: str, state: Mapping[str, Tensor], key_scale: Tensor | None, geometry: CacheGeometry) -> list[Tensor]:
    scale = [] if key_scale is None else [key_scale]
    return scale + [state[name] for name in OPS[op].state_inputs(geometry)]


def _unpack(op: str, tensors: Sequence[Tensor], geometry: CacheGeometry) -> tuple[dict[str, Tensor], Tensor | None]:
    contract = OPS[op]
    names = contract.input_names(geometry)[len(contract.inputs) :]
    named = dict(zip(names, tensors, strict=True))
    return named, named.pop("key_scale", None)


def _own(x: Tensor, *inputs: Tensor) -> Tensor:
    """A custom operator must not return one of its inputs or a view of one."""
    storages = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    return x.clone() if x.untyped_storage().data_ptr() in storages else x
