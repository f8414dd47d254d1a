"""Validation: an intact artifact passes, and each way of being wrong is seen in the quantity that names it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retentive_export.backends.onnxruntime import OnnxRuntimeBackend
from retentive_export.errors import ArtifactError, NumericalError
from retentive_export.report import validation_data, validation_table
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.manifest import file_entry
from retentive_export.validate import validate_golden
from retentive_export.validate.state import compare_states, differing_rows


@pytest.mark.parametrize("kind", ["text", "vision", "full"])
def test_an_intact_artifact_passes(kind: str, request: pytest.FixtureRequest) -> None:
    report = validate_golden(request.getfixturevalue(f"{kind}_artifact"), threads=1)
    assert report.passed
    assert report.failures() == ()
    assert report.logit_error < 1e-5
    assert report.agreement == 1
    assert report.first_divergence is None
    assert report.victim_share == 0
    assert sum(report.differing_rows.values()) == 0
    assert max(report.state_error.values()) < 2e-4
    assert set(report.vision_error) == ({"visual_embeds", "deep"} if kind == "vision" else set())
    for step in report.steps:
        assert step.cosine == pytest.approx(1, abs=1e-6)
        assert step.norm_ratio == pytest.approx(1, abs=1e-4)
        assert 0 <= step.kl < 1e-6
    rows = {"text": 24, "vision": 32, "full": 64}[kind]
    assert (sum(step.tokens for step in report.steps) > rows) == (kind != "full"), "the golden run must evict"


def altered(artifact: Path, out: Path, **arrays: Any) -> Path:
    """A copy whose golden.npz has other arrays (None removes one), with its hash put right."""
    shutil.copytree(artifact, out)
    with np.load(out / "golden.npz") as archive:
        golden = {name: archive[name] for name in archive.files}
    golden = {name: array for name, array in {**golden, **arrays}.items() if array is not None}
    np.savez(out / "golden.npz", **golden)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["files"]["golden.npz"] = file_entry(out / "golden.npz").model_dump()
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


def golden_of(artifact: Path) -> dict[str, Any]:
    with np.load(artifact / "golden.npz") as archive:
        return {name: archive[name] for name in archive.files}


def test_logits_that_differ(text_artifact: Path, tmp_path: Path) -> None:
    logits = golden_of(text_artifact)["logits"].copy()
    spread = np.ptp(logits[4])
    logits[4, 17] += 0.005 * spread
    lowest = logits[7].argmin()
    logits[7, lowest] = logits[7].max() + 1.0
    report = validate_golden(altered(text_artifact, tmp_path / "a", logits=logits))
    assert not report.passed
    assert report.first_divergence == 4
    assert report.steps[4].logit_error == pytest.approx(0.005, rel=0.05)
    assert report.steps[4].agrees
    assert not report.steps[7].agrees
    assert report.steps[7].kl > 0.1
    assert report.steps[7].cosine < 0.99
    assert report.agreement == 1 - 1 / len(report.steps)
    assert any(failure.startswith("logit error is") for failure in report.failures())
    assert validation_data(report)["failures"] == list(report.failures())
    assert json.dumps(validation_data(report), allow_nan=False)
    assert validation_table(report).row_count == len(report.checks())


def test_states_that_differ(text_artifact: Path, tmp_path: Path) -> None:
    golden = golden_of(text_artifact)
    keys = golden["state.past.1.key_rows"].copy()
    keys[0, 1, 3, 2] += 0.02 * np.abs(keys).max()
    report = validate_golden(altered(text_artifact, tmp_path / "a", **{"state.past.1.key_rows": keys}))
    assert not report.passed
    assert report.state_error["key_rows"] == pytest.approx(0.02, rel=0.05)
    assert report.state_error["value_rows"] < 1e-5


def test_victims_that_differ(text_artifact: Path, tmp_path: Path) -> None:
    golden = golden_of(text_artifact)
    meta, keys = golden["state.past.0.row_meta"].copy(), golden["state.past.0.key_rows"].copy()
    meta[0, 1, 5, 0] += 1
    meta[0, 1, 9, 0] += 1
    keys[0, 1, [5, 9]] += 100  # another token's rows: not compared
    changes = {"state.past.0.row_meta": meta, "state.past.0.key_rows": keys}
    report = validate_golden(altered(text_artifact, tmp_path / "a", **changes))
    assert report.differing_rows == {0: 2, 1: 0}
    assert report.victim_share == 2 / (2 * 24)
    assert report.state_error["key_rows"] < 1e-5
    assert [failure.split(" is ")[0] for failure in report.failures()] == ["victims that differ, share"]


def test_half_precision_is_judged_by_logits_and_features(text_artifact: Path, tmp_path: Path) -> None:
    meta = golden_of(text_artifact)["state.past.0.row_meta"] + 1
    out = altered(text_artifact, tmp_path / "a", **{"state.past.0.row_meta": meta})
    assert not validate_golden(out).passed
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps({**manifest, "dtype": "float16"}))
    report = validate_golden(out)
    assert report.victim_share == 1
    assert report.passed
    assert {check.name for check in report.checks() if check.limit is not None} == {"logit error"}
    manifest["thresholds"]["logit_error"] = 1e-12
    (out / "manifest.json").write_text(json.dumps({**manifest, "dtype": "float16"}))
    assert not validate_golden(out).passed


def test_features_that_differ(vision_artifact: Path, tmp_path: Path) -> None:
    embeds = golden_of(vision_artifact)["visual_embeds"].copy()
    embeds[0, 0, 0] += 0.1 * np.abs(embeds).max()
    report = validate_golden(altered(vision_artifact, tmp_path / "a", visual_embeds=embeds))
    assert not report.passed
    assert report.vision_error["visual_embeds"] > 0.05
    assert report.vision_error["deep"] < 1e-5


def test_another_picture_is_seen(vision_artifact: Path, tmp_path: Path) -> None:
    """The features come from the artifact's own vision graph, so another frame changes every later step."""
    frame = 255 - golden_of(vision_artifact)["frame"]
    report = validate_golden(altered(vision_artifact, tmp_path / "a", frame=frame))
    assert not report.passed
    assert report.vision_error["visual_embeds"] > 1e-3
    assert report.logit_error > 1e-3


def test_outputs_that_are_not_finite(text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OnnxRuntimeBackend, "step", lambda self, inputs: np.full((1, 1, 400), np.nan, np.float32))
    with pytest.raises(NumericalError, match="logits of step 0"):
        validate_golden(text_artifact)


def test_features_that_are_not_finite(vision_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = np.full((1, 6, 48), np.inf, np.float32)
    monkeypatch.setattr(OnnxRuntimeBackend, "encode", lambda self, frames: (bad, None))
    with pytest.raises(NumericalError, match="visual_embeds"):
        validate_golden(vision_artifact)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": None}, "lacks logits"),
        ({"boundaries": np.array([0])}, "do not match their boundaries"),
        ({"state.past.9.key_rows": np.zeros(3)}, "past.9.key_rows"),
        ({"logits": np.array([{}], object)}, "not readable"),
    ],
)
def test_golden_files_of_another_form(
    text_artifact: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError, match=message):
        validate_golden(altered(text_artifact, tmp_path / "a", **changes))


def test_altered_files_are_found_first(text_artifact: Path, tmp_path: Path) -> None:
    shutil.copytree(text_artifact, tmp_path / "a")
    (tmp_path / "a" / "golden.npz").write_bytes(b"PK")
    with pytest.raises(ArtifactError, match=r"golden\.npz has 2 bytes"):
        validate_golden(tmp_path / "a")


def test_errors_of_mixed_codes() -> None:
    """Each width counts in its own levels, through the sign."""
    geometry = CacheGeometry(
        kv_heads=1,
        q_heads=1,
        head_dim=8,
        exact_rows=1,
        latent_rows=2,
        latent_rank=7,
        latent_dtype="mixed",
        latent_int8=1,
        latent_int4=2,
    )
    state = {
        "past.0.row_meta": np.zeros((1, 1, 3, 2), np.int32),
        "past.0.latent_codes": np.zeros((1, 1, 2, 3), np.uint8),
    }
    other = {name: array.copy() for name, array in state.items()}
    for column, value, expected in [
        (0, 0xFF, 1 / 2),
        (0, 0xFE, 1 / 2),
        (1, 0x0F, 1 / 4),
        (1, 0x90, 6 / 14),
        (2, 0x08, 1 / 3),
    ]:
        other["past.0.latent_codes"][:] = 0
        other["past.0.latent_codes"][0, 0, 1, column] = value
        assert compare_states(geometry, state, other)["latent_codes"] == pytest.approx(expected)


@pytest.mark.parametrize(("dtype", "levels"), [("int8", 254), ("int4", 14)])
def test_errors_of_codes(dtype: str, levels: int) -> None:
    """One level off counts as the share of such codes; further off counts in levels."""
    sizes = {"kv_heads": 1, "q_heads": 1, "head_dim": 8, "exact_rows": 2, "coarse_rows": 4}
    geometry = CacheGeometry(**sizes, coarse_dtype=dtype, window=1)
    width, kind = (4, np.uint8) if dtype == "int4" else (8, np.int8)
    state = {
        "past.0.row_meta": np.zeros((1, 1, 6, 2), np.int32),
        "past.0.key_codes": np.zeros((1, 1, 4, width), kind),
        "past.0.value_scale": np.ones((1, 1, 4), np.float32),
    }
    other = {name: array.copy() for name, array in state.items()}
    assert compare_states(geometry, state, other) == {"key_codes": 0, "value_scale": 0}
    other["past.0.key_codes"][0, 0, 1, 0] = 16 if dtype == "int4" else 1
    assert compare_states(geometry, state, other)["key_codes"] == 1 / 32
    other["past.0.key_codes"][0, 0, 1, 0] = 7 * 16 if dtype == "int4" else 7
    assert compare_states(geometry, state, other)["key_codes"] == max(1 / 32, 6 / levels)
    other["past.0.row_meta"][0, 0, 2 + 1, 0] = 5  # that row holds another token
    assert compare_states(geometry, state, other)["key_codes"] == 0
    assert differing_rows(state, other) == {0: 1}
