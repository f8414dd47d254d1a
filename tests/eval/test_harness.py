"""The harness on the reference VLM: a full budget loses nothing, pairs are pairs, and results survive the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retentive_export.errors import InputError, RecipeError
from retentive_export.eval.arms import parse_arm
from retentive_export.eval.engine import Engine
from retentive_export.eval.harness import Column, Settings, evaluate
from retentive_export.eval.planning import CacheSettings
from retentive_export.eval.reference import FullLoop
from retentive_export.eval.result import Evaluation, load_evaluation, save_evaluation
from retentive_export.eval.streams import collate
from retentive_export.eval.tasks import TASKS, task

SIZES = {"turns": 4, "early": 2}


@pytest.fixture(scope="module")
def small() -> Evaluation:
    digits = task("digits", **SIZES)
    columns = [Column(digits, when) for when in digits.moments]
    arms = [parse_arm(name) for name in ("full", "h2o", "oracle")]
    settings = Settings(budgets=(0.2,), dialogues=3, batch=3, watched=1, cache=CacheSettings(dtype="float32"))
    return evaluate(columns, arms, settings)


def test_the_full_cache_equals_the_exact_run_at_every_moment(small: Evaluation) -> None:
    for cell in small.cells:
        if cell.arm == "full":
            assert max(cell.values["kl"]) < 1e-5
            assert min(cell.values["agreement"]) == 1
            assert max(one.p90 for one in cell.layer_error) < 1e-4


def test_every_arm_is_measured_on_the_same_answers(small: Evaluation) -> None:
    for task_name, when, _ in small.groups():
        cells = [cell for cell in small.cells if (cell.task, cell.when) == (task_name, when)]
        assert {(cell.dialogues, cell.units) for cell in cells} == {(3, cells[0].units)}
    units = {cell.when: cell.units for cell in small.cells}
    assert units == {"blind": 3 * 4, "deferred": 3 * 2, "stream": 3 * 4}


def test_less_than_the_full_cache_loses_something(small: Evaluation) -> None:
    for cell in small.cells:
        if cell.arm != "full":
            assert np.mean(cell.values["kl"]) > 1e-3
            assert cell.log_mass is not None
            assert cell.log_mass.mean > 1e-3
            assert cell.state_bytes <= 0.2 * cell.full_bytes


def test_results_survive_the_disk(small: Evaluation, tmp_path: Path) -> None:
    save_evaluation(small, tmp_path / "evaluation.json")
    again = load_evaluation(tmp_path / "evaluation.json")
    assert [cell.column for cell in again.cells] == [cell.column for cell in small.cells]
    assert again.cells[1].interval("kl").value == pytest.approx(small.cells[1].interval("kl").value, rel=1e-4)
    (tmp_path / "evaluation.json").write_text('{"schema": 0, "cells": []}')
    with pytest.raises(InputError, match="schema 0"):
        load_evaluation(tmp_path / "evaluation.json")


def test_padding_between_breaks_changes_nothing(engine: Engine) -> None:
    """A dialogue beside a longer one gives the hidden states that it gives alone."""
    streams = task("digits", **SIZES).streams(engine, 3, seed=3)
    assert len({len(one.input_ids) for one in streams}) > 1
    together = collate(streams, engine.adapter, engine.layout, engine.device)
    for index, one in enumerate(streams):
        alone = collate([one], engine.adapter, engine.layout, engine.device)
        pair = []
        for batch in (together, alone):
            hidden = engine.hidden(batch, slice(0, batch.columns), FullLoop(engine.text.layers))
            row = index if batch is together else 0
            pair.append(hidden[row, batch.predicts[row] >= 0])
        np.testing.assert_allclose(pair[0].numpy(), pair[1].numpy(), atol=2e-4)


def test_streams_of_a_seed_are_the_same_and_held_out(engine: Engine) -> None:
    one, two = (task("digits", **SIZES).streams(engine, count, seed=5) for count in (2, 3))
    for left, right in zip(one, two, strict=False):
        np.testing.assert_array_equal(left.input_ids, right.input_ids)
        np.testing.assert_array_equal(left.pictures[0], right.pictures[0])


def test_several_pictures_take_their_own_rows_and_positions(engine: Engine) -> None:
    (stream,) = task("frames", pictures=3, turns=2).streams(engine, 1, seed=0)
    assert len(stream.pictures) == 3
    visual = stream.visual_rows[stream.visual_rows >= 0]
    np.testing.assert_array_equal(visual, np.arange(3 * 256))
    assert (np.diff(stream.token_meta[:, 0]) == 1).all()
    assert len(stream.breaks) == 1


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda: task("nosuch"), list(TASKS)),
        (lambda: task("digits", pictures=2), ["turns"]),
        (lambda: task("digits", turns=0), ["turns is 0"]),
        (lambda: evaluate([Column(task("text"), "deferred")], [parse_arm("h2o")], Settings()), ["blind", "stream"]),
        (lambda: evaluate([], [parse_arm("h2o")], Settings()), ["nothing to evaluate"]),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(make, names: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        make()
    for name in names:
        assert name in str(caught.value)
