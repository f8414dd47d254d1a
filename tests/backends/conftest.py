"""The tiny vision artifact with engines for TensorRT-RTX, and a fake GPU that runs them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retentive_export.backends import open_backend
from retentive_export.backends.tensorrt import device
from retentive_export.backends.tensorrt.runtime import TensorRTBackend
from retentive_export.backends.tensorrt.vendor import Vendor
from retentive_export.spec.manifest import MANIFEST, read_manifest
from tests.backends.fake_cuda import FakeCuda
from tests.backends.fake_tensorrt import FakeTensorRT
from tests.conftest import build_artifact, vision_recipe


@pytest.fixture(scope="session")
def plugin_library(plugin_build: Path) -> Path:
    """libretentive_plugins.so."""
    return plugin_build / "libretentive_plugins.so"


@pytest.fixture(scope="session")
def rtx_artifact(
    vision_model: Path, vision_artifact: Path, plugin_library: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The vision artifact with engines for TensorRT-RTX, read-only by agreement."""
    output = Path(shutil.copytree(vision_artifact, tmp_path_factory.mktemp("rtx") / "out"))
    return build_artifact(vision_recipe(vision_model), output, "rtx", plugin_library=plugin_library).directory


class FakeGpu:
    """A GPU that ONNX Runtime stands in for.

    artifact: a directory with engines for the backend. cuda, trt: what the backend takes for the vendor's libraries.
    """

    def __init__(self, artifact: Path, version: str, capability: tuple[int, int]) -> None:
        self.artifact, self.manifest = artifact, read_manifest(artifact)
        self.cuda = FakeCuda(capability)
        self.trt = FakeTensorRT(version, artifact, self.manifest, self.cuda)

    def open(self, **options: Any) -> TensorRTBackend:
        """The artifact on this GPU."""
        assert self.manifest.engine is not None
        backend = open_backend(self.manifest.engine.backend, self.artifact, **options)
        assert isinstance(backend, TensorRTBackend)
        return backend


TENSORRT = {
    "backend": "tensorrt",
    "version": "10.3.0",
    "compute_capability": [8, 7],
    "profiles": [[1, 1, 1], [1, 8, 8]],
}
"""What differs in an engine section that TensorRT 10.3 on a Jetson Orin would write."""


@pytest.fixture(params=["tensorrt_rtx", "tensorrt"])
def gpu(request: pytest.FixtureRequest, rtx_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    """The vision artifact with engines, on a fake GPU of either backend."""
    artifact = Path(shutil.copytree(rtx_artifact, tmp_path / "artifact"))
    manifest = json.loads((artifact / MANIFEST).read_text())
    if request.param == "tensorrt":
        manifest["engine"] |= TENSORRT
        (artifact / MANIFEST).write_text(json.dumps(manifest))
    capability = (8, 7) if request.param == "tensorrt" else (8, 6)
    fake = FakeGpu(artifact, manifest["engine"]["version"], capability)
    monkeypatch.setattr(device, "_runtime", lambda: fake.cuda)
    monkeypatch.setattr(Vendor, "load", lambda self: fake.trt)
    return fake
