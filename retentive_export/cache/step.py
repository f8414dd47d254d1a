"""One layer's step in plain PyTorch: attention, entropy gate, state transition. The specification of the method."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from retentive_export.cache.attention import retentive_attention
from retentive_export.cache.gate import RowStatistics, entropy_gate
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.transition import state_transition
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["TORCH_DTYPES", "empty_state", "layer_step"]

TORCH_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "uint8": torch.uint8,
    "int32": torch.int32,
    "int64": torch.int64,
}


def empty_state(geometry: CacheGeometry, device: torch.device | str = "cpu") -> dict[str, Tensor]:
    """One layer's state after `reset`."""
    return {
        spec.name: torch.full(spec.shape, spec.fill, dtype=TORCH_DTYPES[spec.dtype], device=device)
        for spec in geometry.state()
    }


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
    """Output [B, Hq, T, D] and the state after the step; arguments as in the three functions it calls."""
    attention = retentive_attention(
        query, key, value, token_meta, state, key_scale, geometry=geometry, gate=gate, scale=scale, basis=basis
    )
    decision = entropy_gate(attention, token_meta, state, key_scale, geometry=geometry, gate=gate, score=score)
    after = state_transition(decision, key, value, token_meta, state, key_scale, geometry=geometry, basis=basis)
    return attention.output, after
