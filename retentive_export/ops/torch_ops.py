"""The operators as torch custom operators, so that a traced model holds one node per operator and layer.

Eager calls run the reference in `cache/`, or the CUDA kernels once `ops.dispatch.enable_cuda` was called; fake calls
(tracing) only compute shapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from retentive_export.cache.attention import AttentionResult, retentive_attention
from retentive_export.cache.gate import GateDecision, RowStatistics, entropy_gate
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.cache.step import layer_step as reference_step
from retentive_export.cache.transition import state_transition
from retentive_export.ops.constants import basis_of, constants_of
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
    """RetentiveAttention; `state` holds the layer's constants and the state tensors of the contract."""
    geometry, gate_config, scale = _decode(config)
    tensors = _unpack("RetentiveAttention", state, geometry)
    result = retentive_attention(
        *(query, key, value, token_meta, tensors, tensors.get("key_scale")),
        geometry=geometry,
        gate=gate_config,
        scale=scale,
        basis=basis_of(tensors, geometry),
    )
    return _own(result.output, query), result.received, result.surprise, result.visual_entropy


@attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, ...]:
    geometry, _, _ = _decode(config)
    batch, _, steps, _ = query.shape
    columns = query.new_empty((batch, geometry.row_heads, geometry.rows + steps), dtype=torch.float32)
    entropy = query.new_empty((batch, geometry.row_heads), dtype=torch.float32)
    return torch.empty_like(query), columns, torch.empty_like(columns), entropy


@torch.library.custom_op("retentivekv::gate", mutates_args=())
def gate(
    received: Tensor, surprise: Tensor, visual_entropy: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """EntropyGate."""
    geometry, gate_config, _ = _decode(config)
    tensors = _unpack("EntropyGate", state, geometry)
    result = AttentionResult(received, received, surprise, visual_entropy)  # the gate does not read the output
    decision = entropy_gate(result, token_meta, tensors, None, geometry=geometry, gate=gate_config)
    return tuple(x.clone() for x in decision)  # type: ignore[return-value]


@gate.register_fake
def _(
    received: Tensor, surprise: Tensor, visual_entropy: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
) -> tuple[Tensor, ...]:
    geometry, _, _ = _decode(config)
    batch, steps = token_meta.shape[:2]
    lead = (batch, geometry.row_heads)
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
    tensors = _unpack("StateTransition", state, geometry)
    decision = GateDecision(victims, importance_next, entropy_next, absorption, retention)
    scale, basis = tensors.get("key_scale"), basis_of(tensors, geometry)
    after = state_transition(decision, key, value, token_meta, tensors, scale, geometry=geometry, basis=basis)
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
    basis: LatentBasis | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`cache.step.layer_step` as three operator calls; a policy's own `score` has no operator and is refused."""
    _refuse(score)
    config = _encode(geometry, gate, scale)
    ops = torch.ops.retentivekv
    named = {**state, **constants_of(key_scale, basis)}
    output, *statistics = ops.attention(
        query, key, value, token_meta, _pack("RetentiveAttention", named, geometry), config
    )
    decision = ops.gate(*statistics, token_meta, _pack("EntropyGate", named, geometry), config)
    rest = _pack("StateTransition", named, geometry)
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
    basis: LatentBasis | None = None,
    operator: Callable[..., Tensor] | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`cache.step.layer_step` that overwrites the tensors of `state` and returns the same dict: addresses stay.

    operator: what is called in place of `step_`, with its arguments.
    """
    _refuse(score)
    tensors = [state[spec.name] for spec in geometry.state()]
    if basis is not None:
        return _step_with_basis(
            query, key, value, token_meta, state, key_scale, geometry=geometry, gate=gate, scale=scale, basis=basis
        )
    call = torch.ops.retentivekv.step_ if operator is None else operator
    return call(query, key, value, token_meta, tensors, key_scale, _encode(geometry, gate, scale)), state


def _refuse(score: object) -> None:
    if score is not None:
        raise ValueError("score is set: only the scores of GateConfig have an operator; use cache.step.layer_step")


def _step_with_basis(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: dict[str, Tensor],
    *rest: Any,
    **constants: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """`step_in_place` with latent rows: the reference's step, which has no kernel of its own yet."""
    output, after = reference_step(query, key, value, token_meta, state, *rest, **constants)
    for name, tensor in state.items():
        tensor.copy_(after[name])
    return output, state


def _pack(op: str, named: Mapping[str, Tensor], geometry: CacheGeometry) -> list[Tensor]:
    contract = OPS[op]
    return [named[name] for name in contract.input_names(geometry)[len(contract.inputs) :]]


def _unpack(op: str, tensors: Sequence[Tensor], geometry: CacheGeometry) -> dict[str, Tensor]:
    contract = OPS[op]
    names = contract.input_names(geometry)[len(contract.inputs) :]
    return dict(zip(names, tensors, strict=True))


def _own(x: Tensor, *inputs: Tensor) -> Tensor:
    """A custom operator must not return one of its inputs or a view of one."""
    storages = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    return x.clone() if x.untyped_storage().data_ptr() in storages else x
