"""The eviction policies by name: what each one keeps track of, and which constants of the gate it fixes.

Torch-free, so that a recipe, a planner and a device can read it; the scores are in `retentive_export.cache.policies`,
which takes every constant from here. An exportable policy is one that the EntropyGate op expresses: a `GateConfig` is
all there is to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import Readout

__all__ = ["POLICIES", "SNAPKV_OBSERVATION", "PolicySpec", "policy_spec"]

SNAPKV_OBSERVATION = 32


@dataclass(frozen=True, kw_only=True)
class PolicySpec:
    """One policy, as far as it can be said without torch.

    Attributes:
        name: as recipes spell it.
        summary: one line for listings.
        exportable: whether the EntropyGate op expresses it; the others run in the PyTorch reference only.
        track_importance, track_entropy: which statistics per row it needs.
        readout: the readout that it requires, None when any will do.
        constants: the fields of `GateConfig` that it fixes; all others are the recipe's.
    """

    name: str
    summary: str
    exportable: bool
    track_importance: bool
    track_entropy: bool
    readout: Readout | None = None
    constants: Mapping[str, Any] = field(default_factory=dict)

    def gate(self, base: GateConfig) -> GateConfig:
        """The recipe's gate `base` with this policy's constants in it."""
        return replace(base, **self.constants)

    @property
    def geometry_flags(self) -> dict[str, Any]:
        """The fields of `CacheGeometry` that this policy sets, as keyword arguments."""
        flags: dict[str, Any] = {"track_importance": self.track_importance, "track_entropy": self.track_entropy}
        if self.readout is not None:
            flags["readout"] = self.readout
        return flags


def _decayed_attention(decay: float, gain: float) -> dict[str, Any]:
    """Constants of a score that is one decayed sum of the attention received."""
    return {"score": "retention", "lambda_": 1.0, "importance_decay": decay, "importance_gain": gain}


# The absorption gate reads the importance: without it, every victim is absorbed whole.
_RECENCY: dict[str, Any] = {"score": "recency", "absorption": SigmoidGate()}
_COVERAGE: dict[str, Any] = {"score": "coverage", "absorption": SigmoidGate()}
_NO_IMPORTANCE: dict[str, Any] = {"absorption": SigmoidGate()}

_ALL = (
    PolicySpec(
        name="retentive",
        summary="entropy gate: accumulated attention and visual entropy",
        exportable=True,
        track_importance=True,
        track_entropy=True,
        constants={"score": "retention"},
    ),
    PolicySpec(
        name="coverage",
        summary="an even sample of every picture and of the text",
        exportable=True,
        track_importance=False,
        track_entropy=False,
        constants=_COVERAGE,
    ),
    PolicySpec(
        name="full",
        summary="no eviction: the session refuses tokens that do not fit",
        exportable=True,
        track_importance=False,
        track_entropy=False,
        constants=_RECENCY,
    ),
    PolicySpec(
        name="streaming_llm",
        summary="attention sinks and a sliding window",
        exportable=True,
        track_importance=False,
        track_entropy=False,
        constants=_RECENCY,
    ),
    PolicySpec(
        name="h2o",
        summary="heavy hitters: largest sum of attention received",
        exportable=True,
        track_importance=True,
        track_entropy=False,
        constants=_decayed_attention(1.0, 1.0),
    ),
    PolicySpec(
        name="tova",
        summary="largest attention from the newest query",
        exportable=True,
        track_importance=True,
        track_entropy=False,
        constants=_decayed_attention(0.0, 1.0),
    ),
    PolicySpec(
        name="snapkv",
        summary="attention over a recent observation window, pooled over neighbours",
        exportable=False,
        track_importance=True,
        track_entropy=False,
        constants=_decayed_attention(1.0 - 1.0 / SNAPKV_OBSERVATION, 1.0 / SNAPKV_OBSERVATION),
    ),
    PolicySpec(
        name="random",
        summary="a uniform sample of all tokens, reproducible",
        exportable=False,
        track_importance=False,
        track_entropy=False,
        constants=_NO_IMPORTANCE,
    ),
    PolicySpec(
        name="key_norm",
        summary="smallest L2 norm of the key",
        exportable=False,
        track_importance=False,
        track_entropy=False,
        constants=_NO_IMPORTANCE,
    ),
    PolicySpec(
        name="keydiff",
        summary="keys least similar to the mean key direction",
        exportable=False,
        track_importance=False,
        track_entropy=False,
        constants=_NO_IMPORTANCE,
    ),
    PolicySpec(
        name="momentkv",
        summary="attention times what the moments of the evicted tokens cannot predict",
        exportable=False,
        track_importance=True,
        track_entropy=False,
        readout="moments",
        constants={"score": "retention", "lambda_": 1.0},
    ),
)

POLICIES: Mapping[str, PolicySpec] = MappingProxyType({spec.name: spec for spec in _ALL})


def policy_spec(name: str) -> PolicySpec:
    """The policy called `name`; RecipeError when there is none, with the names that there are."""
    if name not in POLICIES:
        raise RecipeError(f"policy is {name!r}, and must be one of {', '.join(sorted(POLICIES))}")
    return POLICIES[name]
