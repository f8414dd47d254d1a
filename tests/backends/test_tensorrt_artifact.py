"""An artifact with engines: what a repeated build reuses, what its manifest holds, and damage to either."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from retentive_export.backends import default_backend
from retentive_export.errors import ArtifactError, MissingExtraError, RecipeError
from retentive_export.ops import native
from retentive_export.spec.manifest import EngineSection, Manifest, read_manifest, verify_files
from tests.backends.conftest import FakeGpu
from tests.conftest import build_artifact, text_recipe, vision_recipe


@pytest.fixture
def copy(rtx_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rtx_artifact, tmp_path / "out"))


def section(directory: Path) -> EngineSection:
    found = read_manifest(directory).engine
    assert found is not None
    return found


def test_the_engine_section_survives_a_round_trip(rtx_artifact: Path) -> None:
    manifest = read_manifest(rtx_artifact)
    again = Manifest.model_validate(json.loads(manifest.to_json()))
    assert again.engine == manifest.engine == section(rtx_artifact)
    assert manifest.target == "rtx"
    assert set(section(rtx_artifact).files()) < set(manifest.files)
    assert default_backend(rtx_artifact) == "tensorrt_rtx"


def test_an_artifact_without_engines(vision_artifact: Path, rtx_artifact: Path) -> None:
    assert read_manifest(vision_artifact).engine is None
    assert default_backend(vision_artifact) == "onnxruntime"
    ours, theirs = read_manifest(rtx_artifact).files, read_manifest(vision_artifact).files
    assert {name: ours[name] for name in theirs} == theirs, "the target changed the graphs"


def test_a_repeated_build_reuses_the_engine(copy: Path, vision_model: Path, plugin_library: Path) -> None:
    plan = (copy / "engine" / "decoder.plan").stat()
    result = build_artifact(vision_recipe(vision_model), copy, "rtx", plugin_library=plugin_library)
    assert (result.ran, result.reused) == ([], ["tokenizer", "vision", "decoder", "golden", "engine"])
    assert (copy / "engine" / "decoder.plan").stat().st_mtime_ns == plan.st_mtime_ns


def test_other_plugins_build_the_engine_again(
    copy: Path, vision_model: Path, plugin_library: Path, tmp_path: Path
) -> None:
    other = tmp_path / "libretentive_plugins.so"
    other.write_bytes(plugin_library.read_bytes() + b"\0")
    result = build_artifact(vision_recipe(vision_model), copy, "rtx", plugin_library=other)
    assert (result.ran, result.reused) == (["engine"], ["tokenizer", "vision", "decoder", "golden"])
    verify_files(copy, result.manifest)
    assert (copy / section(copy).plugin_library).read_bytes() == other.read_bytes()


def test_a_damaged_plan_is_built_again(copy: Path, vision_model: Path, plugin_library: Path) -> None:
    (copy / "engine" / "decoder.plan").write_bytes(b"damaged")
    result = build_artifact(vision_recipe(vision_model), copy, "rtx", plugin_library=plugin_library)
    assert result.ran == ["engine"]
    verify_files(copy, result.manifest)


def test_the_cpu_target_drops_the_engine(copy: Path, vision_model: Path) -> None:
    result = build_artifact(vision_recipe(vision_model), copy)
    assert result.ran == []
    assert result.manifest.engine is None
    assert sorted(path.name for path in copy.iterdir() if path.is_dir()) == []


def test_a_plugin_library_needs_a_target_with_engines(text_model: Path, plugin_library: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="plugin_library is given, and the target 'cpu' has no engines"):
        build_artifact(text_recipe(text_model), tmp_path / "out", plugin_library=plugin_library)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("given", [True, False])
def test_no_plugin_library(given: bool, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused before the model is traced."""
    monkeypatch.setattr(native, "_PACKAGE", tmp_path / "package")
    options = {"plugin_library": tmp_path / "absent.so"} if given else {}
    words = r"absent\.so is not a file" if given else r"libretentive_plugins\.so was not found"
    with pytest.raises(ArtifactError if given else MissingExtraError, match=words) as error:
        build_artifact(text_recipe(text_model), tmp_path / "out", "rtx", **options)
    assert "path" in str(error.value.hint)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("name", ["plan", "plugins"])
def test_an_altered_engine_is_not_loaded(name: str, verify: bool, gpu: FakeGpu) -> None:
    """Plans and plugins are code: after one changed byte they are not loaded, whatever `verify` says."""
    engine = section(gpu.artifact)
    file = engine.graphs["decoder"] if name == "plan" else engine.plugin_library
    content = bytearray((gpu.artifact / file).read_bytes())
    content[len(content) // 2] ^= 1
    (gpu.artifact / file).write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"{file} was altered"):
        gpu.open(verify=verify)
    assert gpu.trt.plans_loaded == 0
    assert len(gpu.trt.libraries) == (name == "plan" and not verify)
