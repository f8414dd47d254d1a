"""Builds: resumable, whole or not at all, equal when their inputs are, and refused before anything is written."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import os
import resource
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retentive_export import pipeline
from retentive_export.errors import ExportError, MissingExtraError, ModelError, RecipeError, StorageError
from retentive_export.pipeline import BuildResult, build, describe
from retentive_export.spec.manifest import MANIFEST, verify_files
from retentive_export.spec.recipe import Recipe, parse_recipe
from retentive_export.steps import read_record
from tests.conftest import text_recipe, vision_recipe

ROOT = Path(__file__).resolve().parents[1]


def contents(directory: Path) -> dict[str, str]:
    """Hash of every file, hidden ones included."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def text_copy(text_artifact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(text_artifact, tmp_path / "out"))


def recipe_with(model: Path, **changes: Any) -> Recipe:
    return parse_recipe({**text_recipe(model), **changes})


def test_a_repeated_build_reuses_every_step(text_copy: Path, text_model: Path) -> None:
    before = contents(text_copy)
    events: list[tuple[str, str]] = []
    result = build(recipe_with(text_model), "cpu", text_copy, progress=lambda *event: events.append(event))
    assert (result.ran, result.reused) == ([], ["tokenizer", "decoder", "golden"])
    assert events == [(step, event) for step in result.reused for event in ("reuse", "done")]
    assert contents(text_copy) == before
    assert list(text_copy.parent.iterdir()) == [text_copy]


def test_another_cache_rebuilds_what_depends_on_it(full_build: BuildResult, text_artifact: Path) -> None:
    assert (full_build.ran, full_build.reused) == (["decoder", "golden"], ["tokenizer"])
    assert full_build.manifest.plan().capacity == 64
    verify_files(full_build.directory, full_build.manifest)
    ours, others = contents(full_build.directory), contents(text_artifact)
    assert ours["tokenizer.json"] == others["tokenizer.json"]
    assert ours["decoder.onnx"] != others["decoder.onnx"]
    assert set(ours) == {MANIFEST, "build.json", *full_build.manifest.files}


def test_a_failed_step_leaves_the_artifact_and_the_next_build_goes_on(
    text_copy: Path, text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(text_copy)
    longer = recipe_with(text_model, golden_steps=9)

    def fail(self: pipeline.Job, work: Path) -> dict[str, Any]:
        (work / "golden.npz").write_bytes(b"half")
        raise ExportError("it broke")

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.Job, "_golden", fail)
        with pytest.raises(ExportError):
            build(longer, "cpu", text_copy)
    assert contents(text_copy) == before
    work = text_copy.with_name("out.partial")
    assert not (work / "golden.npz").exists(), "a half-written file joined the finished ones"
    result = build(longer, "cpu", text_copy)
    assert (result.ran, result.reused) == (["golden"], ["tokenizer", "decoder"])
    assert list(text_copy.parent.iterdir()) == [text_copy]
    assert set(contents(text_copy)) == set(before)


def test_damaged_files_are_made_again(text_copy: Path, text_model: Path) -> None:
    before = contents(text_copy)
    (text_copy / "golden.npz").write_bytes(b"damaged")
    (text_copy / "tokenizer.json").unlink()
    result = build(recipe_with(text_model), "cpu", text_copy)
    assert (result.ran, result.reused) == (["tokenizer", "golden"], ["decoder"])
    assert contents(text_copy) == before


@pytest.mark.parametrize(
    "record", ["", "{", "[]", '{"decoder": 3}', '{"decoder": {"key": 1, "files": {}, "facts": {}}}']
)
def test_a_damaged_record_is_no_obstacle(record: str, tmp_path: Path) -> None:
    (tmp_path / "build.json").write_text(record)
    assert set(read_record(tmp_path)) <= {"decoder"}


def test_killed_and_resumed_equals_undisturbed(text_artifact: Path, text_model: Path, tmp_path: Path) -> None:
    """A build that was killed between two steps goes on where it was, and its manifest is the undisturbed one's."""
    out = tmp_path / "out"
    code = textwrap.dedent("""
        import json, os, signal, sys
        from pathlib import Path
        from retentive_export import build
        from retentive_export.spec.recipe import parse_recipe

        def progress(step, event):
            if (step, event) == ("golden", "run"):
                os.kill(os.getpid(), signal.SIGKILL)

        build(parse_recipe(json.loads(sys.argv[1])), "cpu", Path(sys.argv[2]), progress=progress)
    """)
    recipe = text_recipe(text_model)
    command = [sys.executable, "-c", code, json.dumps(recipe), str(out)]
    assert subprocess.run(command, cwd=ROOT, stderr=subprocess.DEVNULL, check=False).returncode == -9
    assert not out.exists()
    result = build(parse_recipe(recipe), "cpu", out)
    assert (result.ran, result.reused) == (["golden"], ["tokenizer", "decoder"])
    assert contents(out)[MANIFEST] == contents(text_artifact)[MANIFEST]


KILLED = """
import hashlib, json, os, signal, sys
from pathlib import Path
from retentive_export import pipeline

class Job:  # three steps of small files in place of a model's
    version = 1
    def __init__(self, recipe, target, **rest): pass
    makes_bundle = False
    def check(self): pass
    def steps(self):
        def step(name, *files):
            def make(work):
                for file in files:
                    (work / file).write_text(f"{file} {Job.version}")
                return {name: Job.version}
            return name, [name, Job.version if name != "one" else 0], make
        return [step("one", "a", "b"), step("two", "c"), step("three", "d", "e")]
    def manifest(self, files, facts):
        class Manifest:
            bundle = None
            def to_json(self): return json.dumps([sorted(files), facts])
        made = Manifest()
        made.files = files
        return made

pipeline.Job = Job
pipeline.target = lambda *args, **rest: None
class recipe:
    class model: dtype = "float32"

def contents(path):
    return {p.name: p.read_bytes() for p in path.iterdir()} if path.exists() else None

def expected(root):
    pipeline.build(recipe, "cpu", root / "expected")
    return contents(root / "expected")

root = Path(sys.argv[1])
Job.version = 1
first = expected(root)
Job.version = 2
second = expected(root)
points = 0
for call in ("replace", "fsync", "rename", "unlink", "mkdir"):
    for when in ("before", "after"):
        for point in range(100):
            out = root / f"{call}-{when}-{point}"
            Job.version = 1
            pipeline.build(recipe, "cpu", out)
            Job.version = 2
            child = os.fork()
            if child == 0:
                real, count = getattr(os, call), 0
                def deadly(*args, **kwargs):
                    global count
                    count += 1
                    if when == "before" and count > point: os.kill(os.getpid(), signal.SIGKILL)
                    value = real(*args, **kwargs)
                    if count > point: os.kill(os.getpid(), signal.SIGKILL)
                    return value
                setattr(os, call, deadly)
                pipeline.build(recipe, "cpu", out)
                os._exit(0)
            status = os.waitpid(child, 0)[1]
            left = contents(out)
            assert left in (None, first, second), (call, when, point, left)
            if left is None:  # between the two renames: the old one stands beside, the new one is complete
                assert contents(out.with_name(out.name + ".old")) == first
                assert contents(out.with_name(out.name + ".partial")) == second
            result = pipeline.build(recipe, "cpu", out)
            assert contents(out) == second, (call, when, point)
            assert "one" in result.reused
            if status == 0:
                break
            points += 1
assert {p.name for p in root.iterdir() if p.suffix} == set()
print(points)
"""


def test_killed_anywhere(tmp_path: Path) -> None:
    """SIGKILL before and after every rename, fsync, mkdir and unlink of a rebuild: the old artifact or the new one."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 20


def test_a_full_disk_in_the_middle_of_a_step(vision_model: Path, tmp_path: Path) -> None:
    """The kernel refuses to let vision.onnx.data grow; nothing appears at OUT, and finished steps are kept."""
    out = tmp_path / "out"
    recipe = parse_recipe(vision_recipe(vision_model))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, hard))
    try:
        with pytest.raises(StorageError, match=r"out\.partial.* cannot be written: File too large") as error:
            build(recipe, "cpu", out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert error.value.exit_code == 9
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out.partial"]
    assert list(json.loads((tmp_path / "out.partial" / "build.json").read_text())) == ["tokenizer"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_at_the_end(call: str, text_copy: Path, text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(text_copy)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        with pytest.raises(StorageError, match="No space left on device"):
            build(recipe_with(text_model), "cpu", text_copy)
    assert contents(text_copy) == before
    assert build(recipe_with(text_model), "cpu", text_copy).ran == []


Change = Callable[[dict[str, Any]], None]
REFUSED: list[tuple[str, Change, type[Exception], list[str]]] = [
    ("budget", lambda r: r["cache"].update(budget={"rows": 9}), RecipeError, ["9 local rows", "2 + 8", "at least 10"]),
    ("chunk", lambda r: r["cache"].update(chunk=9), RecipeError, ["chunk is 9", "window is 8"]),
    ("policy", lambda r: r["cache"].update(policy="random"), RecipeError, ["cache.policy 'random'", "retentive"]),
    ("bfloat16", lambda r: r["model"].update(dtype="bfloat16"), RecipeError, ["model.dtype is 'bfloat16'", "float32"]),
    ("frame", lambda r: r["model"].update(frame=[8, 8]), RecipeError, ["model.frame is [8, 8]", "takes no frames"]),
    ("calibration", lambda r: r.update(calibration="/nowhere"), RecipeError, ["calibration /nowhere"]),
    ("package", lambda r: r["model"].update(source="package:absent_weights"), RecipeError, ["'absent_weights'"]),
    ("source", lambda r: r["model"].update(source="./nothing-here"), ModelError, ["nothing-here"]),
    ("hub", lambda r: r["model"].update(source="owner/name"), ModelError, ["revision=None", "40 hex digits"]),
]


@pytest.mark.parametrize(("change", "kind", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_before_anything_is_written(
    change: Change, kind: type[Exception], words: list[str], text_model: Path, tmp_path: Path
) -> None:
    data = text_recipe(text_model)
    change(data)
    with pytest.raises(kind) as error:
        build(parse_recipe(data), "cpu", tmp_path / "out")
    for word in words:
        assert word in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_vision_model_needs_a_frame(vision_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"model\.frame is null.*\[height, width\]"):
        build(parse_recipe({"model": {"source": str(vision_model)}}), "cpu", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unknown_target(text_model: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="target is 'toaster', and must be one of: cpu"):
        build(recipe_with(text_model), "toaster", tmp_path / "out")


@pytest.mark.parametrize("absent", ["torch", "transformers", "onnxscript", "onnx_ir"])
def test_missing_extra(absent: str, text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else real(name, *rest))
    with pytest.raises(MissingExtraError, match=f"'{absent}', which is not installed") as error:
        build(recipe_with(text_model), "cpu", tmp_path / "out")
    assert error.value.exit_code == 8
    assert error.value.hint == "pip install 'retentive-export[export]'"
    assert list(tmp_path.iterdir()) == []


def test_what_stands_at_out_is_not_overwritten(text_model: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    before = contents(tmp_path)
    for name in ("file", "full"):
        with pytest.raises(StorageError, match="exists and is not an artifact"):
            build(recipe_with(text_model), "cpu", tmp_path / name)
    with pytest.raises(StorageError):
        build(recipe_with(text_model), "cpu", tmp_path / "file" / "below")
    assert contents(tmp_path) == before


def test_describe_writes_nothing(text_artifact: Path, text_model: Path, tmp_path: Path) -> None:
    target, plan, facts = describe(recipe_with(text_model), "cpu")
    assert target.name == "cpu"
    assert facts["state_bytes"] == plan.state_bytes
    assert facts["model"] == "text"
    assert facts["parameters"] > 10_000
    assert list(tmp_path.iterdir()) == []
