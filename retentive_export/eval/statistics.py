"""Summaries of paired measurements: every arm is measured on the same dialogues, so differences are taken per dialogue
before they are averaged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Interval", "Summary", "mean_interval", "paired_difference", "paired_ratio", "summarise"]

Values = npt.NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap interval (percentiles, 95 %)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Mean, median and 90th percentile over the dialogues."""

    mean: float
    median: float
    p90: float


def summarise(values: Values) -> Summary:
    """Of one value per dialogue."""
    return Summary(float(values.mean()), float(np.median(values)), float(np.quantile(values, 0.9)))


def mean_interval(values: Values, seed: int = 0) -> Interval:
    """The mean, with the interval of its bootstrap over dialogues."""
    return _interval(float(values.mean()), values[_resamples(len(values), seed)].mean(axis=1))


def paired_difference(ours: Values, theirs: Values, seed: int = 0) -> Interval:
    """Mean of ours - theirs over dialogues.

    Raises:
        ValueError: the two were not measured on the same number of dialogues.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"paired values must be of one shape, got {ours.shape} and {theirs.shape}")
    return mean_interval(ours - theirs, seed)


def paired_ratio(ours: Values, theirs: Values, seed: int = 0) -> Interval:
    """Mean of ours over mean of theirs, both resampled together."""
    if ours.shape != theirs.shape:
        raise ValueError(f"paired values must be of one shape, got {ours.shape} and {theirs.shape}")
    index = _resamples(len(ours), seed)
    below = theirs[index].mean(axis=1)
    ratios = ours[index].mean(axis=1) / np.where(below > 0, below, np.nan)
    value = float(ours.mean() / theirs.mean()) if theirs.mean() > 0 else float("nan")
    return _interval(value, ratios)


def _resamples(count: int, seed: int) -> npt.NDArray[np.int64]:
    """[RESAMPLES, count]: the same for every arm, so that pairs stay pairs."""
    return np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))


def _interval(value: float, samples: Values) -> Interval:
    low, high = np.quantile(samples, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))
