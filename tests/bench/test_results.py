"""What follows from measured numbers."""

from __future__ import annotations

import pytest

from retentive_export.bench import ArmResult, BenchSettings, Group, Point, Spread, flatness
from retentive_export.errors import InputError


def arm(name: str, *, bounded: bool, **rounds: list[float]) -> ArmResult:
    """rounds: c<context>=median of every round, one thread."""
    points = tuple(
        Point(
            context=int(context[1:]),
            threads=1,
            milliseconds=Spread.of(medians),
            rounds=tuple(medians),
            first_token_seconds=None,
            peak_bytes=1,
            moved_bytes=200,
            floor_ms=2.0,
        )
        for context, medians in rounds.items()
    )
    return ArmResult(name=name, kind="fake", ours=True, bounded=bounded, facts={}, points=points)


def test_percentiles_are_values_that_occurred() -> None:
    spread = Spread.of([float(n) for n in range(20, -1, -1)])
    assert (spread.median, spread.p10, spread.p90, spread.count) == (10.0, 2.0, 18.0, 21)


def test_a_comparison_pairs_the_rounds() -> None:
    """Noise that hits both arms of a round leaves their ratio alone."""
    ours = arm("ours", bounded=True, c1024=[1.0, 5.0, 2.0], c4096=[9.0, 9.0, 9.0])
    full = arm("full", bounded=False, c512=[1.0, 1.0, 1.0], c1024=[2.0, 10.0, 4.0])
    (compared,) = Group(model="m", weights="float32", arms=(ours, full), absent=()).comparisons()
    assert (compared.context, compared.faster, compared.slower) == (1024, "ours", "full")
    assert (compared.ratio.p10, compared.ratio.median, compared.ratio.p90) == (2.0, 2.0, 2.0)


def test_flatness_leaves_short_contexts_out() -> None:
    ours = arm("ours", bounded=True, c512=[100.0], c1024=[10.0], c2048=[10.5], c32768=[10.2])
    assert flatness(ours, 1) == pytest.approx(1.05)
    assert flatness(arm("short", bounded=True, c512=[1.0], c1024=[1.0]), 1) is None


def test_tokens_per_second_and_the_share_of_the_floor() -> None:
    (point,) = arm("ours", bounded=True, c512=[8.0]).points
    assert (point.tokens_per_second, point.of_floor) == (125.0, 4.0)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"contexts": ()}, "contexts is"),
        ({"contexts": (1024, 512)}, "must ascend"),
        ({"contexts": (512,), "headline": 1024}, "headline is 1024"),
        ({"contexts": (16,), "rounds": 4, "tokens": 4}, "20 tokens are decoded in between"),
        ({"rounds": 0}, "rounds is 0"),
        ({"threads": (0,)}, "threads is"),
    ],
)
def test_settings_that_cannot_be_measured_are_refused(settings: dict, says: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(InputError, match=says):
        BenchSettings(**settings)
