"""SIGKILL at 20 random moments of making a bundle, and of finishing one: what is started again gives the same bytes.

Here with a tiny model whose graphs are there already, and a wheel of one line; scripts/kill_and_resume.py does the same
to whole commands.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, text_recipe

SCRIPT = """
import hashlib, json, os, random, shutil, signal, sys, time
from pathlib import Path
from retentive_export import pipeline
from retentive_export.bundle import finish, make
from retentive_export.spec.recipe import parse_recipe
import onnxruntime, tokenizers  # before the forks

what, root, artifact, library = sys.argv[1], *map(Path, sys.argv[2:5])
recipe = parse_recipe(json.loads(sys.argv[5]))

def build_wheel(checkout, output):
    output.mkdir()
    (output / "x.whl").write_text("wheel")
    return "x.whl"

make.build_wheel = build_wheel
pipeline.Job.check = lambda job: None  # which loads the model

def build(place):
    pipeline.build(recipe, "jetson-orin", place / "out", plugin_library=library, archive=True)

def complete(place):
    finish(root / "bundle" / "out", place / "out", target_name="cpu")

def fresh(name):
    place = root / name
    place.mkdir()
    if what == "build":
        shutil.copytree(artifact, place / "out")
    return place

def contents(place):
    files = (path for path in place.rglob("*") if path.is_file())
    return {str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

def forked(place, kill_after=None):
    child = os.fork()
    if child == 0:
        (build if what == "build" else complete)(place)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

(root / "bundle").mkdir()
shutil.copytree(artifact, root / "bundle" / "out")
build(root / "bundle")
started = time.monotonic()
first = fresh("first")
assert forked(first) == 0
seconds = time.monotonic() - started
expected, moments, killed = contents(first), random.Random(5), 0
for point in range(20):
    place = fresh(f"point-{point}")
    killed += forked(place, moments.uniform(0, seconds)) == signal.SIGKILL
    assert forked(place) == 0
    assert contents(place) == expected, (point, contents(place).items() ^ expected.items())
print(killed)
"""


@pytest.mark.parametrize("what", ["build", "finish"])
def test_killed_at_random(what: str, text_artifact: Path, text_model: Path, orin_library: Path, tmp_path: Path) -> None:
    args = [what, tmp_path, text_artifact, orin_library, json.dumps(text_recipe(text_model))]
    command = [sys.executable, "-c", SCRIPT, *map(str, args)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) >= 5, "most moments came too late"
