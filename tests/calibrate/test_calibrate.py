"""`calibrate`: the split, what is fitted on what, the recipe that comes out, and that a build takes it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from retentive_export.calibrate import Setup, answered, prompted_samples, split
from retentive_export.calibrate import calibrate as fit
from retentive_export.errors import RecipeError
from retentive_export.export.constants import fit_constants
from retentive_export.export.latents import fit_bases
from retentive_export.export.prompts import token_stream
from retentive_export.job import Job
from retentive_export.spec.recipe import parse_recipe
from retentive_export.spec.recipe_files import load_recipe
from retentive_export.spec.targets import target
from tests.cli.calls import call
from tests.conftest import text_recipe

CACHE = {
    "policy": "retentive",
    "readout": "mass",
    "rows": {"dtype": "int8", "latent": {"rank": 12, "front": 10}},
    "memory": {"grid": [0, 0], "recall": 4},
    "budget": {"rows": 40},
}


@pytest.fixture
def dialogues(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    words = ["heat", "pump", "robot", "window", "grid", "sum of both", "picture", "column"]
    lines = [
        {
            "picture": None,
            "dialogue": [{"question": f"Where is the {a} of {b}?", "answer": f"The {a} and the {b}. " * 6}],
        }
        for a, b in zip(words, reversed(words), strict=True)
    ]
    (folder / "dialogues.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_the_split_is_a_partition_that_depends_on_the_seed_alone() -> None:
    items = list(range(10))
    fitting, judging = split(items, 0.3, seed=1)
    assert sorted(fitting + judging) == items
    assert len(judging) == 3
    assert split(items, 0.3, seed=1) == (fitting, judging)
    assert any(split(items, 0.3, seed=s)[1] != judging for s in range(2, 6))
    assert [len(part) for part in split([1, 2], 0.01, seed=0)] == [1, 1]
    assert [len(part) for part in split([1, 2, 3], 0.99, seed=0)] == [1, 2]
    with pytest.raises(RecipeError, match="there is 1 dialogue, and calibration needs two"):
        split([1], 0.25, seed=0)


def test_held_out_dialogues_decide_nothing(text_model: Path, dialogues: Path) -> None:
    """The same constants and gate whatever is held out; and the gate is the best of those tried on the fitted part."""
    recipe = parse_recipe({**text_recipe(text_model, **CACHE), "calibration": str(dialogues)})
    job = Job(recipe, target("onnx"))
    runs = [job.run(sample, closed=True) for sample in job.samples]
    results = [
        fit(Setup(adapter=job.adapter, plan=job.plan, graph=job.bare_graph()), runs[:3], part, seed=0)
        for part in (runs[3:4], runs[5:8])
    ]
    first, second = results
    assert first.gate == second.gate
    assert first.searched == second.searched
    assert (first.gate.lambda_, first.gate.beta) == min(first.searched, key=lambda one: one[2])[:2]
    assert len(first.searched) == 15
    for a, b in zip(first.graph.bases or (), second.graph.bases or (), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert [one.tokens for one in first.held_out] != [one.tokens for one in second.held_out]
    for result in results:
        uncalibrated, calibrated = result.held_out[:2]
        assert 0 <= calibrated.agreement <= 1
        assert calibrated.kl != uncalibrated.kl


def test_the_better_kind_of_basis_on_the_fitted_part_is_taken(text_model: Path, dialogues: Path) -> None:
    from retentive_export.calibrate.fit import _choose_bases, _compare, _plain_bases, full_logits

    recipe = parse_recipe({**text_recipe(text_model, **CACHE), "calibration": str(dialogues)})
    job = Job(recipe, target("onnx"))
    setup = Setup(adapter=job.adapter, plan=job.plan, graph=job.bare_graph())
    runs = [job.run(sample, closed=True) for sample in job.samples[:3]]
    fit_constants(job.adapter, setup.graph, runs, job.plan.context)
    full = [full_logits(setup.graph, run) for run in runs]
    kinds = _choose_bases(setup, _plain_bases(setup, runs), runs, full)
    assert kinds[0] != kinds[1]
    assert _compare(setup.graph, job.plan.gate, runs, full)[0] == pytest.approx(min(kinds), rel=1e-6)


def test_the_new_recipe_builds_what_was_fitted(text_model: Path, dialogues: Path, tmp_path: Path) -> None:
    source = tmp_path / "tiny.yaml"
    source.write_text(yaml.safe_dump({**text_recipe(text_model, **CACHE), "calibration": str(dialogues)}))
    out = tmp_path / "new" / "fitted.yaml"
    out.parent.mkdir()
    data = json.loads(call("calibrate", source, "-o", out, "--seed", "3", "--no-gate", "--json").stdout)
    assert (data["fitted_on"], data["held_out_on"], data["seed"]) == (6, 2, 3)
    assert [one["constants"] for one in data["held_out"]] == ["without calibration", "calibrated rows"]
    recipe = load_recipe(out)
    assert recipe.constants is not None
    assert Path(recipe.constants.file) == out.with_suffix(".safetensors")
    assert recipe.portable().constants.file == "fitted.safetensors"  # type: ignore[union-attr]
    fitting, _ = split(Job(recipe, target("cpu")).samples, 0.25, seed=3)
    job = Job(recipe, target("cpu"))
    runs = [job.run(sample, closed=True) for sample in fitting]
    again = job.bare_graph()
    fit_constants(job.adapter, again, runs, recipe.cache.context)
    assert again.key_scales is not None
    assert all(torch.equal(x, y) for x, y in zip(job.graph.key_scales or (), again.key_scales, strict=True))
    kinds = [again.bases, fit_bases(job.adapter, again, runs, recipe.cache.context, plain=True)]
    assert any(
        all(
            torch.equal(x, y)
            for a, b in zip(job.graph.bases or (), kind or (), strict=True)
            for x, y in zip(a, b, strict=True)
        )
        for kind in kinds
    )
    table = call("calibrate", out, "-o", tmp_path / "again.yaml", "--no-gate").stdout
    assert "6 to fit on, 2 held out (seed 0)" in table


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "new.txt"], 3, "output is 'new.txt', and a recipe is a .yaml file"),
        (["-o", "new.yaml", "--images", "x"], 2, "--images needs --prompts"),
        (["-o", "new.yaml", "--prompts", "absent.txt"], 3, "prompts absent.txt cannot be read"),
        (["-o", "new.yaml", "--held-out", "1"], 2, "held-out"),
    ],
)
def test_what_is_refused_writes_nothing(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(text_recipe(text_model, **CACHE)))
    result = call("calibrate", "tiny.yaml", *arguments)
    assert result.exit_code == code
    assert message in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


def test_pictures_and_prompts_become_dialogues(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        Image.fromarray(np.full((20, 30, 3), ord(name[0]), np.uint8)).save(tmp_path / name)
    (tmp_path / "note.md").write_text("not a picture")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is this?\n\n  And that? \n")
    samples = prompted_samples(tmp_path, prompts, (8, 12))
    assert [int(s.picture[0, 0, 0]) for s in samples if s.picture is not None] == [ord("a"), ord("b")]
    assert samples[0].picture is not None
    assert samples[0].picture.shape == (8, 12, 3)
    assert samples[0].turns == (("What is this?", ""), ("And that?", ""))
    assert [s.turns for s in prompted_samples(None, prompts, None)] == [(("What is this?", ""),), (("And that?", ""),)]
    with pytest.raises(RecipeError, match="takes no frames"):
        prompted_samples(tmp_path, prompts, None)
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecipeError, match="no directory with pictures"):
        prompted_samples(tmp_path / "empty", prompts, (8, 12))


def test_answers_are_the_models_own(text_model: Path) -> None:
    """Greedy, with everything kept: what transformers generates."""
    job = Job(parse_recipe(text_recipe(text_model, **CACHE)), target("onnx"))
    sample = prompted_samples(None, _prompt_file(text_model, "Where is the cat?"), None)[0]
    said = answered(job.adapter, job.layout, job.bare_graph(), sample, limit=9).turns[0][1]
    ids = torch.from_numpy(token_stream(job.adapter, job.layout, sample, turns=1).input_ids)[None]
    stops = job.adapter.dialogue_layout().stop_ids
    made = job.adapter.model.generate(ids, max_new_tokens=9, do_sample=False, eos_token_id=stops)[0, ids.shape[1] :]
    assert said == (job.adapter.tokenizer.decode(made, skip_special_tokens=True).strip() or " ")


def test_answers_and_what_closes_them_are_scored(text_model: Path, dialogues: Path) -> None:
    recipe = parse_recipe({**text_recipe(text_model, **CACHE), "calibration": str(dialogues)})
    job = Job(recipe, target("onnx"))
    sample, layout = job.samples[0], job.adapter.dialogue_layout()
    stream, *_ = job.run(sample, closed=True)
    said = job.adapter.tokenizer(sample.turns[0][1], add_special_tokens=False)["input_ids"] + layout.assistant_close
    assert stream.answers is not None
    assert stream.input_ids[stream.answers].tolist() == said
    assert stream.input_ids[-len(said) :].tolist() == said


def _prompt_file(model: Path, text: str) -> Path:
    path = model.parent / "prompts.txt"
    path.write_text(text)
    return path
