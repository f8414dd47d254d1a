"""Paired bootstrap: exact where it must be, and as wide as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from retentive_export.eval.statistics import mean_interval, paired_difference, paired_ratio, summarise


def test_a_constant_difference_has_no_width_however_much_the_dialogues_differ() -> None:
    values = np.random.default_rng(0).normal(size=200)
    gap = paired_difference(values + 0.25, values)
    assert (gap.value, gap.low, gap.high) == pytest.approx((0.25, 0.25, 0.25))


def test_the_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    values = np.random.default_rng(1).normal(size=400)
    one = mean_interval(values)
    assert one.value == pytest.approx(values.mean())
    assert one.high - one.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.08)


def test_a_ratio_of_proportional_values_is_exact() -> None:
    values = np.random.default_rng(2).uniform(0.5, 1, size=100)
    ratio = paired_ratio(0.9 * values, values)
    assert (ratio.low, ratio.high) == pytest.approx((0.9, 0.9))


def test_values_of_different_dialogues_are_no_pairs() -> None:
    with pytest.raises(ValueError, match="one shape"):
        paired_difference(np.zeros(3), np.zeros(4))


def test_the_summary_holds_the_ninetieth_percentile() -> None:
    one = summarise(np.arange(101.0))
    assert (one.mean, one.median, one.p90) == (50.0, 50.0, 90.0)
