"""manifest.json: what is read is what was written, and whatever is wrong with it is an ArtifactError."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from retentive_export.errors import ArtifactError
from retentive_export.spec.layout import TextShape, VisionLayout
from retentive_export.spec.manifest import MANIFEST, SCHEMA, Manifest, cache_fields, read_manifest, verify_files
from retentive_export.spec.plan import CachePlan, plan_cache
from retentive_export.spec.recipe import parse_recipe

CONTENT = {
    **{"decoder.onnx": b"graph", "vision.onnx": b"vision", "tokenizer.json": b"{}"},
    **{"decoder.plan": b"plan", "plugins.so": b"plugins", "timing.cache": b"tactics"},
}
ENGINE = {
    **{"backend": "tensorrt", "version": "10.3.0", "compute_capability": [8, 7], "graphs": {"decoder": "decoder.plan"}},
    **{"plugin_library": "plugins.so", "timing_cache": "timing.cache", "profiles": [[1, 1, 1], [1, 8, 8]]},
    **{"activation_bytes": {"decoder": 1}, "layers": {"decoder": 9}, "plugin_layers": {"EntropyGate": 2}},
}


def plan() -> CachePlan:
    recipe = parse_recipe({"model": {"source": "x"}, "cache": {"budget": {"rows": 80}, "gate": {"lambda": 0.25}}})
    sizes = {"layers": 2, "kv_heads": 2, "q_heads": 4, "head_dim": 8, "hidden": 32, "vocab": 50, "max_positions": 99}
    return plan_cache(recipe, TextShape(**sizes), vision())


def vision() -> VisionLayout:
    return VisionLayout(
        **{"frame": (16, 32), "tokens": 2, "grid": (1, 2), "block_ids": [9, 8, 8], "position_axes": 1},
        **{"block_cells": [None, (0, 0), (0, 1)], "position_offsets": [[0, 1, 2]], "position_advance": 3},
    )


def fields() -> dict[str, Any]:
    import hashlib

    made = plan()
    recipe = parse_recipe({"model": {"source": "x"}})
    sizes = {"layers": 2, "kv_heads": 2, "q_heads": 4, "head_dim": 8, "hidden": 32, "vocab": 50, "max_positions": 99}
    entries = {name: {"bytes": len(b), "sha256": hashlib.sha256(b).hexdigest()} for name, b in CONTENT.items()}
    return {
        **{"schema": SCHEMA, "name": "n", "target": "cpu", "family": "llama", "dtype": "float32"},
        **{"tools": {"torch": "2"}, "recipe": recipe.to_dict(), "text": sizes, "dialogue": {"prefix": [1]}},
        **{"vision": vision().model_dump(mode="json"), "cache": cache_fields(made), "scale": 0.25},
        **{"graphs": {"onnxruntime": "decoder.onnx"}, "vision_graph": "vision.onnx", "contract": {"decoder": []}},
        **{"state_bytes": made.state_bytes, "full_cache_bytes": made.full_cache_bytes},
        **{"thresholds": {"logit_error": 1e-3, "state_error": 1e-3}, "generation": {}, "files": entries},
        "engine": copy.deepcopy(ENGINE),
    }


def write(directory: Path, data: Any) -> Path:
    (directory / MANIFEST).write_text(data if isinstance(data, str) else json.dumps(data))
    for name, content in CONTENT.items():
        (directory / name).write_bytes(content)
    return directory


def test_round_trip(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, fields()))
    assert manifest.plan() == plan()
    text = manifest.to_json()
    assert text == Manifest.model_validate(json.loads(text)).to_json()
    assert json.loads(text)["schema"] == SCHEMA
    verify_files(tmp_path, manifest)
    verify_files(tmp_path, manifest, ["decoder.onnx"])
    assert manifest.engine is not None
    assert manifest.engine.model_dump(mode="json") == ENGINE
    assert manifest.engine.files() == ["decoder.plan", "plugins.so", "timing.cache"]
    assert Manifest.model_validate({**fields(), "engine": None}).engine is None


@pytest.mark.parametrize("schema", ["retentive-export/2", None, 1])
def test_other_versions(tmp_path: Path, schema: object) -> None:
    with pytest.raises(ArtifactError, match=r"schema is .*this version reads 'retentive-export/1'") as error:
        read_manifest(write(tmp_path, {**fields(), "schema": schema}))
    assert error.value.exit_code == 6
    assert error.value.hint == "build the artifact again"


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"holds no manifest\.json") as error:
        read_manifest(tmp_path)
    assert "retentive-export build" in str(error.value)
    with pytest.raises(ArtifactError):
        read_manifest(tmp_path / "none")


@pytest.mark.parametrize(
    "text", ["", "{", "[1", "[" * 100_000, "\x00", '{"schema": "retentive-export/1"', "null", "[]"]
)
def test_text_that_is_no_manifest(tmp_path: Path, text: str) -> None:
    with pytest.raises(ArtifactError):
        read_manifest(write(tmp_path, text))
    (tmp_path / MANIFEST).write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="not readable JSON"):
        read_manifest(tmp_path)
    (tmp_path / MANIFEST).unlink()
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(ArtifactError, match="not readable JSON"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state_bytes": 1}, "state_bytes is 1, and its geometry takes"),
        ({"graphs": {"onnxruntime": "../decoder.onnx"}}, r"'\.\./decoder.onnx' is not among its files"),
        ({"vision_graph": "/etc/passwd"}, "'/etc/passwd' is not among its files"),
        ({"engine": {**ENGINE, "graphs": {"decoder": "../x"}}}, r"'\.\./x' is not among its files"),
        ({"engine": {**ENGINE, "plugin_library": "x.so"}}, r"'x\.so' is not among its files"),
        ({"engine": {**ENGINE, "timing_cache": "x"}}, "'x' is not among its files"),
        ({"engine": {**ENGINE, "graphs": {}}}, "no engine for the graph 'decoder'"),
        ({"engine": {**ENGINE, "backend": "abacus"}}, r"engine\.backend"),
        ({"engine": {**ENGINE, "profiles": []}}, r"engine\.profiles"),
        ({"engine": {**ENGINE, "extra": 1}}, r"engine\.extra: Extra inputs"),
        ({"extra": 1}, "extra: Extra inputs"),
        ({"text": {}}, r"text\.layers: Field required"),
        ({"cache": {}}, r"cache\.geometry: Field required"),
        ({"cache": {**fields()["cache"], "geometry": {**fields()["cache"]["geometry"], "window": 0}}}, "window is 0"),
        ({"cache": None}, "cache: Input should be"),
    ],
)
def test_inconsistent_fields(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_manifest(write(tmp_path, {**fields(), **change}))


def _paths(data: Any, prefix: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [prefix] if prefix else []
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        found += _paths(value, (*prefix, key))
    return found


JSON_DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)


@settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.sampled_from(_paths(fields())), JSON_DATA, st.booleans())
def test_any_damage_is_found_or_harmless(tmp_path: Path, path: tuple[Any, ...], value: Any, delete: bool) -> None:
    data: Any = fields()
    parent = data
    for key in path[:-1]:
        parent = parent[key]
    if delete:
        del parent[path[-1]]
    else:
        parent[path[-1]] = copy.deepcopy(value)
    try:
        manifest = read_manifest(write(tmp_path, data))
        verify_files(tmp_path, manifest)
    except ArtifactError:
        return
    assert manifest.plan().state_bytes == manifest.state_bytes


@pytest.mark.parametrize("name", sorted(CONTENT))
@pytest.mark.parametrize("damage", ["missing", "truncated", "altered", "directory"])
def test_damaged_files(tmp_path: Path, name: str, damage: str) -> None:
    manifest = read_manifest(write(tmp_path, fields()))
    path = tmp_path / name
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage == "directory":
        path.mkdir()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "altered":
        content[0] ^= 1
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match={"directory": "missing"}.get(damage, damage)) as error:
        verify_files(tmp_path, manifest)
    assert name in error.value.message
    others = [other for other in CONTENT if other != name]
    verify_files(tmp_path, manifest, others)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "..\\outside"])
def test_names_that_climb_out(tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    inside = tmp_path / "artifact"
    inside.mkdir()
    data = fields()
    data["files"][name] = data["files"]["decoder.onnx"]
    manifest = read_manifest(write(inside, data))
    with pytest.raises(ArtifactError, match="leaves the artifact's directory"):
        verify_files(inside, manifest)


def test_a_name_that_is_not_listed(tmp_path: Path) -> None:
    manifest = read_manifest(write(tmp_path, fields()))
    with pytest.raises(ArtifactError, match=r"'other\.onnx' is not listed"):
        verify_files(tmp_path, manifest, ["other.onnx"])
