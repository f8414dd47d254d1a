"""`targets`, and which of them get a bundle here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from retentive_export.bundle import make
from retentive_export.errors import DeviceError, MissingExtraError
from retentive_export.spec.targets import load_targets
from tests.cli.calls import call


@pytest.mark.parametrize(
    ("here", "bundles"),
    [
        (DeviceError("no GPU can be used here"), {"jetson-orin", "jetson-orin-nano", "jetson-thor", "h100"}),
        (MissingExtraError.of("cuda-bindings", "cuda"), {"jetson-orin", "jetson-orin-nano", "jetson-thor", "h100"}),
        ((8, 7), {"jetson-thor", "h100"}),
    ],
)
def test_who_gets_a_bundle(here: object, bundles: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A target of a known kind that this machine is not; where it is asked for, also one that it is."""

    def capability() -> object:
        if isinstance(here, Exception):
            raise here
        return here

    known = load_targets()
    names = ["jetson-orin", "jetson-orin-nano", "jetson-thor", "h100", "tensorrt", "rtx", "cpu", "onnx"]
    monkeypatch.setattr(make, "compute_capability", capability)
    assert {name for name in names if make.makes_bundle(known[name])} == bundles
    always = {name for name in names if make.makes_bundle(known[name], always=True)}
    assert always == {"jetson-orin", "jetson-orin-nano", "jetson-thor", "h100"}


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
