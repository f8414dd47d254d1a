"""Constants are fitted along a whole session, from samples that are run once."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from retentive_export.export import along
from retentive_export.export.along import SHIFTS, Along, shifted, turns_along
from retentive_export.export.key_scales import LargestKeys, calibrate_key_scales
from retentive_export.export.latents import fit_spectrum
from retentive_export.job import Job
from tests.export.test_latents import job_of


def keys_at(job: Job, positions: int) -> list[torch.Tensor]:
    """Of all layers, with a sample that begins at `positions`."""
    run = shifted(job.run(job.samples[0]), positions)
    return along._observe(job.bare_graph(), [run], along._Keys(), [None]).rows


@pytest.mark.parametrize("context", [256, 8192])
def test_a_turn_is_what_rope_does_to_a_later_key(text_model: Path, context: int) -> None:
    """Orthogonal, and the keys of a run that begins later are those of the start, turned: in all layers."""
    job = job_of(text_model)
    turns = turns_along(job.bare_graph(), [job.run(job.samples[0])], context)
    assert turns is not None
    assert torch.allclose(turns[0], torch.eye(len(turns[0])), atol=1e-6)
    start = keys_at(job, 0)
    for part, turn in zip(SHIFTS, turns, strict=True):
        assert torch.allclose(turn @ turn.T, torch.eye(len(turn)), atol=5e-3)
        for before, after in zip(start, keys_at(job, round(part * context)), strict=True):
            assert float((before @ turn.double() - after).norm() / after.norm()) < 1e-3
    assert float((turns[1] - turns[0]).norm()) > 1


def test_turned_once_is_as_good_as_run_at_every_position(text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Key scales and components from turns, and from passes at every position."""
    job = job_of(text_model)
    graph, runs = job.bare_graph(), [job.run(sample) for sample in job.samples[:2]]
    turned = calibrate_key_scales(graph, runs, 127, 256), fit_spectrum(job.adapter, graph, runs, 256)
    monkeypatch.setattr(along, "turns_along", lambda *_: None)
    passed = calibrate_key_scales(graph, runs, 127, 256), fit_spectrum(job.adapter, graph, runs, 256)
    for one, other in zip(turned[0], passed[0], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=0)
    for (_, one), (_, other) in zip(turned[1].reach, passed[1].reach, strict=True):
        torch.testing.assert_close(one[:8], other[:8], rtol=1e-3, atol=0)


def test_samples_are_run_at_every_position_where_turns_do_not_do(
    text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few tokens to measure on, and a RoPE that turns keys otherwise than measured."""
    job = job_of(text_model)
    graph, run = job.bare_graph(), job.run(job.samples[0])
    assert turns_along(graph, [run], 256) is not None
    monkeypatch.setattr(along, "TOLERANCE", 0.0)
    monkeypatch.setattr(along, "RIDGE", 10.0)  # a turn that is wrong
    assert turns_along(graph, [run], 256) is None
    monkeypatch.undo()
    monkeypatch.setattr(along, "ENOUGH", 10**6)
    assert turns_along(graph, [run], 256) is None
    assert Along(graph, [run], 256).observe(LargestKeys()).largest.keys() == set(range(graph.layers))


def test_a_run_is_shifted_and_its_tokens_are_not(text_model: Path) -> None:
    job = job_of(text_model)
    run = job.run(job.samples[0])
    moved = shifted(run, 100)
    assert (moved[0].position_ids == run[0].position_ids + 100).all()
    assert (moved[0].token_meta == run[0].token_meta).all()


def test_key_scales_hold_where_a_dialogue_may_stand(text_model: Path) -> None:
    """RoPE turns keys as a run goes on: scales cover samples seen late in the context, not only from position 0."""
    job = job_of(text_model)
    graph, run = job.bare_graph(), job.run(job.samples[0])
    early, late = (calibrate_key_scales(graph, [run], 127, context) for context in (1, 256))
    beyond = along._observe(graph, [shifted(run, 128)], LargestKeys(), [None]).largest
    over = [max(float((beyond[i] / (127 * s)).max()) for i, s in enumerate(scales)) for scales in (early, late)]
    assert over[1] <= 1.001 / 1.1  # turned keys are known to float32's angles
    assert over[0] > 1
    for four, eight in zip(calibrate_key_scales(graph, [run], 7, 256), late, strict=True):
        ranges = 7 * four / (127 * eight / 1.1)
        # the largest keys may be cut off, and never half of the range
        assert ((ranges > 0.29) & (ranges < 1.001)).all()
