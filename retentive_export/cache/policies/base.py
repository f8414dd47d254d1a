"""The interface of eviction policies: a policy is a score, everything else is here and in the gate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.rows import dequantize
from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry, Readout
from retentive_export.spec.policies import PolicySpec, policy_spec

__all__ = ["Policy", "local_keys", "local_values"]


class Policy(ABC):
    """Which local rows leave first.

    A subclass sets `name` and writes `score`; protection of sinks and window, empty rows, the choice of victims in
    every tier and what becomes of them are the same for all (`entropy_gate`, `state_transition`). The other class
    attributes come from the torch-free table `retentive_export.spec.policies.POLICIES`:

        exportable: whether the EntropyGate op expresses the policy, which then differs only in its constants.
        track_importance, track_entropy: statistics that must be part of the state.
        readout: the readout that the policy requires, or None.

    Args:
        base: the recipe's constants; `constants` is what the policy makes of them.
    """

    name: ClassVar[str]
    spec: ClassVar[PolicySpec]
    exportable: ClassVar[bool]
    track_importance: ClassVar[bool]
    track_entropy: ClassVar[bool]
    readout: ClassVar[Readout | None]

    def __init_subclass__(cls) -> None:
        cls.spec = policy_spec(cls.name)
        cls.exportable = cls.spec.exportable
        cls.track_importance, cls.track_entropy = cls.spec.track_importance, cls.spec.track_entropy
        cls.readout = cls.spec.readout

    def __init__(self, base: GateConfig | None = None) -> None:
        self.constants = self.gate(base or GateConfig())

    @abstractmethod
    def score(self, statistics: RowStatistics) -> Tensor:
        """Scores [B, Hkv, C] float32 of the local rows: higher stays, the lower row index leaves first on a tie.

        Values at empty rows, sinks and the window are ignored; NaN counts as 0.
        """

    def gate(self, base: GateConfig) -> GateConfig:
        """`base` with the constants that this policy needs."""
        return self.spec.gate(base)

    def geometry(self, base: CacheGeometry) -> CacheGeometry:
        """`base` with the statistics and the readout that this policy needs.

        Raises:
            RecipeError: the required readout does not go with the memory rows of `base`.
        """
        return replace(base, **self.spec.geometry_flags)


def local_keys(statistics: RowStatistics) -> Tensor:
    """Keys of the local rows as they are read, [B, Hkv, C, D] float32."""
    return _local(statistics, "key")


def local_values(statistics: RowStatistics) -> Tensor:
    """Values of the local rows as they are read, [B, Hkv, C, D] float32."""
    return _local(statistics, "value")


def _local(statistics: RowStatistics, kind: str) -> Tensor:
    state: Mapping[str, Tensor] = statistics.state
    geometry = statistics.geometry
    if geometry.latent_rows:
        raise RecipeError(f"the policy's score reads each head's {kind}s, and latent rows are shared by all heads")
    parts: list[Tensor] = []
    if exact := geometry.exact_rows:
        parts.append(state[f"{kind}_rows"][:, :, :exact].float())
    if coarse := geometry.coarse_rows:
        assert statistics.key_scale is not None
        key_scale, value_scale = statistics.key_scale[:, None, :], state["value_scale"][:, :, :coarse].unsqueeze(-1)
        scale = key_scale if kind == "key" else value_scale
        parts.append(dequantize(state[f"{kind}_codes"][:, :, :coarse], scale))
    return torch.cat(parts, dim=2)
