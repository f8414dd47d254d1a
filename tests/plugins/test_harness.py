"""The GPU harness without a GPU: over the C++ reference it passes, over a double with a fault it finds the fault."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

PASSED, FAILED, MISUSED, NOT_RUN = range(4)
FAULTS = {
    "output": "output is 0.01, limit",
    "victim": "victim is row",
    "meta": "row_meta differs in 1 rows",
    "in_place": "retentive_transition in place gives other bits: importance",
    "unrepeatable": "retentive_attention, run a second time, gives other bits: output",
    "unwritten": "retentive_gate, run a second time, gives other bits: retention",
    "overrun": "retentive_attention writes beside its output output",
    "input": "an operator changes its inputs and gives other bits: query",
    "refusal": "retentive_attention, where steps is 0, gives status 0 instead of 1",
}
"""Faults of plugins/harness/double/fault.h, and what `check` must say."""


@pytest.fixture(scope="module")
def harness(plugin_build: Path) -> Path:
    return plugin_build / "retentive_harness_on_cpu"


@pytest.fixture(scope="module")
def broken(plugin_build: Path) -> Path:
    return plugin_build / "retentive_harness_broken"


def run(program: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=120)


def results(path: Path) -> dict[str, Any]:
    loaded = json.loads(path.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def test_the_quick_check_passes(harness: Path, tmp_path: Path) -> None:
    done = run(harness, "check", "--quick", "--json", tmp_path / "check.json")
    assert done.returncode == PASSED, done.stdout
    listed = run(harness, "check", "--quick", "--list").stdout.splitlines()
    assert done.stdout == f"{len(listed)} cases, 0 failed\n"
    found = results(tmp_path / "check.json")
    assert found["passed"] is True
    assert [case["name"] for case in found["cases"]] == listed
    assert all(case["passed"] and not case["failures"] for case in found["cases"])
    assert found["cases"][0]["counts"]["refused calls"] > 350
    compared = {"output", "received", "surprise", "visual_entropy", "importance_next", "entropy_next", "absorption"}
    compared |= {"retention", "importance", "entropy", "memory_mass", "recall_state", "visual_state", "value_scale"}
    assert compared <= set(found["worst"])
    assert all(0 <= worst["value"] <= worst["limit"] for worst in found["worst"].values())


def test_the_quick_list_reaches_every_type_and_store(harness: Path) -> None:
    names = run(harness, "check", "--quick", "--list").stdout
    for part in ("float32", "float16", "bfloat16", "int8", "int4", "d40", "d96", "d256", "residual", "+m11", "x0+y"):
        assert part in names
    assert "t9,1" in names


@pytest.mark.parametrize("topic", ["hostile", "padding", "occupied rows", "recency", "residual", "run: d64"])
def test_other_cases_pass(harness: Path, topic: str) -> None:
    done = run(harness, "check", "--filter", topic)
    assert done.returncode == PASSED, done.stdout


def test_plugins_are_run_too(harness: Path, plugin_build: Path) -> None:
    plugins = plugin_build / "libretentive_plugins_on_cpu.so"
    done = run(harness, "check", "--quick", "--plugins", plugins)
    assert done.returncode == PASSED, done.stdout


def test_other_bits_from_plugins_are_found(broken: Path, plugin_build: Path, tmp_path: Path) -> None:
    """These plugins are right, so that their bits are not those of the broken launch functions."""
    plugins = plugin_build / "libretentive_plugins_on_cpu.so"
    arguments = ("check", "--filter", "coarse rows alone", "--plugins", plugins, "--json", tmp_path / "check.json")
    assert run(broken, "victim", *arguments).returncode == FAILED
    (case,) = results(tmp_path / "check.json")["cases"]
    assert any("the plugin of retentive_gate gives other bits: victims" in text for text in case["failures"])


def test_a_result_file_that_cannot_be_is_refused_first(harness: Path) -> None:
    done = run(harness, "check", "--quick", "--json", "/nonexistent/check.json")
    assert done.returncode == NOT_RUN
    assert "cannot create '/nonexistent/check.json': No such file or directory" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(("fault", "message"), FAULTS.items())
def test_a_fault_is_found(broken: Path, tmp_path: Path, fault: str, message: str) -> None:
    done = run(broken, fault, "check", "--quick", "--json", tmp_path / "check.json")
    assert done.returncode == FAILED
    found = results(tmp_path / "check.json")
    assert found["passed"] is False
    failures = [text for case in found["cases"] for text in case["failures"]]
    assert any(message in text for text in failures), failures[:5]
    failed = [case["name"] for case in found["cases"] if not case["passed"]]
    lines = done.stdout.splitlines()
    assert all(line.startswith(f"FAILED {name}: ") for line, name in zip(lines[:-1], failed, strict=True))
    assert lines[-1] == f"{len(found['cases'])} cases, {len(failed)} failed"


def test_the_sweep_reports_every_size(harness: Path, tmp_path: Path) -> None:
    done = run(harness, "sweep", "--quick", "--commit", "abc123", "--json", tmp_path / "sweep.json")
    assert done.returncode == PASSED, done.stdout
    found = results(tmp_path / "sweep.json")
    assert (found["command"], found["commit"], found["quick"], found["passed"]) == ("sweep", "abc123", True, True)
    listed = run(harness, "sweep", "--quick", "--list").stdout.splitlines()
    assert [size["name"] for size in found["sizes"]] == listed
    copy = found["copy"]["gigabytes_per_second"]["median"]
    for size in found["sizes"]:
        times = size["microseconds"]
        assert 0 < times["p10"] <= times["median"] <= times["p90"]
        moved = size["bytes_read"] + size["bytes_written"]
        assert size["gigabytes_per_second"] == pytest.approx(moved / times["median"] / 1e3, rel=1e-6)
        assert size["share_of_copy"] == pytest.approx(size["gigabytes_per_second"] / copy, rel=1e-6)
        assert size["graph_steps"] % size["layers_in_rotation"] == 0
        assert size["layers_in_rotation"] * size["state_bytes"] >= 4 * found["device"]["l2_bytes"]


def test_bytes_of_a_decode_step(harness: Path, tmp_path: Path) -> None:
    """By hand: 256 bfloat16 rows of 128 channels in 8 KV heads, each read by 4 query heads."""
    name = "decode: d128 bfloat16 g4 h8 b1 x256"
    run(harness, "sweep", "--quick", "--filter", name, "--json", tmp_path / "sweep.json")
    (size,) = results(tmp_path / "sweep.json")["sizes"]
    row = 2 * 128 * 2 + 8
    assert size["state_bytes"] == 8 * 256 * (row + 4 + 4)
    assert size["bytes_read"] == size["state_bytes"] + (32 + 8 + 8) * 128 * 2 + 8
    assert size["bytes_written"] == 8 * 256 * (4 + 4) + 32 * 128 * 2 + 8 * 8 + 8 * row


def test_no_speed_when_the_check_failed(broken: Path, tmp_path: Path) -> None:
    done = run(broken, "victim", "sweep", "--quick", "--json", tmp_path / "sweep.json")
    assert done.returncode == FAILED
    assert done.stdout.endswith("no speed is measured: the check failed\n")
    assert "GB/s" not in done.stdout
    assert not (tmp_path / "sweep.json").exists()


def test_no_speed_of_a_size_that_failed(broken: Path, tmp_path: Path) -> None:
    """The fault shows with 8 KV heads alone, which the quick check has not."""
    done = run(broken, "many_heads", "sweep", "--quick", "--json", tmp_path / "sweep.json")
    assert done.returncode == FAILED
    found = results(tmp_path / "sweep.json")
    assert (found["passed"], found["sizes"]) == (False, [])
    assert "FAILED decode: d128 bfloat16 g4 h8 b1 x256 t1: output is" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "a command is needed: check, sweep or info"),
        (("measure",), "the command is 'measure'; accepted: check, sweep or info"),
        (("check", "--fast"), "check takes no argument '--fast'"),
        (("info", "--commit", "x"), "info takes no argument '--commit'"),
        (("check", "--filter"), "--filter needs a value"),
        (("check", "--filter", "nothing like it"), "no case's name holds 'nothing like it'"),
        (("sweep", "--filter", "nothing like it"), "no size's name holds 'nothing like it'"),
    ],
)
def test_wrong_arguments(harness: Path, arguments: tuple[str, ...], message: str) -> None:
    done = run(harness, *arguments)
    assert done.returncode == MISUSED
    assert message in done.stderr
    assert done.stdout == ""


def test_a_missing_plugin_library(harness: Path, tmp_path: Path) -> None:
    done = run(harness, "check", "--quick", "--plugins", tmp_path / "none.so")
    assert done.returncode == NOT_RUN
    assert str(tmp_path / "none.so") in done.stderr


def test_help_and_info(harness: Path) -> None:
    done = run(harness, "check", "--help")
    assert done.returncode == PASSED
    assert "retentive_harness check [--quick]" in done.stdout
    device = json.loads(run(harness, "info").stdout)["device"]
    assert device["name"] == "host memory, no GPU"
    assert {"compute_capability", "driver", "cuda_runtime", "multiprocessors", "l2_bytes"} <= set(device)
