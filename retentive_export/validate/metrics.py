"""Distances between two vectors of next-token logits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from retentive_export.errors import NumericalError
from retentive_export.spec.arrays import Array

__all__ = ["StepReport", "compare_logits"]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step's logits against the reference's.

    tokens: fed in the step. max_abs: largest absolute difference. logit_error: that over the reference's range. cosine,
    norm_ratio: of the two vectors, each less its mean, for a constant added to all logits means nothing. kl: of the
    next-token distributions, reference to ours, in nats. agrees: the same greedy token.
    """

    tokens: int
    max_abs: float
    logit_error: float
    cosine: float
    norm_ratio: float
    kl: float
    agrees: bool


def compare_logits(logits: Array, reference: Array, *, tokens: int, index: int) -> StepReport:
    """Compare two vectors [vocab] of step `index`, which fed `tokens` tokens.

    Raises:
        NumericalError: one of them holds NaN or infinity.
    """
    for side, values in (("the logits", logits), ("the reference's logits", reference)):
        if not np.isfinite(values).all():
            raise NumericalError(f"{side} of step {index} hold NaN or infinity")
    ours, theirs = logits.astype(np.float64), reference.astype(np.float64)
    a, b = ours - ours.mean(), theirs - theirs.mean()
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b)) or 1.0
    log_ours, log_theirs = _log_softmax(ours), _log_softmax(theirs)
    max_abs = float(np.abs(ours - theirs).max())
    return StepReport(
        tokens=tokens,
        max_abs=max_abs,
        logit_error=max_abs / (float(np.ptp(theirs)) or 1.0),
        cosine=float(a @ b) / ((norms[0] or 1.0) * norms[1]),
        norm_ratio=norms[0] / norms[1],
        kl=max(0.0, float((np.exp(log_theirs) * (log_theirs - log_ours)).sum())),
        agrees=int(ours.argmax()) == int(theirs.argmax()),
    )


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
