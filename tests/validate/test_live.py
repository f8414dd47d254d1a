"""Two backends side by side: an intact artifact passes, and one wrong constant is found in its layer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retentive_export.backends.onnxruntime import OnnxRuntimeBackend
from retentive_export.errors import ArtifactError, CapacityError, NumericalError, RecipeError
from retentive_export.validate import validate_against, validate_golden
from tests.conftest import build_artifact, text_recipe
from tests.validate.wrong_graphs import with_wrong_gate


@pytest.mark.parametrize("kind", ["text", "vision", "full"])
@pytest.mark.parametrize("layers", [False, True])
def test_an_intact_artifact_passes(kind: str, layers: bool, request: pytest.FixtureRequest) -> None:
    steps = 4 if kind == "full" else 24
    report = validate_against(request.getfixturevalue(f"{kind}_artifact"), steps=steps, layers=layers, threads=1)
    assert report.passed, report.failures()
    assert (report.backend, report.against, report.lockstep) == ("onnxruntime", "reference", layers)
    assert len(report.steps) == report.prefill + steps
    assert [step.tokens for step in report.steps[report.prefill :]] == [1] * steps
    assert report.agreement == 1
    assert (report.first_divergence, report.first_layer, report.victim_share) == (None, None, 0)
    assert report.logit_error < 1e-5
    assert len(report.layers) == {"text": 2, "vision": 3, "full": 2}[kind]
    assert report.compared_steps == (tuple(range(len(report.steps))) if layers else (len(report.steps) - 1,))
    assert set(report.vision_error) == ({"visual_embeds", "deep"} if kind == "vision" else set())


def test_the_same_tokens_as_the_golden_run(vision_artifact: Path) -> None:
    """Prompt and greedy tokens are the golden run's, so both comparisons see the same steps."""
    golden, live = validate_golden(vision_artifact, threads=1), validate_against(vision_artifact, threads=1)
    assert [step.tokens for step in live.steps] == [step.tokens for step in golden.steps]
    assert golden.prefill == live.prefill
    for ours, theirs in zip(live.steps, golden.steps, strict=True):
        assert ours.norm_ratio == pytest.approx(theirs.norm_ratio, abs=1e-5)
        assert ours.kl < 1e-6


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_a_wrong_gate_constant_is_found_in_its_layer(layer: int, vision_artifact: Path, tmp_path: Path) -> None:
    """importance_decay 0.9 instead of 0.98 in one layer. From equal states no other layer drifts."""
    wrong = with_wrong_gate(vision_artifact, tmp_path / "wrong", layer, before=0.98, after=0.9)
    report = validate_against(wrong, layers=True, threads=1)
    assert not report.passed
    assert [one.layer for one in report.layers if one.drifts] == [layer]
    assert report.first_layer is not None
    assert report.first_layer.cause in ("importance", "entropy")
    assert str(report.drift()).startswith(f"layer {layer}, ")
    assert any(failure.startswith("state error: importance is") for failure in report.failures())


def test_the_golden_run_finds_it_too(vision_artifact: Path, tmp_path: Path) -> None:
    """A layer's state depends on no layer above it, so even after a whole free run the lowest that drifts is it."""
    wrong = with_wrong_gate(vision_artifact, tmp_path / "wrong", 1, before=0.98, after=0.9)
    for report in (validate_golden(wrong, threads=1), validate_against(wrong, threads=1)):
        assert not report.passed
        assert report.first_layer is not None
        assert report.first_layer.layer == 1
        assert not report.layers[0].drifts


def test_a_wrong_lambda_shows_in_victims(vision_artifact: Path, tmp_path: Path) -> None:
    """lambda decides who leaves and changes no statistic of the step itself."""
    wrong = with_wrong_gate(vision_artifact, tmp_path / "wrong", 1, before=0.5, after=0.0)
    report = validate_against(wrong, layers=True, threads=1)
    assert [one.layer for one in report.layers if one.drifts] == [1]
    assert report.first_layer is not None
    assert report.first_layer.cause == "victims"
    assert any(failure.startswith("victims that differ") for failure in report.failures())


def test_int4_rows_start_every_step_from_equal_states(text_model: Path, tmp_path: Path) -> None:
    recipe = text_recipe(text_model, rows={"dtype": "int4", "exact": 12}, policy="retentive")
    directory = build_artifact(recipe, tmp_path / "int4").directory
    report = validate_against(directory, steps=30, threads=1)
    assert report.lockstep
    assert report.passed, report.failures()
    assert (report.limits.default, report.limits.of("importance")) == (pytest.approx(1e-3 + 1 / 7, abs=1e-6), 1e-3)
    wrong = with_wrong_gate(directory, tmp_path / "wrong", 1, before=0.98, after=0.9)
    found = validate_against(wrong, threads=1)
    assert [one.layer for one in found.layers if one.drifts] == [1]


def test_torch_is_judged_by_onnxruntime(text_artifact: Path) -> None:
    report = validate_against(text_artifact, "onnxruntime", "torch", threads=1)
    assert (report.backend, report.against, report.passed) == ("torch", "onnxruntime", True)


def test_features_are_judged_apart_from_the_decoder(vision_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong vision graph fails by its own error, and the decoder, which gets the reference's features, does not."""
    real = OnnxRuntimeBackend.encode

    def encode(self: OnnxRuntimeBackend, frames: Any) -> Any:
        embeds, deep = real(self, frames)
        return embeds * 1.5, deep

    monkeypatch.setattr(OnnxRuntimeBackend, "encode", encode)
    report = validate_against(vision_artifact, layers=True, threads=1)
    assert report.vision_error["visual_embeds"] == pytest.approx(0.5, rel=1e-3)
    assert report.first_layer is None
    assert [failure.split(" is ")[0] for failure in report.failures()] == ["vision error: visual_embeds"]


def test_thresholds_are_the_recipes(text_artifact: Path, text_model: Path, tmp_path: Path) -> None:
    """A state_error that the recipe gives holds for the statistics too; a limit that cannot be kept is not kept."""
    recipe = {**text_recipe(text_model), "thresholds": {"logit_error": 1e-12, "state_error": 0.3}}
    report = validate_against(build_artifact(recipe, tmp_path / "a").directory, layers=True, threads=1)
    assert (report.logit_limit, report.limits.of("importance"), report.limits.of("key_rows")) == (1e-12, 0.3, 0.3)
    assert report.first_divergence == 0
    assert [failure.split(" is ")[0] for failure in report.failures()] == ["logit error"]


def test_golden_steps_that_it_holds(text_artifact: Path) -> None:
    short = validate_golden(text_artifact, steps=3, threads=1)
    assert len(short.steps) == short.prefill + 3
    assert (short.layers, short.state_error, short.passed) == ((), {}, True)
    assert "first layer that drifts" not in {check.name for check in short.checks()}
    with pytest.raises(RecipeError, match=r"steps is 9, and golden\.npz holds 8 decode steps"):
        validate_golden(text_artifact, steps=9)


def test_what_is_refused(text_artifact: Path, full_artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="both sides are 'onnxruntime'"):
        validate_against(text_artifact, "onnxruntime")
    with pytest.raises(RecipeError, match="against is 'abacus', and must be one of: reference, onnxruntime"):
        validate_against(text_artifact, "abacus")
    with pytest.raises(CapacityError, match="this full cache holds 64"):
        validate_against(full_artifact, steps=64)
    broken = Path(shutil.copytree(text_artifact, tmp_path / "a"))
    (broken / "decoder.onnx").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"decoder\.onnx has 0 bytes"):
        validate_against(broken)


def test_outputs_that_are_not_finite(text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "step", lambda self, inputs: np.full((1, 1, 400), np.nan, np.float32))
    with pytest.raises(NumericalError, match="the logits of step 0"):
        validate_against(text_artifact, threads=1)
