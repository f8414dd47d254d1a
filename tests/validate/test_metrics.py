"""Distances of logits: cases worked out by hand, and properties of every vector."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retentive_export.errors import NumericalError
from retentive_export.validate.metrics import StepReport, compare_logits

LOGITS = arrays(np.float32, st.integers(2, 40), elements=st.floats(-50, 50, width=32))


def compared(ours: np.ndarray | list[float], reference: np.ndarray | list[float]) -> StepReport:
    return compare_logits(np.asarray(ours, np.float32), np.asarray(reference, np.float32), tokens=1, index=3)


def test_a_case_by_hand() -> None:
    """p = (1/4, 3/4) against q = (1/2, 1/2): KL(p, q) = 1/4 ln 1/2 + 3/4 ln 3/2."""
    step = compared([0, 0], [0, math.log(3)])
    assert step.kl == pytest.approx(0.25 * math.log(0.5) + 0.75 * math.log(1.5), rel=1e-6)
    assert step.max_abs == pytest.approx(math.log(3), rel=1e-6)
    assert step.logit_error == pytest.approx(1, rel=1e-6)
    assert (step.cosine, step.norm_ratio) == (0, 0)  # ours is constant: nothing is left of it less its mean
    assert not step.agrees
    right_angle = compared([1, -2, 1], [1, 0, -1])
    assert right_angle.cosine == pytest.approx(0, abs=1e-12)
    assert right_angle.norm_ratio == pytest.approx(math.sqrt(3))
    assert right_angle.logit_error == 1.0
    assert right_angle.agrees


@given(LOGITS, st.floats(-20, 20), st.floats(0.25, 4))
def test_what_leaves_the_distribution_alone(logits: np.ndarray, shift: float, factor: float) -> None:
    """Equal vectors differ by nothing; a shift changes only the difference itself; a factor is the norm ratio."""
    same = compared(logits, logits)
    assert (same.max_abs, same.logit_error, same.kl, same.agrees) == (0, 0, 0, True)
    if np.ptp(logits) < 1e-2:
        return
    assert same.cosine == pytest.approx(1)
    shifted = compared(logits + np.float32(shift), logits)
    assert shifted.cosine == pytest.approx(1, abs=1e-5)
    assert shifted.kl == pytest.approx(0, abs=1e-6)
    assert shifted.max_abs == pytest.approx(abs(shift), abs=1e-4)
    scaled = compared(logits * np.float32(factor), logits)
    assert scaled.norm_ratio == pytest.approx(factor, rel=1e-4)
    assert scaled.cosine == pytest.approx(1, abs=1e-6)


@given(LOGITS, st.data())
def test_ranges(logits: np.ndarray, data: st.DataObject) -> None:
    other = data.draw(arrays(np.float32, logits.shape, elements=st.floats(-50, 50, width=32)))
    step = compared(other, logits)
    assert step.kl >= 0
    assert -1 - 1e-9 <= step.cosine <= 1 + 1e-9
    assert step.norm_ratio >= 0
    assert step.max_abs == np.abs(other.astype(float) - logits).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(bad: float) -> None:
    with pytest.raises(NumericalError, match="the logits of step 3 hold NaN or infinity"):
        compared([0, bad], [0, 1])
    with pytest.raises(NumericalError, match="the reference's logits of step 3"):
        compared([0, 1], [bad, 1])
