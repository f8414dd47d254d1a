"""`targets`, and the refusal to build engines for another machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retentive_export.backends.tensorrt import builder
from retentive_export.errors import DeviceError, MissingExtraError
from retentive_export.spec.targets import load_targets
from tests.cli.calls import call


@pytest.mark.parametrize(
    ("here", "words"),
    [
        (DeviceError("no GPU can be used here"), "(SM 8.7): no GPU can be used here"),
        (MissingExtraError.of("cuda-bindings", "cuda"), "'cuda-bindings', which is not installed"),
        ((9, 0), "this machine's GPU has SM 9.0"),
    ],
)
def test_engines_of_another_machine_are_not_built(
    here: object, words: str, recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capability() -> object:
        if isinstance(here, Exception):
            raise here
        return here

    monkeypatch.setattr(builder, "compute_capability", capability)
    result = call("build", recipe_file, "--target", "jetson-orin", "-o", tmp_path / "out")
    assert result.exit_code == 12
    assert "target 'jetson-orin' builds its engines on the device itself (SM 8.7)" in result.stderr
    assert words in result.stderr
    assert "hint: here, 'plan RECIPE --target jetson-orin'" in result.stderr
    assert "'--target onnx' makes the graphs" in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_right_machine_may_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a target that names no GPU asks for none."""
    known = load_targets()
    monkeypatch.setattr(builder, "compute_capability", lambda: (8, 7))
    for name in ("jetson-orin", "jetson-orin-nano", "tensorrt", "rtx", "cpu", "onnx"):
        builder.check_machine(known[name])
    with pytest.raises(DeviceError, match=r"SM 11\.0.*has SM 8\.7"):
        builder.check_machine(known["jetson-thor"])


def test_targets(targets_file: Path) -> None:
    table = call("targets").stdout
    for words in ("jetson-orin-nano", "8 GB Super", "102", "JetPack 6.2; JetPack 7.2", "anywhere, no GPU needed"):
        assert words in table
    data = json.loads(call("targets", "--json", "--targets-file", targets_file).stdout)
    assert [one["name"] for one in data] == [*load_targets(), "mine"]
    targets_file.write_text("mine: {backend: cuda}")
    refused = call("targets", "--targets-file", targets_file)
    assert refused.exit_code == 3
    assert "mine: description: required" in refused.stderr
