"""The registry: what it says of machines, what a user's file may say, and what is refused with field, value, remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from retentive_export.backends.tensorrt.vendor import VENDORS
from retentive_export.errors import RecipeError
from retentive_export.spec.targets import load_targets, target

GB = 10**9
# target -> compute capability, (memory in GB, GB/s) of each board
MACHINES: dict[str, tuple[str, list[tuple[int, float]]]] = {
    "jetson-orin-nano": ("8.7", [(8, 68), (8, 102)]),
    "jetson-orin-nx": ("8.7", [(16, 102)]),
    "jetson-orin": ("8.7", [(64, 205)]),
    "jetson-thor": ("11.0", [(64, 273), (128, 273)]),
    "a100": ("8.0", [(80, 2039)]),
    "l4": ("8.9", [(24, 300)]),
    "l40s": ("8.9", [(48, 864)]),
    "h100": ("9.0", [(80, 3350)]),
    "h200": ("9.0", [(141, 4800)]),
    "b200": ("10.0", [(180, 8000)]),
}
MINE: dict[str, Any] = {
    "description": "a board of mine",
    "backend": "tensorrt",
    "engines": "device",
    "precisions": ["float16", "int8"],
    "sm": ["8.7"],
    "boards": [{"name": "32 GB", "memory": "32 GB", "bandwidth": 205}],
}


def written(tmp_path: Path, **changes: Any) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"mine": {**MINE, **changes}}))
    return path


@pytest.mark.parametrize("name", MACHINES)
def test_machines(name: str) -> None:
    found, (sm, boards) = target(name), MACHINES[name]
    assert found.sm == (sm,)
    assert [(board.memory, board.bandwidth) for board in found.boards] == [(size * GB, speed) for size, speed in boards]
    assert (found.backend, found.engines) == ("tensorrt", "device")
    assert found.stacks
    assert found.is_jetson is name.startswith("jetson")


def test_the_others() -> None:
    known = load_targets()
    assert set(known) == {*MACHINES, "cpu", "onnx", "rtx", "tensorrt"}
    backends = {name: (known[name].backend, known[name].engines) for name in ("cpu", "onnx", "rtx", "tensorrt")}
    assert backends == {
        "cpu": ("onnxruntime", "none"),
        "onnx": (None, "none"),
        "rtx": ("tensorrt_rtx", "anywhere"),
        "tensorrt": ("tensorrt", "device"),
    }
    assert known["rtx"].capabilities == VENDORS["tensorrt_rtx"].architectures
    assert known["cpu"].model_dtypes == ("float32", "float16")


def test_no_float8_below_8_9_and_no_float4_below_10() -> None:
    for one in load_targets().values():
        for capability in one.capabilities:
            assert ("float8" in one.precisions) <= (capability >= (8, 9)), one.name
            assert ("float4" in one.precisions) <= (capability >= (10, 0)), one.name
    assert "float8" in target("l4").precisions


def test_jetson_stacks() -> None:
    stacks = {stack.name: stack for stack in target("jetson-orin").stacks}
    old, new = stacks["JetPack 6.2"], stacks["JetPack 7.2"]
    assert (old.cuda, old.tensorrt, old.os, old.python) == ("12.6", "10.3", "Ubuntu 22.04", "3.10")
    assert (new.cuda, new.tensorrt, new.os, new.python) == ("13.2", "10.16", "Ubuntu 24.04", "3.12")
    assert [stack.name for stack in target("jetson-thor").stacks] == ["JetPack 7.0", "JetPack 7.1", "JetPack 7.2"]


def test_a_file_of_the_users_adds_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"mine": MINE, "l4": {**MINE, "sm": ["8.9"]}}))
    known = load_targets(path)
    assert set(known) == set(load_targets()) | {"mine"}
    assert known["mine"].boards[0].memory == 32 * GB
    assert known["l4"].description == "a board of mine"
    assert target("mine", "float16", file=path) == known["mine"]
    assert "mine" not in load_targets()


def test_what_is_printed_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "all.yaml"
    known = load_targets()
    fields = {name: one.model_dump(mode="json", exclude={"name"}) for name, one in known.items()}
    path.write_text(yaml.safe_dump(fields))
    assert load_targets(path) == known


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"boards": [{"name": "x", "memory": "much", "bandwidth": 1}]}, ["mine: boards.0.memory", "512 KiB", "'much'"]),
        ({"boards": [{"name": "x", "memory": 0, "bandwidth": 1}]}, ["boards.0.memory", "greater than or equal to 1"]),
        ({"boards": [{"name": "x", "memory": 1, "bandwidth": 0}]}, ["boards.0.bandwidth", "greater than 0", "got 0"]),
        ({"boards": [{"name": "x", "memory": 1}]}, ["boards.0.bandwidth: required"]),
        ({"boards": MINE["boards"] * 2}, ["boards has '32 GB' twice"]),
        ({"sm": ["87"]}, ["sm.0", "pattern", "'87'"]),
        ({"precisions": ["float16", "float8"]}, ["float8", "from SM 8.9 on", "sm has 8.7"]),
        ({"precisions": ["float16", "fp8"]}, ["precisions.1", "'float8'", "'fp8'"]),
        ({"precisions": ["int8"]}, ["precisions has none of float32, float16, bfloat16"]),
        ({"backend": "cuda"}, ["backend", "'onnxruntime', 'tensorrt' or 'tensorrt_rtx'", "'cuda'"]),
        ({"backend": "onnxruntime"}, ["engines is 'device'", "must be 'none'"]),
        ({"engines": "none"}, ["engines is 'none'", "'device' or 'anywhere'"]),
        ({"builder_flags": ["FP16"]}, ["builder_flags has FP16", "precision is in the graph", "model.dtype"]),
        ({"efficiency": 1.5}, ["efficiency", "less than or equal to 1", "1.5"]),
        ({"stacks": [{"name": "x", "cuda": 12.6, "tensorrt": "10"}]}, ["stacks.0.cuda", "string", "12.6"]),
        ({"memory": 3}, ["memory: unknown key"]),
    ],
)
def test_wrong_fields_are_refused(changes: dict[str, Any], words: list[str], tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as error:
        load_targets(written(tmp_path, **changes))
    for word in ("mine.yaml", *words, "targets --json"):
        assert word in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must be a mapping"),
        ("- x", "must be a mapping"),
        ("mine: 3", "'mine' is int"),
        ("My Board: {}", "'My Board': a name has lower-case letters"),
        ("mine: [", "not YAML"),
        ("mine: &a {sm: *a}", "mine"),
    ],
)
def test_other_files_are_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=words):
        load_targets(path)
    with pytest.raises(RecipeError, match="cannot be read"):
        load_targets(tmp_path / "absent.yaml")


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"board is '32 GB'.*'T4000', 'T5000'"):
        target("jetson-thor").board("32 GB")
    with pytest.raises(RecipeError, match="none, give its memory and bandwidth"):
        target("cpu").board("x")
    assert target("jetson-thor").board("T5000").memory == 128 * GB
    with pytest.raises(RecipeError, match=r"target is 'xavier'.*jetson-orin-nano"):
        target("xavier")
