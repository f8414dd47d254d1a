"""Exports in every precision: both flavours are valid ONNX, of the asked types, over one set of weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from retentive_export.errors import RecipeError
from retentive_export.ops.contract import DOMAIN, OPS
from retentive_export.pipeline import build
from retentive_export.spec.recipe import parse_recipe
from retentive_export.validate import validate_golden
from tests.conftest import vision_recipe

WIRE = {"float32": onnx.TensorProto.FLOAT, "float16": onnx.TensorProto.FLOAT16, "bfloat16": onnx.TensorProto.BFLOAT16}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precisions_export(dtype: str, vision_model: Path, tmp_path: Path) -> None:
    recipe = vision_recipe(vision_model, rows={"dtype": "model"})
    recipe["model"]["dtype"] = dtype
    target = "cpu" if dtype == "float16" else "onnx"
    result = build(parse_recipe(recipe), target, tmp_path / "out")
    layers = result.manifest.text.layers
    for flavour, name in result.manifest.graphs.items():
        path = result.directory / name
        onnx.checker.check_model(str(path))
        graph = onnx.load(str(path), load_external_data=False)
        custom = [node for node in graph.graph.node if node.domain == DOMAIN]
        assert len(custom) == (0 if flavour == "onnxruntime" else layers * len(OPS))
        assert not graph.functions
        rows = {v.name: v.type.tensor_type.elem_type for v in graph.graph.input if v.name.endswith("_rows")}
        assert set(rows.values()) == {WIRE[dtype]}
        assert {tensor.external_data[0].value for tensor in graph.graph.initializer if tensor.external_data} == {
            "decoder.onnx.data"
        }
    if dtype == "float16":
        report = validate_golden(result.directory)
        assert report.passed, report.failures()


def test_a_precision_that_the_target_lacks_is_refused(vision_model: Path, tmp_path: Path) -> None:
    recipe = vision_recipe(vision_model)
    recipe["model"]["dtype"] = "bfloat16"
    with pytest.raises(RecipeError, match="bfloat16"):
        build(parse_recipe(recipe), "cpu", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_weights_are_stored_once(vision_artifact: Path) -> None:
    sizes = {path.name: path.stat().st_size for path in vision_artifact.iterdir()}
    assert sizes["decoder.tensorrt.onnx"] < sizes["decoder.onnx"]
    assert "decoder.tensorrt.onnx.data" not in sizes


def test_traced_vision_graph_equals_the_golden_features(vision_artifact: Path) -> None:
    report = validate_golden(vision_artifact)
    assert report.passed, report.failures()
    assert max(report.vision_error.values()) < 1e-5
    assert np.isfinite(report.logit_error)
