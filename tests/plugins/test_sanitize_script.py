"""scripts/gpu/sanitize.sh without a GPU: a stand-in for compute-sanitizer runs the harness over the C++ reference."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/gpu/sanitize.sh"
TOOL = r"""#!/usr/bin/env bash
# compute-sanitizer --tool TOOL --error-exitcode 1 PROGRAM ARGUMENTS: runs the program, reports FOUND problems.
tool="$2"
shift 4
"$@" || exit
if [ "$tool" = racecheck ]; then
  echo "========= RACECHECK SUMMARY: ${FOUND:-0} hazards displayed (${FOUND:-0} errors, 0 warnings)"
else
  echo "========= ERROR SUMMARY: ${FOUND:-0} errors"
fi
[ "${FOUND:-0}" -eq 0 ]
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A folder with the stand-in, for the front of the PATH."""
    program = tmp_path / "compute-sanitizer"
    program.write_text(TOOL, encoding="utf-8")
    program.chmod(0o755)
    return tmp_path


def sanitize(harness: Path, tools: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", **environment}
    command = [str(SCRIPT), str(harness), "2"]
    return subprocess.run(command, env=given, capture_output=True, text=True, check=False, timeout=300)


def cases(harness: Path) -> list[str]:
    command = [str(harness), "check", "--quick", "--list"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_case_under_every_tool(plugin_build: Path, tools: Path) -> None:
    harness = plugin_build / "retentive_harness_on_cpu"
    done = sanitize(harness, tools)
    count = len(cases(harness))
    kinds = ("memcheck", "racecheck", "initcheck", "synccheck")
    assert done.stdout.splitlines() == [f"{kind}: {count} cases, {count} clean" for kind in kinds]
    assert done.returncode == 0


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_what_a_tool_finds_is_named_with_its_case(plugin_build: Path, tools: Path, tool: str) -> None:
    harness = plugin_build / "retentive_harness_on_cpu"
    done = sanitize(harness, tools, TOOLS=tool, FOUND="2")
    listed = cases(harness)
    assert done.returncode == 1
    assert done.stdout.endswith(f"{tool}: {len(listed)} cases, 0 clean\n")
    assert {f"{tool}: {name}" for name in listed} <= set(done.stdout.splitlines())


def test_a_case_that_fails_its_check_is_not_clean(plugin_build: Path, tools: Path) -> None:
    """Whatever compute-sanitizer says of it."""
    broken = tools / "harness"
    broken.write_text(f'#!/bin/sh\nexec "{plugin_build}/retentive_harness_broken" output "$@"\n', encoding="utf-8")
    broken.chmod(0o755)
    done = sanitize(broken, tools, TOOLS="synccheck")
    assert done.returncode == 1
    assert "output is 0.01, limit" in done.stdout


def test_without_a_harness_it_says_how_to_get_one(tools: Path) -> None:
    done = sanitize(tools / "nothing", tools)
    assert done.returncode == 2
    assert "scripts/build_plugins.sh" in done.stderr
