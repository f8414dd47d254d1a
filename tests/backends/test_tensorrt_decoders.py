"""Engines of whole models for TensorRT-RTX, built without a GPU: one plugin layer per operator and attention layer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from retentive_export.backends.tensorrt.graph import read_graph
from retentive_export.cli import main
from retentive_export.ops.contract import OPS
from retentive_export.pipeline import BuildResult, build
from retentive_export.spec.manifest import read_manifest, verify_files
from retentive_export.spec.recipe_files import load_recipe


def call(*args: object) -> Result:
    result = CliRunner().invoke(main, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture(scope="module")
def reference_vlm(plugin_library: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rtx") / "reference-vlm"
    short = ["--set", "golden_steps=1"]
    result = call(
        *["build", "reference-vlm", "--target", "rtx", "-o", out, "--plugin-library", plugin_library, *short],
        *["--json", "-v"],
    )
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["ran"] == ["tokenizer", "vision", "decoder", "golden", "engine"]
    for words in ("decoder: parse", "decoder: Building engine 1/", "vision: Building engine"):
        assert f"engine: {words}" in result.stderr, "the build shows no progress"
    return out


@pytest.fixture(scope="module")
def smollm2(plugin_library: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    out = tmp_path_factory.mktemp("rtx") / "smollm2"
    return build(load_recipe("smollm2-135m", ["golden_steps=1"]), "rtx", out, plugin_library=plugin_library)


def holds_a_whole_engine(directory: Path, layers: int) -> None:
    """What the manifest says of the decoder's engine, against the graph."""
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    engine, graph = manifest.engine, read_graph(directory / manifest.graphs["tensorrt"])
    assert engine is not None
    assert manifest.plan().layers == layers
    assert engine.plugin_layers == dict.fromkeys(OPS, layers)
    assert len(graph.nodes) == 3 * layers
    assert 3 * layers < engine.layers["decoder"] < 30 * layers, "the bodies were inlined"
    assert engine.profiles == [(1, 1, manifest.plan().geometry.chunk)]
    assert (engine.backend, engine.compute_capability, engine.timing_cache) == ("tensorrt_rtx", None, None)
    weights = manifest.files["decoder.onnx.data"].bytes
    assert weights < manifest.files["engine/decoder.plan"].bytes < 1.5 * weights, "the weights lie in the plan once"


def test_reference_vlm(reference_vlm: Path) -> None:
    holds_a_whole_engine(reference_vlm, layers=6)
    engine = read_manifest(reference_vlm).engine
    assert engine is not None
    assert set(engine.graphs) == {"decoder", "vision"}


def test_smollm2(smollm2: BuildResult) -> None:
    """int4 rows: uint8 in the artifact, int8 in TensorRT's graph."""
    holds_a_whole_engine(smollm2.directory, layers=30)
    codes = next(t for t in smollm2.manifest.contract["decoder"] if t.name == "past.0.key_codes")
    assert (codes.dtype, codes.dtype_in("tensorrt")) == ("uint8", "int8")


def test_inspect_tells_of_the_engine(reference_vlm: Path) -> None:
    manifest = read_manifest(reference_vlm)
    assert manifest.engine is not None
    text = call("inspect", reference_vlm).stdout
    assert f"tensorrt_rtx {manifest.engine.version}, for any GPU that it supports" in text
    assert "plugins: 6 EntropyGate, 6 RetentiveAttention, 6 StateTransition" in text
    data = json.loads(call("inspect", reference_vlm, "--json").stdout)
    assert data["engine"] == manifest.engine.model_dump(mode="json")


@pytest.mark.parametrize("command", [["validate"], ["run", "-p", "Read row 2."]])
def test_without_a_gpu(command: list[str], reference_vlm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine is what the artifact was built for; nothing falls back to the CPU unasked."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    refused = call(command[0], reference_vlm, *command[1:])
    assert refused.exit_code == 12
    assert refused.stdout == ""
    assert refused.stderr.startswith("error: no GPU can be used here: cudaGetDeviceCount: ")
    assert "hint: nvidia-smi shows GPU and driver; the backend onnxruntime runs on the CPU" in refused.stderr


def test_the_same_artifact_runs_on_the_cpu(reference_vlm: Path) -> None:
    result = call("validate", reference_vlm, "--backend", "onnxruntime", "--threads", 1, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["passed"] is True


def test_an_artifact_without_engines_says_so(text_artifact: Path) -> None:
    refused = call("run", text_artifact, "--backend", "tensorrt_rtx", "-p", "x")
    assert refused.exit_code == 6
    assert "tiny-text was built for the target cpu and holds no engine, none for tensorrt_rtx" in refused.stderr


def test_engine_of_another_backend(reference_vlm: Path) -> None:
    refused = call("run", reference_vlm, "--backend", "tensorrt", "-p", "x")
    assert refused.exit_code == 6
    assert "holds engines for tensorrt_rtx, none for tensorrt" in refused.stderr
