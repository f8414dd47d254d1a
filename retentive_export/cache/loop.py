"""The decode loop's view of all layers: what a model's attention calls in place of its own cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.step import empty_state, layer_step
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["CacheLoop"]


class CacheLoop:
    """State of every layer, and the step that each layer's attention makes on it.

    Args:
        geometry, gate: one for all layers.
        layers: number of attention layers.
        key_scales: one [Hkv, D] float32 tensor per layer, needed with coarse rows.
        bases: one per layer, needed with latent rows.
        score: a policy's score; None for the entropy gate's own.
        step: `cache.step.layer_step` (reference) or `ops.torch_ops.layer_step` (one operator node per call, for
            tracing).

    Call `reset` or `load` before the first pass, and set `token_meta` ([B, T, 2] int32) before each one.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        gate: GateConfig,
        layers: int,
        *,
        key_scales: Sequence[Tensor] | None = None,
        bases: Sequence[LatentBasis] | None = None,
        score: Callable[[RowStatistics], Tensor] | None = None,
        step: Callable[..., tuple[Tensor, dict[str, Tensor]]] = layer_step,
        device: torch.device | str = "cpu",
    ) -> None:
        self.geometry, self.gate, self.score, self.step = geometry, gate, score, step
        self.key_scales, self.bases = key_scales, bases
        self.device = device
        self.layers = layers
        self.token_meta: Tensor | None = None
        self.state: list[dict[str, Tensor]] = []

    def reset(self) -> None:
        """Forget everything."""
        self.state = [empty_state(self.geometry, self.device) for _ in range(self.layers)]

    def flat(self) -> list[Tensor]:
        """All state tensors, layer by layer, each in the order of `geometry.state()`."""
        return [layer[spec.name] for layer in self.state for spec in self.geometry.state()]

    def load(self, tensors: Sequence[Tensor]) -> None:
        """Inverse of `flat`."""
        names = [spec.name for spec in self.geometry.state()]
        width = len(names)
        self.state = [dict(zip(names, tensors[i * width : (i + 1) * width], strict=True)) for i in range(self.layers)]

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """One layer's step: query [B, Hq, T, D], key and value [B, Hkv, T, D] after RoPE -> output [B, Hq, T, D]."""
        if self.token_meta is None:
            raise RuntimeError("token_meta is not set: it must hold (position, cell) of the step's tokens")
        extra: dict[str, Any] = {} if self.score is None else {"score": self.score}
        if self.bases is not None:
            extra["basis"] = self.bases[layer_index]
        output, self.state[layer_index] = self.step(
            query,
            key,
            value,
            self.token_meta,
            self.state[layer_index],
            None if self.key_scales is None else self.key_scales[layer_index],
            geometry=self.geometry,
            gate=self.gate,
            scale=scale,
            **extra,
        )
        return output
