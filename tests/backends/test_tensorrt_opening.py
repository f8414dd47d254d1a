"""What `tensorrt` and `tensorrt_rtx` refuse to open, and the words for it."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from retentive_export.backends import open_backend
from retentive_export.backends.tensorrt import device
from retentive_export.backends.tensorrt.vendor import VENDORS
from retentive_export.errors import ArtifactError, DeviceError, MissingExtraError, RecipeError
from retentive_export.spec.manifest import MANIFEST
from tests.backends.conftest import FakeGpu

rtx = pytest.mark.parametrize("gpu", ["tensorrt_rtx"], indirect=True)
tensorrt = pytest.mark.parametrize("gpu", ["tensorrt"], indirect=True)


def test_another_version(gpu: FakeGpu) -> None:
    gpu.trt.__version__ = "11.4.0.1"
    with pytest.raises(ArtifactError, match=r"the engines were built by .* and 11\.4\.0\.1 is installed") as error:
        gpu.open()
    assert "build again with this version" in str(error.value.hint)
    assert gpu.trt.plans_loaded == 0


@tensorrt
def test_another_gpu(gpu: FakeGpu) -> None:
    gpu.cuda.capability = (8, 6)
    with pytest.raises(ArtifactError, match=r"compute capability 8\.7, and this one's is 8\.6"):
        gpu.open()


@rtx
@pytest.mark.parametrize("capability", [(8, 7), (9, 0), (10, 0), (11, 0)])
def test_gpus_that_tensorrt_rtx_refuses(capability: tuple[int, int], gpu: FakeGpu) -> None:
    gpu.cuda.capability = capability
    words = r"{}\.{}, and TensorRT-RTX runs on: 8\.0, 8\.6, 8\.9, 12\.0, 12\.1".format(*capability)
    with pytest.raises(DeviceError, match=words) as error:
        gpu.open()
    assert "the backend tensorrt" in str(error.value.hint)


@rtx
@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (12, 0), (12, 1)])
def test_one_engine_for_every_gpu_of_tensorrt_rtx(capability: tuple[int, int], gpu: FakeGpu) -> None:
    gpu.cuda.capability = capability
    assert gpu.open().state_bytes == gpu.manifest.state_bytes


def test_an_engine_whose_type_is_not_the_contracts(gpu: FakeGpu) -> None:
    gpu.trt.changed["logits"] = "float16"
    with pytest.raises(ArtifactError, match=r"logits of the engine/decoder\.plan is an output of float16"):
        gpu.open()


def test_a_device_that_is_not_there(gpu: FakeGpu) -> None:
    with pytest.raises(DeviceError, match="device_id is 1, and this machine has 1 GPUs, numbered from 0"):
        gpu.open(device_id=1)


def test_too_little_memory(gpu: FakeGpu) -> None:
    gpu.cuda.limit = gpu.manifest.state_bytes - 1
    with pytest.raises(DeviceError, match="cudaMalloc: cudaErrorMemoryAllocation"):
        gpu.open()


@tensorrt
def test_a_profile_that_the_engine_lacks(gpu: FakeGpu) -> None:
    gpu.trt.engine = gpu.trt.engine.model_copy(update={"profiles": gpu.trt.engine.profiles[:1]})
    with pytest.raises(DeviceError, match="TensorRT cannot make an execution context"):
        gpu.open()


def test_options(gpu: FakeGpu) -> None:
    with pytest.raises(RecipeError, match=r"threads is 2, and the backend tensorrt.* computes on the GPU alone"):
        gpu.open(threads=2)
    with pytest.raises(RecipeError, match="has no option 'provider'; it has: device_id, cuda_graph, verify, threads"):
        gpu.open(provider="cuda")


def test_a_plugin_library_of_another_machine(gpu: FakeGpu) -> None:
    """Whole by its hash, and not loadable."""
    manifest = json.loads((gpu.artifact / MANIFEST).read_text())
    manifest["engine"]["plugin_library"] = "tokenizer.json"
    (gpu.artifact / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match=r"the plugin library .*tokenizer\.json cannot be loaded: .*ELF"):
        gpu.open()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_missing_packages(name: str, gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    real = importlib.util.find_spec
    absent = {"tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"}
    with monkeypatch.context() as patched:
        patched.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in absent else real(name, *rest))
        with pytest.raises(MissingExtraError, match="'tensorrt") as error:
            VENDORS[name].load()
    assert error.value.hint == f"pip install 'retentive-export[{VENDORS[name].extra}]'"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "cuda" else real(name, *rest))
    with pytest.raises(MissingExtraError, match="'cuda-bindings'"):
        device.compute_capability()


@pytest.mark.parametrize(
    ("version", "accepted"),
    [("8.6.1", 0), ("10.2.0.19", 0), ("10.3.0", 1), ("10.16.2.10", 1), ("11.0.0.1", 1), ("11.4.1", 1), ("12.0.0", 0)],
)
def test_versions_of_tensorrt(version: str, accepted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = SimpleNamespace(__version__=version, __spec__=SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tensorrt", module)
    if accepted:
        assert VENDORS["tensorrt"].version() == version
    else:
        with pytest.raises(MissingExtraError, match=rf"TensorRT {version} is installed, and versions 10\.3 to 11\.x"):
            VENDORS["tensorrt"].load()


def test_a_library_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> Any:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(MissingExtraError, match=r"TensorRT is installed, and cannot be loaded: libnvinfer\.so\.10"):
        VENDORS["tensorrt"].load()


def test_backends_are_imported_when_they_are_opened() -> None:
    """Naming the backends imports nothing of a vendor."""
    import subprocess

    code = (
        "import sys, retentive_export, retentive_export.backends.tensorrt.runtime\n"
        "vendors = {'tensorrt', 'tensorrt_rtx', 'tensorrt_rtx_bindings', 'cuda', 'onnxruntime', 'torch'}\n"
        "assert not vendors & set(sys.modules), vendors & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_backend(gpu: FakeGpu) -> None:
    with pytest.raises(RecipeError, match="must be one of: onnxruntime, torch, tensorrt, tensorrt_rtx"):
        open_backend("abacus", gpu.artifact)
