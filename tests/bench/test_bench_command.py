"""`bench` on real artifacts, the reference VLM's among them, and what it says of peers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from retentive_export.bench.peers import PEERS, Unavailable
from retentive_export.spec.manifest import read_manifest
from retentive_export.spec.recipe_files import load_recipe
from tests.cli.calls import call
from tests.conftest import build_artifact

QUICK = ["--threads", "1", "--rounds", "2", "--tokens", "2", "--warm-up", "0"]


@pytest.fixture(scope="module")
def reference_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    recipe = load_recipe("reference-vlm", ("golden_steps=1",)).to_dict()
    return build_artifact(recipe, tmp_path_factory.mktemp("bench") / "reference").directory


def test_the_reference_vlm_as_json(reference_artifact: Path) -> None:
    result = call("bench", reference_artifact, "--contexts", "64,128", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    data = json.loads(result.stdout)
    (arm,) = data["groups"][0]["arms"]
    manifest = read_manifest(reference_artifact)
    moved = manifest.files["decoder.onnx.data"].bytes + manifest.state_bytes
    assert [p["context"] for p in arm["points"]] == [64, 128]
    for point in arm["points"]:
        assert point["moved_bytes"] == moved
        assert point["floor_ms"] == pytest.approx(moved / 1e6)
        assert point["tokens_per_second"] == pytest.approx(1e3 / point["milliseconds"]["median"])
        assert 0 < point["milliseconds"]["p10"] <= point["milliseconds"]["median"] <= point["milliseconds"]["p90"]
        assert point["peak_bytes"] > manifest.state_bytes
    assert arm["facts"]["versions"]["onnxruntime"]
    assert str(reference_artifact.parent) not in result.stdout


def test_bounded_beside_full_with_a_report(text_artifact: Path, full_artifact: Path, tmp_path: Path) -> None:
    """A full cache is measured as far as it reaches, and both are compared there."""
    reach = read_manifest(full_artifact).plan().capacity
    assert reach is not None
    contexts = f"16,{reach},{2 * reach}"
    result = call("bench", text_artifact, full_artifact, "--contexts", contexts, *QUICK, "--report", tmp_path / "r")
    assert result.exit_code == 0, result.stderr
    data = json.loads((tmp_path / "r" / "bench.json").read_text())
    bounded, full = data["groups"][0]["arms"]
    assert [p["context"] for p in bounded["points"]] == [16, reach, 2 * reach]
    assert [p["context"] for p in full["points"]] == [16, reach]
    (compared,) = data["groups"][0]["comparisons"]
    assert compared["context"] == reach
    text = (tmp_path / "r" / "bench.md").read_text()
    assert "times as fast" in text
    assert "Copy bandwidth" in text
    drawing = ET.parse(tmp_path / "r" / "bench-0.svg")
    assert len(drawing.findall(".//{http://www.w3.org/2000/svg}polyline")) == 4


def test_peers_of_a_vision_model_are_absent_and_said_so(reference_artifact: Path, tmp_path: Path) -> None:
    folder = ["--peer-models", tmp_path / "peers"]
    result = call("bench", reference_artifact, "--contexts", "32", *QUICK, "--peer", "transformers", *folder, "--json")
    assert result.exit_code == 0, result.stderr
    (absent,) = json.loads(result.stdout)["groups"][0]["absent"]
    assert absent["name"] == PEERS["transformers"].title
    assert "takes frames" in absent["reason"]
    assert not (tmp_path / "peers").exists()


def test_a_peer_that_is_not_installed_names_its_extra(text_artifact: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.write_text("#!/bin/sh\nexit 1\n")
    bare.chmod(0o755)
    with pytest.raises(Unavailable, match=r"llama_cpp is not installed .* 'retentive-export\[llama-cpp\]'"):
        PEERS["llama_cpp"].spec(read_manifest(text_artifact), tmp_path, str(bare))


def test_transformers_runs_the_artifacts_own_weights(text_artifact: Path, tmp_path: Path) -> None:
    folder = tmp_path / "peers"
    result = call(
        "bench", text_artifact, "--contexts", "24", *QUICK, "--peer", "transformers", "--peer-models", folder, "--json"
    )
    assert result.exit_code == 0, result.stderr
    _, peer = json.loads(result.stdout)["groups"][0]["arms"]
    assert peer["name"] == PEERS["transformers"].title
    assert len(peer["points"]) == 1
    (made,) = folder.iterdir()
    assert (made / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--peer", "vllm"], 7, "peer is 'vllm'"),
        (["--contexts", "4k,1k"], 7, "must ascend"),
        (["--contexts", "many"], 2, "'many' is no list of numbers"),
        (["--text", "/nowhere.txt", "--contexts", "32"], 7, "/nowhere.txt"),
    ],
)
def test_wrong_options_are_refused(arguments: list[str], code: int, says: str, text_artifact: Path) -> None:
    result = call("bench", text_artifact, *QUICK, *arguments)
    assert result.exit_code == code
    assert says in result.stderr


def test_a_directory_that_is_no_artifact_is_refused(tmp_path: Path) -> None:
    assert call("bench", tmp_path, *QUICK).exit_code == 6
