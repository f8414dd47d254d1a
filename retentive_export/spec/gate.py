"""Constants of the method that a recipe sets: the entropy gate and the state transition.

The paper (arXiv 2605.04075) gives no values for lambda, the gates or the window; the defaults here are ours.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from retentive_export.errors import RecipeError

__all__ = ["GateConfig", "SigmoidGate"]

Score = Literal["retention", "recency", "coverage"]


@dataclass(frozen=True, kw_only=True)
class SigmoidGate:
    """`sigmoid(weight * x + bias)` when enabled, else exactly 1."""

    enabled: bool = False
    weight: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        for name in ("weight", "bias"):
            if not math.isfinite(getattr(self, name)):
                raise RecipeError(f"a gate's {name} is {getattr(self, name)}, and must be finite")


@dataclass(frozen=True, kw_only=True)
class GateConfig:
    """Constants of one layer's step.

    Attributes:
        lambda_: weight of accumulated attention (alpha) against visual entropy (H) in the retention score.
        score: "retention" is the entropy gate's score; "recency" keeps the newest rows and "coverage"
            an even sample of all; neither reads statistics.
        importance_decay, importance_gain: per query, `alpha <- decay * alpha + gain * p`.
        entropy_decay, entropy_gain: the same for the entropy terms.
        retention: h, from the normalised visual entropy of the step's attention; how much memory is kept.
        absorption: a_i, from a victim's relative accumulated attention; how much of it is taken in.
        readout: gamma of the residual readout, from the query's normalised visual entropy.
        beta: added to the log-mass of a memory row when it is read.
    """

    lambda_: float = 0.5
    score: Score = "retention"
    importance_decay: float = 0.98
    importance_gain: float = 0.02
    entropy_decay: float = 0.98
    entropy_gain: float = 0.02
    retention: SigmoidGate = field(default_factory=SigmoidGate)
    absorption: SigmoidGate = field(default_factory=SigmoidGate)
    readout: SigmoidGate = field(default_factory=SigmoidGate)
    beta: float = 0.0

    def __post_init__(self) -> None:
        for name in ("lambda_", "importance_decay", "entropy_decay"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise RecipeError(f"gate.{name.rstrip('_')} is {getattr(self, name)}, and must be between 0 and 1")
        for name in ("importance_gain", "entropy_gain"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise RecipeError(f"gate.{name} is {getattr(self, name)}, and must be finite and not negative")
        if not math.isfinite(self.beta):
            raise RecipeError(f"gate.beta is {self.beta}, and must be finite")
