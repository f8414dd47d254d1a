"""Validation of whole models with real weights: ONNX Runtime against PyTorch passes, one wrong constant is located."""

from __future__ import annotations

from pathlib import Path

import pytest

import retentive_export
from retentive_export.validate import ValidationReport, validate_against
from retentive_export.validate.golden import validate_golden
from tests.end_to_end.twin import build_recipe
from tests.validate.wrong_graphs import with_wrong_gate


def check(artifact: Path, wrong: Path, layer: int, *, steps: int) -> ValidationReport:
    """The artifact passes layer by layer; with importance_decay 0.9 instead of 0.98 in one layer, that layer drifts and
    no other. The report of the right one."""
    right = validate_against(artifact, steps=steps, layers=True)
    assert right.passed, right.failures()
    assert right.agreement == 1
    assert right.first_layer is None
    with_wrong_gate(artifact, wrong, layer, before=0.98, after=0.9)
    report = validate_against(wrong, steps=steps, layers=True)
    assert not report.passed
    assert [one.layer for one in report.layers if one.drifts] == [layer]
    assert f"layer {layer}, importance" in str(report.drift())
    return right


def test_reference_vlm(reference_artifact: Path, tmp_path: Path) -> None:
    check(reference_artifact, tmp_path / "wrong", 3, steps=24)
    free = validate_against(reference_artifact, steps=24)
    assert free.passed, free.failures()
    assert not free.lockstep


def test_smollm2(tmp_path: Path) -> None:
    """int4 rows, in a cache so small that the prompt fills it."""
    artifact = build_recipe("smollm2-135m", tmp_path / "out", "cache.budget.rows=96", "golden_steps=1")
    check(artifact, tmp_path / "wrong", 7, steps=8)


def test_smollm2_latents(tmp_path: Path) -> None:
    """Latents of 8, 4 and 2 bits. Two free runs stay within what codes are allowed; from equal states every layer's
    statistics stay within the limit of the dtype."""
    calibration = f"calibration={few_dialogues(tmp_path, 2)}"
    artifact = build_recipe("smollm2-135m-latent", tmp_path / "out", calibration, "cache.budget.rows=256")
    golden = validate_golden(artifact)
    assert golden.passed, golden.failures()
    assert golden.limits.victims == golden.limits.of("importance") == pytest.approx(1e-3 + 1 / 7, abs=1e-6)
    assert golden.limits.of("latent_codes") == pytest.approx(1e-3 + 1 / 2, abs=1e-6)
    report = check(artifact, tmp_path / "wrong", 7, steps=2)
    assert report.limits.of("importance") == 1e-3


def few_dialogues(directory: Path, count: int) -> Path:
    """The first dialogues of the calibration set for text: enough to fit something, and soon done."""
    whole = Path(retentive_export.__file__).parent / "calibration/text/dialogues.jsonl"
    part = directory / "dialogues"
    part.mkdir()
    lines = whole.read_text(encoding="utf-8").splitlines(keepends=True)
    (part / "dialogues.jsonl").write_text("".join(lines[:count]), encoding="utf-8")
    return part
