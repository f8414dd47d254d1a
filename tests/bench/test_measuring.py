"""The harness on arms that take a known time, or fail where they are told to."""

from __future__ import annotations

import sys
from typing import Any

from retentive_export.bench import ArmResult, BenchSettings, Group
from retentive_export.bench.plan import ArmPlan
from retentive_export.bench.run import measure_group, with_floors

SETTINGS = BenchSettings(contexts=(32, 64), threads=(1,), rounds=3, tokens=3, warm_up=1)
IDS = list(range(64))


def fake(name: str, *, ours: bool = True, limit: int | None = None, state: int | None = None, **spec: Any) -> ArmPlan:
    return ArmPlan(
        name=name,
        spec={"kind": "fake", **spec},
        python=sys.executable,
        ours=ours,
        limit=limit,
        weights_bytes=1_000_000,
        state_bytes=state,
        kv_bytes_per_token=None if state is not None else 10_000,
    )


def measured(*plans: ArmPlan, settings: BenchSettings = SETTINGS) -> dict[str, ArmResult]:
    arms, absent = measure_group(plans, IDS, settings, {})
    return {arm.name: arm for arm in arms} | {one.name: one for one in absent}  # type: ignore[return-value]


def test_times_floor_and_prefill_of_two_arms() -> None:
    arms = measured(fake("quick", state=50_000, step_ms=2.0), fake("slow", step_ms=40.0, feed_ms_per_token=2.0))
    quick, slow = arms["quick"].at(64, 1), arms["slow"].at(64, 1)
    assert quick is not None
    assert slow is not None
    assert quick.milliseconds.p10 >= 2.0
    assert slow.milliseconds.p10 >= 40.0
    assert slow.milliseconds.median > 2 * quick.milliseconds.median
    assert quick.milliseconds.count == 9
    assert len(quick.rounds) == 3
    # 64 tokens, of which 24 were decoded
    assert (slow.first_token_seconds or 0) >= 0.08
    assert (quick.first_token_seconds or 0) < (slow.first_token_seconds or 0)
    assert (quick.moved_bytes, slow.moved_bytes) == (1_050_000, 1_640_000)
    assert quick.peak_bytes > 5_000_000
    assert (arms["quick"].bounded, arms["slow"].bounded) == (True, False)


def test_contexts_beyond_an_arm_are_left_out() -> None:
    arms = measured(fake("endless", state=1), fake("ends", limit=40))
    assert [p.context for p in arms["endless"].points] == [32, 64]
    assert [p.context for p in arms["ends"].points] == [32]


def test_other_numbers_of_threads_are_measured_at_the_headline() -> None:
    """By default the last context that all arms reach."""
    settings = BenchSettings(contexts=(32, 64), threads=(2, 1), rounds=2, tokens=2, warm_up=0)
    arms = measured(fake("endless", state=1), fake("ends", limit=40), settings=settings)
    assert [(p.context, p.threads) for p in arms["endless"].points] == [(32, 2), (32, 1), (64, 2)]
    one = arms["endless"].at(32, 1)
    assert one is not None
    assert one.first_token_seconds is None


def test_an_arm_that_fails_stops_and_the_others_go_on() -> None:
    arms = measured(fake("breaks", fails_at=40), fake("holds", state=1))
    assert [p.context for p in arms["breaks"].points] == [32]
    assert arms["breaks"].stopped is not None
    assert "ValueError: the fake arm was told to fail" in arms["breaks"].stopped
    assert [p.context for p in arms["holds"].points] == [32, 64]


def test_a_process_that_dies_is_one_arms_end() -> None:
    arms = measured(fake("dies", die_at=40), fake("holds", state=1))
    assert "SIGSEGV" in (arms["dies"].stopped or "")
    assert [p.context for p in arms["holds"].points] == [32, 64]


def test_a_peer_that_dies_on_its_first_tokens_is_tried_in_its_safe_form() -> None:
    (arm,) = measured(fake("peer", ours=False, die_at=10)).values()
    assert "killed by SIGSEGV" in (arm.note or "")
    assert [p.context for p in arm.points] == [32, 64]


def test_an_arm_that_does_not_open_is_absent_with_its_reason() -> None:
    (one,) = measured(fake("gone", kind="no such kind")).values()
    assert "KeyError" in one.reason  # type: ignore[attr-defined]


def test_an_interpreter_that_is_none_is_absent_too() -> None:
    plan = ArmPlan(**{**fake("gone").__dict__, "python": "/nowhere/python"})
    (one,) = measured(plan).values()
    assert "/nowhere/python" in one.reason  # type: ignore[attr-defined]


def test_the_floor_is_that_of_the_best_copy() -> None:
    """A copy that another process slowed down counts for nothing."""
    arms, _ = measure_group([fake("quick", state=50_000), fake("odd", limit=40)], IDS, SETTINGS, {})
    group = with_floors(Group(model="m", weights="float32", arms=arms, absent=()), {1: [5e8, 1e9, 2e8]})
    floors = [point.floor_ms for arm in group.arms for point in arm.points]
    assert floors == [1.05, 1.05, 1.32]
