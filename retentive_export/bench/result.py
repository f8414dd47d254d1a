"""What a measurement yields: plain numbers with their units, and what follows from them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Absent", "ArmResult", "BenchReport", "Comparison", "Group", "Point", "Spread"]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median, 10th and 90th percentile of repeated values, in their unit."""

    median: float
    p10: float
    p90: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value; percentiles are values that occurred."""
        ordered = sorted(values)
        last = len(ordered) - 1
        return cls(
            median=statistics.median(ordered),
            p10=ordered[round(0.1 * last)],
            p90=ordered[round(0.9 * last)],
            count=len(ordered),
        )


@dataclass(frozen=True, kw_only=True)
class Point:
    """One arm at one context length with one number of threads.

    context: tokens held when the last measured token was in. milliseconds: per decoded token. rounds: median of every
    round, in the order of the rounds, which all arms ran in turn. first_token_seconds: what prefilling the context
    took, the logits of its last token included; None where it was not measured with this number of threads.
    peak_bytes: largest resident set of the arm's process up to here. moved_bytes: of weights and cache that a token
    reads; floor_ms: that over the copy bandwidth measured with the same number of threads.
    """

    context: int
    threads: int
    milliseconds: Spread
    rounds: tuple[float, ...]
    first_token_seconds: float | None
    peak_bytes: int
    moved_bytes: int | None
    floor_ms: float | None

    @property
    def tokens_per_second(self) -> float:
        """Of decode, from the median."""
        return 1e3 / self.milliseconds.median

    @property
    def of_floor(self) -> float | None:
        """How many times the floor a token takes."""
        return None if self.floor_ms is None else self.milliseconds.median / self.floor_ms


@dataclass(frozen=True, kw_only=True)
class ArmResult:
    """An arm that ran. ours: an artifact of this package; bounded: its cache does not grow. stopped: why it ended
    early, or None."""

    name: str
    kind: str
    ours: bool
    bounded: bool
    facts: dict[str, Any]
    points: tuple[Point, ...]
    note: str | None = None
    stopped: str | None = None

    def at(self, context: int, threads: int) -> Point | None:
        """The point of a context and a number of threads."""
        return next((p for p in self.points if (p.context, p.threads) == (context, threads)), None)


@dataclass(frozen=True, kw_only=True)
class Absent:
    """An arm that did not run, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How many times as long `slower` takes per token as `faster`, round by round: both ran in the same minute."""

    faster: str
    slower: str
    context: int
    threads: int
    ratio: Spread


@dataclass(frozen=True, kw_only=True)
class Group:
    """Arms of one model in one weight format, measured in turn."""

    model: str
    weights: str
    arms: tuple[ArmResult, ...]
    absent: tuple[Absent, ...]

    def comparisons(self) -> tuple[Comparison, ...]:
        """Every bounded arm of ours against every full cache, at the largest context that both reached."""
        found = []
        for ours in (arm for arm in self.arms if arm.bounded):
            for other in (arm for arm in self.arms if not arm.bounded):
                for threads in sorted({point.threads for point in ours.points}):
                    if (compared := _compare(ours, other, threads)) is not None:
                        found.append(compared)
        return tuple(found)


def _compare(ours: ArmResult, other: ArmResult, threads: int) -> Comparison | None:
    shared = [p.context for p in other.points if p.threads == threads and ours.at(p.context, threads) is not None]
    if not shared:
        return None
    context = max(shared)
    fast, slow = ours.at(context, threads), other.at(context, threads)
    assert fast is not None
    assert slow is not None
    ratios = [b / a for a, b in zip(fast.rounds, slow.rounds, strict=False)]
    return Comparison(faster=ours.name, slower=other.name, context=context, threads=threads, ratio=Spread.of(ratios))


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """A whole run. copy_bandwidth: threads -> bytes per second, the best over the run. seconds: of all of it."""

    groups: tuple[Group, ...]
    machine: dict[str, Any]
    settings: dict[str, Any]
    copy_bandwidth: dict[int, float]
    seconds: float
    notes: tuple[str, ...] = field(default=())


def flatness(arm: ArmResult, threads: int, smallest: int = 1024) -> float | None:
    """Largest over smallest median time per token from `smallest` tokens of context on; None with fewer than two."""
    medians = [p.milliseconds.median for p in arm.points if p.threads == threads and p.context >= smallest]
    return max(medians) / min(medians) if len(medians) > 1 else None
