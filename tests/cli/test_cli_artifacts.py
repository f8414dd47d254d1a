"""`run`, `inspect` and `validate` on a finished artifact."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retentive_export.runtime import Session
from tests.cli.calls import call
from tests.factories import photograph
from tests.validate.wrong_graphs import with_wrong_gate

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.fromarray(photograph((32, 48))).save(tmp_path / "frame.png")
    return tmp_path / "frame.png"


@pytest.fixture
def large(tmp_path: Path) -> Path:
    Image.fromarray(photograph((100, 120))).save(tmp_path / "large.png")
    return tmp_path / "large.png"


def test_run_answers_as_the_session_does(vision_artifact: Path, picture: Path) -> None:
    result = call("run", vision_artifact, "-i", picture, "-p", "Where?", "-p", "How many?", "--threads", 1)
    session = Session.open(vision_artifact, threads=1)
    session.observe(np.asarray(Image.open(picture)))
    assert result.exit_code == 0
    assert result.stdout == "".join(session.ask(text) + "\n" for text in ("Where?", "How many?"))
    assert result.stderr == ""


def test_provider(vision_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    for command in (["run", vision_artifact, "-p", "Where?"], ["validate", vision_artifact]):
        assert call(*command, "--provider", "cpu").stdout == call(*command).stdout
        refused = call(*command, "--provider", "cuda")
        assert refused.exit_code == 8
        assert "provider is 'cuda'" in refused.stderr
        assert "hint: pip uninstall -y onnxruntime onnxruntime-gpu" in refused.stderr
        assert call(*command, "--provider", "tpu").exit_code == 2


def test_backend(vision_artifact: Path) -> None:
    from retentive_export.backends import LOADERS

    text = " ".join(call("run", "--help").stdout.split())
    assert all(name in text for name in LOADERS)
    chosen = call("validate", vision_artifact, "--backend", "onnxruntime", "--threads", 1)
    assert chosen.stdout == call("validate", vision_artifact, "--threads", 1).stdout
    assert "golden run on onnxruntime" in chosen.stdout
    assert call("validate", vision_artifact, "--backend", "abacus").exit_code == 3


def test_run_json(vision_artifact: Path, picture: Path) -> None:
    command = ["run", vision_artifact, "-i", picture, "-p", "Where?", "-p", "Why?", "--max-new-tokens", 5, "--json"]
    result = call(*command, "--stats", "--temperature", 1.5, "--top-p", 0.9, "--seed", 4)
    data = json.loads(result.stdout)
    assert [turn["prompt"] for turn in data["turns"]] == ["Where?", "Why?"]
    assert all(len(turn["token_ids"]) <= 5 for turn in data["turns"])
    assert data["state_bytes"] == Session.open(vision_artifact).state_bytes
    assert "tokens seen" in result.stderr
    again = json.loads(call(*command, "--temperature", 1.5, "--top-p", 0.9, "--seed", 4).stdout)
    assert [t["token_ids"] for t in again["turns"]] == [t["token_ids"] for t in data["turns"]]


def test_run_resize(vision_artifact: Path, large: Path) -> None:
    refused = call("run", vision_artifact, "-i", large, "-p", "Where?")
    assert refused.exit_code == 7
    assert "[1, 100, 120, 3]" in refused.stderr
    assert "[N, 32, 48, 3]" in refused.stderr
    assert refused.stdout == ""
    assert call("run", vision_artifact, "-i", large, "-p", "Where?", "--resize").exit_code == 0


def test_run_interactive(vision_artifact: Path, large: Path) -> None:
    lines = f"How many?\n\n/image {large}\n/image nothing.png\nWhere?\n/reset\nHow many?\n/quit\nignored\n"
    result = call("run", vision_artifact, "--interactive", stdin=lines)
    first = call("run", vision_artifact, "-p", "How many?").stdout
    assert result.exit_code == 0
    assert result.stdout.startswith(first)
    assert result.stdout.endswith(first)
    assert result.stderr.count("error: ") == 2
    assert call("run", vision_artifact, "--interactive", stdin="How many?\n").stdout == first


@pytest.mark.parametrize("args", [[], ["--interactive", "--json"], ["-p", "x", "--threads", "0"]])
def test_run_usage(args: list[str], text_artifact: Path) -> None:
    assert call("run", text_artifact, *args).exit_code == 2


def test_run_refuses(text_artifact: Path, full_artifact: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(picture.read_bytes()[:50])
    for args, words in (
        ([text_artifact, "-p", "x", "-i", picture], "text-only"),
        ([text_artifact, "-p", "x", "-i", tmp_path / "broken.png"], "broken.png cannot be read"),
        ([text_artifact, "-p", "x", "--temperature", "-1"], "temperature is -1.0"),
        ([text_artifact, "-p", "x", "--seed", "-1"], "seed is -1"),
        ([full_artifact, "-p", "How many rows? " * 40], "this full cache holds 64"),
    ):
        result = call("run", *args)
        assert result.exit_code == 7
        assert result.stderr.startswith("error: ")
        assert words in result.stderr


def test_run_needs_neither_torch_nor_transformers(vision_artifact: Path, picture: Path) -> None:
    code = (
        "import sys\nfrom retentive_export.cli import main\n"
        "main(sys.argv[1:], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for args in (["run", vision_artifact, "-i", picture, "-p", "Where?"], ["validate", vision_artifact]):
        command = [sys.executable, "-c", code, *map(str, args)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_inspect(vision_artifact: Path, text_artifact: Path, full_artifact: Path) -> None:
    result = call("inspect", vision_artifact)
    assert result.exit_code == 0
    for words in ("tiny-vision for cpu", "qwen3_vl", "32 x 48", "16 float32, 10 int8, 2 x 2 memory for vision",
                  "21.5 KiB, 8.94x smaller than the full cache's 192 KiB", "vision.onnx", "total"):  # fmt: skip
        assert words in result.stdout
    assert "past.0.key_rows" not in result.stdout
    assert "past.0.key_rows" in call("inspect", vision_artifact, "--verbose").stdout
    assert "evicted tokens: dropped" in call("inspect", text_artifact).stdout
    assert "holds 64 tokens" in call("inspect", full_artifact).stdout


def test_inspect_json(vision_artifact: Path) -> None:
    data = json.loads(call("inspect", vision_artifact, "--json").stdout)
    assert (data["frame"], data["state_bytes"]) == ([32, 48], 21984)
    assert data["files"]["decoder.onnx"] == (vision_artifact / "decoder.onnx").stat().st_size
    assert data["total_bytes"] == sum(data["files"].values())
    assert "contract" not in data
    verbose = json.loads(call("inspect", vision_artifact, "--json", "-v").stdout)
    assert {tensor["role"] for tensor in verbose["contract"]["decoder"]} == {"input", "output", "state_in", "state_out"}


def test_validate(vision_artifact: Path) -> None:
    result = call("validate", vision_artifact, "--threads", 1)
    assert result.exit_code == 0
    assert "FAILED" not in result.stdout
    data = json.loads(call("validate", vision_artifact, "--json").stdout)
    assert data["passed"] is True
    assert len(data["steps"]) > 10


def test_validate_that_fails(text_artifact: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(text_artifact, tmp_path / "out"))
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["thresholds"]["logit_error"] = 1e-12
    (out / "manifest.json").write_text(json.dumps(manifest))
    result = call("validate", out)
    assert result.exit_code == 10
    assert "FAILED" in result.stdout
    assert "logit error is" in result.stderr
    result = call("validate", out, "--json")
    assert result.exit_code == 10
    assert json.loads(result.stdout)["passed"] is False
    error = json.loads(result.stderr)
    assert (error["error"], error["exit_code"]) == ("ValidationError", 10)


def test_validate_against_the_reference(vision_artifact: Path, tmp_path: Path) -> None:
    folder, page, text = tmp_path / "new" / "report", tmp_path / "one.html", tmp_path / "one.md"
    command = ["validate", vision_artifact, "--against", "reference", "--steps", 3, "--layers", "--threads", 1]
    result = call(*command, "--report", folder, "--html", page, "--markdown", text)
    assert result.exit_code == 0, result.stderr
    assert "onnxruntime against PyTorch on the CPU" in result.stdout
    assert "layer by layer" in result.stdout
    assert "FAILED" not in result.stdout
    assert sorted(path.name for path in folder.iterdir()) == ["validation.html", "validation.json", "validation.md"]
    data = json.loads((folder / "validation.json").read_text())
    assert (data["passed"], data["against"], data["lockstep"], data["first_layer"]) == (True, "reference", True, None)
    assert len(data["steps"]) == data["prefill"] + 3
    assert page.read_bytes() == (folder / "validation.html").read_bytes()
    assert text.read_bytes() == (folder / "validation.md").read_bytes()


def test_validate_that_fails_leaves_its_report(vision_artifact: Path, tmp_path: Path) -> None:
    wrong = with_wrong_gate(vision_artifact, tmp_path / "wrong", 2, before=0.98, after=0.9)
    page = tmp_path / "page.html"
    result = call("validate", wrong, "--against", "reference", "--layers", "--threads", 1, "--html", page)
    assert result.exit_code == 10
    assert "the first layer that drifts: layer 2, " in result.stderr
    (marked,) = [line for line in result.stdout.splitlines() if line.endswith("<- first")]
    assert marked.startswith("2 ")
    assert "drifts first" in page.read_text()


def test_validate_usage(text_artifact: Path, tmp_path: Path) -> None:
    assert call("validate", text_artifact, "--layers", "--threads", 1).exit_code == 0
    assert call("validate", text_artifact, "--steps", 2, "--threads", 1).exit_code == 0
    assert call("validate", text_artifact, "--steps", 2, "--layers").exit_code == 2
    assert call("validate", text_artifact, "--steps", -1).exit_code == 2
    assert call("validate", text_artifact, "--against", "abacus").exit_code == 2
    assert call("validate", text_artifact, "--against", "onnxruntime").exit_code == 3
    assert call("validate", text_artifact, "--against", "tensorrt").exit_code in (6, 8)
    (tmp_path / "file").write_text("")
    refused = call("validate", text_artifact, "--threads", 1, "--markdown", tmp_path / "file" / "report.md")
    assert refused.exit_code == 9
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize("command", [["run", "-p", "x"], ["inspect"], ["validate"]])
@pytest.mark.parametrize("damage", ["absent", "empty", "version", "truncated", "altered", "missing", "climbs"])
def test_damaged_artifacts(command: list[str], damage: str, text_artifact: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if damage == "empty":
        out.mkdir()
    elif damage != "absent":
        shutil.copytree(text_artifact, out)
        graph, path = out / "decoder.onnx", out / "manifest.json"
        manifest = json.loads(path.read_text())
        if damage == "version":
            manifest["schema"] = "retentive-export/9"
        elif damage == "climbs":
            manifest["files"]["../evil"] = manifest["files"]["decoder.onnx"]
        elif damage == "missing":
            graph.unlink()
        else:
            content = bytearray(graph.read_bytes())
            content[1000] ^= 1
            graph.write_bytes(content if damage == "altered" else content[:-1])
        path.write_text(json.dumps(manifest))
    result = call(command[0], out, *command[1:])
    if command == ["inspect"] and damage in ("truncated", "altered", "missing", "climbs"):
        assert result.exit_code == 0  # it reads the manifest alone
        return
    assert result.exit_code == 6
    assert result.stdout == ""
    words = {"version": "retentive-export/9", "climbs": "leaves the artifact's directory", "missing": "is missing"}
    words |= {"absent": "not a finished artifact", "empty": "not a finished artifact"}
    assert words.get(damage, damage) in result.stderr
