"""`build`, `recipes`, and what holds for every command: exit codes, JSON, no traceback, no heavy import."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import retentive_export
from retentive_export import cli, errors, pipeline
from retentive_export.cli import main
from retentive_export.report import human_bytes
from retentive_export.spec.recipe import Recipe, parse_recipe
from retentive_export.spec.recipe_files import load_recipe
from tests.cli.calls import call
from tests.conftest import text_recipe

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def recipe_file(text_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny-text.yaml"
    path.write_text(yaml.safe_dump(text_recipe(text_model)))
    return path


def test_build_json_and_table(recipe_file: Path, text_artifact: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(text_artifact, tmp_path / "out"))
    result = call("build", recipe_file, "--target", "cpu", "-o", out, "--json", "-v")
    data = json.loads(result.stdout)
    assert (data["ran"], data["reused"]) == ([], ["tokenizer", "decoder", "golden"])
    assert data["artifact"] == str(out)
    assert data["state_bytes"] == 13440
    assert data["full_cache_bytes"] == 131072
    assert data["files"]["golden.npz"] == (out / "golden.npz").stat().st_size
    assert "golden: reuse" in result.stderr
    terminal = CliRunner().invoke(main, ["build", str(recipe_file), "-o", str(out), "--json"], env={"FORCE_COLOR": "1"})
    assert json.loads(terminal.stdout) == data
    assert "golden (reused)" in terminal.stderr
    result = call("build", recipe_file, "-o", out)
    assert "13.1 KiB, 9.75x smaller than the full cache's 128 KiB" in result.stdout
    assert result.stderr == ""


def test_dry_run(recipe_file: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    result = call("build", recipe_file, "--dry-run", "--set", "cache.budget.rows=40")
    assert "40 rows per head" in result.stdout
    data = json.loads(call("build", recipe_file, "--dry-run", "--json").stdout)
    assert data["state_bytes"] == 13440
    assert data["cache"]["geometry"]["exact_rows"] == 24
    assert sorted(tmp_path.iterdir()) == before


def test_a_model_without_a_recipe(text_model: Path, vision_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Recipe] = []

    def describe(recipe: Recipe, target: str, **_: object) -> Any:
        made.append(recipe)
        raise errors.ModelError("enough")

    monkeypatch.setattr(pipeline, "describe", describe)
    assert call("build", vision_model, "--dry-run", "--set", "model.frame=[32, 48]").exit_code == 4
    assert call("build", "owner/name", "--dry-run", "--set", "model.revision=abc").exit_code == 4
    assert call("build", "reference-vlm", "--dry-run").exit_code == 4
    assert [recipe.name for recipe in made] == ["tiny-qwen3-vl", "name", "reference-vlm"]
    assert made[0].model.source == str(vision_model)
    assert made[0].model.frame == (32, 48)
    assert made[1].model.source == "owner/name"


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["recipe", "--set", "cache.windw=3"], 3, ["cache.windw: unknown key", "hint: "]),
        (["recipe", "--set", "cache.window=wide"], 3, ["cache.window", "integer", "'wide'"]),
        (["recipe", "--set", "cache.budget.rows=9"], 3, ["9 local rows", "sinks + window = 2 + 8", "at least 10 rows"]),
        (["recipe", "--set", "cache.chunk=9"], 3, ["chunk is 9", "window is 8", "set chunk to at most 8"]),
        (["recipe", "--set", "nonsense"], 3, ["'nonsense'", "key=value"]),
        (["recipe", "--target", "toaster"], 3, ["'toaster'", "cpu"]),
        (["no-such-recipe"], 3, ["'no-such-recipe'", "reference-vlm", "hint: "]),
        (["absent.yaml"], 3, ["absent.yaml", "no such file"]),
        (["recipe", "--set", "model.source=./absent"], 4, ["./absent"]),
    ],
)
def test_build_refuses(args: list[str], code: int, words: list[str], recipe_file: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    args = [str(recipe_file) if arg == "recipe" else arg for arg in args]
    result = call("build", *args, "-o", tmp_path / "out")
    assert result.exit_code == code
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr
    assert result.stdout == ""
    assert sorted(tmp_path.iterdir()) == before
    as_json = call("build", *args, "-o", tmp_path / "out", "--json")
    data = json.loads(as_json.stderr.splitlines()[-1])
    assert data["exit_code"] == as_json.exit_code == code
    assert set(data) == {"error", "message", "hint", "exit_code"}
    assert as_json.stdout == ""


def test_build_needs_an_output(recipe_file: Path) -> None:
    result = call("build", recipe_file)
    assert result.exit_code == 2
    assert "-o" in result.stderr


def test_missing_extra(recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    result = call("build", recipe_file, "-o", tmp_path / "out")
    assert result.exit_code == 8
    assert "'torch', which is not installed" in result.stderr
    assert "hint: pip install 'retentive-export[export]'" in result.stderr


def _leaves(kind: type[errors.RetentiveExportError]) -> list[type[errors.RetentiveExportError]]:
    return [kind, *(leaf for sub in kind.__subclasses__() for leaf in _leaves(sub))]


@pytest.mark.parametrize("kind", _leaves(errors.RetentiveExportError))
def test_every_error_has_its_exit_code(
    kind: type[errors.RetentiveExportError], recipe_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise kind("what happened", hint="what to do")

    monkeypatch.setattr(pipeline, "describe", fail)
    result = call("build", recipe_file, "--dry-run")
    assert result.exit_code == kind.exit_code
    assert result.stderr == "error: what happened\nhint: what to do\n"
    with pytest.raises(kind):
        CliRunner().invoke(main, ["--debug", "build", str(recipe_file), "--dry-run"], catch_exceptions=False)


def test_interrupt(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "describe", interrupt)
    result = call("build", recipe_file, "--dry-run")
    assert result.exit_code == 130
    assert result.stderr == "interrupted\n"


def test_recipes(recipe_file: Path, tmp_path: Path) -> None:
    assert "reference-vlm" in call("recipes").stdout
    listed = json.loads(call("recipes", "--json").stdout)
    assert all(parse_recipe(data) for data in listed)
    shown = call("recipes", "show", "reference-vlm", "--set", "cache.window=48").stdout
    assert parse_recipe(yaml.safe_load(shown)) == load_recipe("reference-vlm", ["cache.window=48"])
    assert json.loads(call("recipes", "show", "reference-vlm", "--json").stdout) in listed
    assert call("recipes", "check", recipe_file).stdout == "tiny-text: ok\n"
    assert call("recipes", "check", "qwen3-vl-4b").stdout == "qwen3-vl-4b: ok\n"
    small = call("recipes", "check", "qwen3-vl-4b", "--set", "cache.budget.rows=20")
    assert (small.exit_code, small.stdout) == (3, "")
    assert "fewer than sinks + window = 4 + 64" in small.stderr
    unknown = call("recipes", "check", recipe_file, "--set", "model.source=owner/name").stdout
    assert unknown.startswith("tiny-text: fields ok; the cache was not checked: model.source is 'owner/name'")
    recipe_file.write_text("model: {source: x}\nwindow: 3\n")
    refused = call("recipes", "check", recipe_file)
    assert refused.exit_code == 3
    assert "window: unknown key" in refused.stderr
    schema = json.loads(call("recipes", "schema").stdout)
    assert "lambda" in schema["$defs"]["GateSection"]["properties"]
    assert schema["required"] == ["model"]


def test_help_and_version() -> None:
    assert call("--version").stdout.strip() == f"retentive-export, version {retentive_export.__version__}"
    for args in (["-h"], ["build", "-h"], ["run", "--help"], ["recipes", "-h"]):
        result = call(*args)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: ")
    assert call("nonsense").exit_code == 2


def test_shell_completion() -> None:
    command = [Path(sys.executable).parent / "retentive-export"]
    environment = {
        "_RETENTIVE_EXPORT_COMPLETE": "bash_complete",
        "COMP_WORDS": "retentive-export in",
        "COMP_CWORD": "1",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "plain,inspect"


def test_the_package_imports_without_its_extras() -> None:
    """Every name that needs no extra is there although none of the extras can be imported."""
    code = (
        "import sys\n"
        "blocked = ('torch', 'transformers', 'onnx', 'onnx_ir', 'onnxscript', 'safetensors', 'jinja2', 'sklearn')\n"
        "sys.modules.update(dict.fromkeys(blocked))\n"
        "import retentive_export as rx\n"
        "assert 'numpy' not in sys.modules and 'pydantic' not in sys.modules\n"
        "for name in rx.__all__: assert getattr(rx, name) is not None, name\n"
        "import retentive_export.cli\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_public_names() -> None:
    assert set(retentive_export.__all__) <= set(dir(retentive_export))
    assert retentive_export.load_recipe is load_recipe
    assert retentive_export.RecipeError is errors.RecipeError
    assert cli.main is main
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = retentive_export.nonsense


@pytest.mark.parametrize(
    ("count", "text"),
    [
        *[(0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (10_235, "10.0 KiB"), (1 << 20, "1.00 MiB")],
        *[(1_048_000, "1.00 MiB"), (123 << 30, "123 GiB"), (5 << 50, "5120 TiB"), (482_000_000, "460 MiB")],
    ],
)
def test_human_bytes(count: int, text: str) -> None:
    assert human_bytes(count) == text
