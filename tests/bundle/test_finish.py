"""`finish`: a verified bundle becomes a validated artifact, in resumable steps, with the light runtime alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retentive_export as rx
from retentive_export.backends.tensorrt.builder import EnginePlan
from retentive_export.bundle import checksum, device, finish, machine
from retentive_export.errors import DeviceError, ExportError, ValidationError
from retentive_export.pipeline import BuildResult
from retentive_export.spec.bundle import CHECKSUM, BundleLibrary, BundleSection
from retentive_export.spec.manifest import MANIFEST, EngineSection, file_entry, read_manifest, verify_files
from retentive_export.spec.targets import load_targets
from retentive_export.validate import ValidationReport
from tests.bundle.test_bundle_build import WHEEL, files
from tests.cli.calls import call
from tests.doctor.machines import Machine, host_with_gpu, jetson, plugin_library


def test_on_the_cpu(bundle: Path, signed_build: BuildResult, keys: Path) -> None:
    """Verified, copied, validated; the artifact is one like any other, and a second run reuses it."""
    before = files(bundle)
    events: list[tuple[str, str]] = []
    result = finish(
        bundle, target_name="cpu", key=keys / "key.pub.pem", progress=lambda step, event: events.append((step, event))
    )
    assert result.directory == bundle.with_name("orin.cpu")
    assert (result.ran, result.reused) == (["files", "validate"], [])
    assert events == [(step, event) for step in ("verify", "files", "validate") for event in ("run", "done")]
    assert result.verdict == "passed: every limit is kept"
    manifest = read_manifest(result.directory)
    assert (manifest.target, manifest.bundle, manifest.engine) == ("cpu", None, None)
    reports = {f"report/validation.{kind}" for kind in ("json", "md", "html")}
    source = {name for name in signed_build.manifest.files if not name.startswith(("plugins/", "runtime/", "README"))}
    assert set(manifest.files) == source | reports
    assert set(files(result.directory)) == {*manifest.files, MANIFEST, "build.json"}
    verify_files(result.directory, manifest)
    assert json.loads((result.report / "validation.json").read_text())["passed"] is True
    assert rx.Session.open(result.directory).ask("hello", max_new_tokens=3) is not None
    assert files(bundle) == before
    made = files(result.directory)
    again = finish(bundle, target_name="cpu")
    assert (again.ran, again.reused, again.verdict) == ([], ["files", "validate"], result.verdict)
    assert files(result.directory) == made
    elsewhere = finish(bundle, bundle.with_name("other"), target_name="cpu")
    assert files(elsewhere.directory) == made


def test_an_archive_is_unpacked_beside_itself(archive: Path, signed_build: BuildResult, keys: Path) -> None:
    for _ in range(2):
        result = finish(archive, target_name="cpu", key=keys / "key.pub.pem")
        assert result.directory == archive.with_name("packed.cpu")
        unpacked = files(archive.with_name("packed"))
        built = files(signed_build.directory)
        assert unpacked == {name: data for name, data in built.items() if name != "build.json"}
    assert sorted(path.name for path in archive.parent.iterdir()) == ["packed", "packed.cpu", "packed.tar.zst"]


def test_the_command_line(bundle: Path, keys: Path) -> None:
    shown = call("finish", bundle, "--target", "cpu", "--key", keys / "key.pub.pem", "-v")
    assert shown.exit_code == 0
    assert "passed: every limit is kept" in shown.stdout
    assert "logit error" in shown.stdout
    assert "verify: done" in shown.stderr
    data = json.loads(call("finish", bundle, "--target", "cpu", "--json").stdout)
    assert (data["target"], data["ran"], data["reused"]) == ("cpu", [], ["files", "validate"])
    wrong = call("finish", bundle, "--target", "cpu", "--key", keys / "other.pub.pem", "--json")
    assert json.loads(wrong.stderr)["exit_code"] == wrong.exit_code == 6


BLOCKED = (
    "torch",
    *("transformers", "onnx", "onnx_ir", "onnxscript", "safetensors", "jinja2", "accelerate", "gguf"),
    *("tensorrt", "tensorrt_rtx", "cuda", "cryptography", "zstandard", "setuptools"),
)


def test_with_the_light_runtime_alone(signed_build: BuildResult, tmp_path: Path) -> None:
    """The bundle's own wheel, unpacked, in a process where nothing else of ours and no framework can be imported."""
    bundle = Path(shutil.copytree(signed_build.directory, tmp_path / "orin"))
    site = tmp_path / "site"
    shutil.unpack_archive(bundle / WHEEL, site, "zip")
    code = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({BLOCKED!r}))\n"
        "import retentive_export\n"
        f"assert retentive_export.__file__.startswith({str(site)!r}), retentive_export.__file__\n"
        "from retentive_export.cli import main\n"
        "main()\n"
    )
    command = [sys.executable, "-P", "-c", code, "finish", str(bundle), "--target", "cpu", "--json"]
    environment = os.environ | {"PYTHONPATH": str(site)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["validation"] == "passed: every limit is kept"
    build = [*command[:4], "build", "reference-vlm", "-o", str(tmp_path / "no")]
    done = subprocess.run(build, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert "this installation is a bundle's light runtime, without its weights" in done.stderr
    ask = [*command[:4], "run", str(tmp_path / "orin.cpu"), "--prompt", "hello"]
    done = subprocess.run(ask, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def forge(bundle: Path, name: str) -> None:
    """Make the manifest vouch for a file as it is now."""
    data = json.loads((bundle / MANIFEST).read_text())
    data["files"][name] = file_entry(bundle / name).model_dump()
    content = json.dumps(data).encode()
    (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_bytes(checksum(content))


def test_outputs_that_differ(bundle: Path) -> None:
    """No artifact appears, the report does; the next try begins with the validation."""
    with np.load(bundle / "golden.npz") as golden:
        arrays = dict(golden)
    arrays["logits"] = arrays["logits"] + np.linspace(0, 1, arrays["logits"].shape[-1], dtype=np.float32)
    np.savez_compressed(bundle / "golden.npz", **arrays)
    forge(bundle, "golden.npz")
    for _ in range(2):
        with pytest.raises(
            ValidationError, match=r"tiny-text on cpu differs from its golden run: logit error"
        ) as error:
            finish(bundle, target_name="cpu")
        assert error.value.exit_code == 10
        report = bundle.with_name("orin.cpu.partial") / "report"
        assert error.value.hint == f"the report is in {report}"
        assert json.loads((report / "validation.json").read_text())["passed"] is False
        assert not bundle.with_name("orin.cpu").exists()


class Device:
    """An Orin that builds engines and validates them: what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.plans: list[EnginePlan] = []
        self.broken = False
        monkeypatch.setattr(device, "engine_key", lambda backend, library: [backend, file_entry(library).sha256])
        monkeypatch.setattr(device, "build_engines", self.build)
        real = device.validate_golden
        monkeypatch.setattr(device, "validate_golden", lambda directory: self.validate(real, directory))

    def build(self, plan: EnginePlan, output: Path, progress: Any) -> EngineSection:
        self.plans.append(plan)
        if self.broken:
            raise ExportError("TensorRT crashed")
        for name in ("engine/decoder.plan", "plugins/libretentive_plugins.so"):
            (output / name).parent.mkdir()
        (output / "engine/decoder.plan").write_bytes(b"plan")
        shutil.copyfile(plan.plugin_library, output / "plugins/libretentive_plugins.so")
        return EngineSection(
            backend="tensorrt",
            version="10.16.2",
            compute_capability=(8, 7),
            graphs={"decoder": "engine/decoder.plan"},
            plugin_library="plugins/libretentive_plugins.so",
            timing_cache=None,
            profiles=[(1, 1, 8)],
            activation_bytes={"decoder": 1},
            layers={"decoder": 9},
            plugin_layers={"StateTransition": 2},
        )

    @staticmethod
    def validate(real: Any, directory: Path) -> ValidationReport:
        """With ONNX Runtime in the place of the engines; the manifest must say that there are some."""
        manifest = read_manifest(directory)
        assert manifest.engine is not None
        verify_files(directory, manifest)
        report: ValidationReport = real(directory, "onnxruntime")
        return report


@pytest.fixture
def orin(monkeypatch: pytest.MonkeyPatch) -> Device:
    return Device(monkeypatch)


def seven(root: Path, **changes: Any) -> Machine:
    """JetPack 7.2 on an Orin: one library of builder resources per SM, and that of 8.6 for 8.7."""
    found = jetson(root, release=("39", "2.0"), tensorrt="10.16.2", version=(3, 12, 3), **changes)
    (root / "usr/local/cuda/version.json").write_text('{"cuda" : {"version" : "13.2.1"}}')
    (root / "usr/lib/aarch64-linux-gnu/libnvinfer_builder_resource_sm86.so.10.16.2").touch()
    return found


def test_on_the_device(orin: Device, bundle: Path, tmp_path: Path) -> None:
    """The engine is built from the TensorRT flavour with the bundle's library; a crash of it is resumed from."""
    system = seven(tmp_path / "root")
    orin.broken = True
    with pytest.raises(ExportError, match="TensorRT crashed"):
        finish(bundle, system=system)
    assert not bundle.with_name("orin.jetson-orin").exists()
    orin.broken = False
    result = finish(bundle, system=system)
    assert (result.ran, result.reused) == (["engine", "validate"], ["files"])
    plan = orin.plans[-1]
    assert plan.backend == "tensorrt"
    assert {graph: path.name for graph, path in plan.graphs.items()} == {"decoder": "decoder.tensorrt.onnx"}
    assert plan.plugin_library == bundle / "plugins/aarch64/libretentive_plugins.so"
    assert (plan.layers, plan.chunk) == (2, 8)
    manifest = read_manifest(result.directory)
    assert manifest.target == "jetson-orin"
    assert manifest.engine is not None
    assert set(manifest.engine.files()) < set(manifest.files)
    assert not [name for name in manifest.files if name.startswith(("plugins/source", "plugins/aarch64", "runtime"))]
    again = finish(bundle, system=system)
    assert (again.ran, again.reused) == ([], ["files", "engine", "validate"])
    kin = finish(bundle, system=system, target_name="jetson-orin-nx")
    assert read_manifest(kin.directory).target == "jetson-orin-nx"


def test_another_library(orin: Device, bundle: Path, tmp_path: Path) -> None:
    system, mine = seven(tmp_path / "root"), tmp_path / "mine.so"
    plugin_library(mine, machine=183, cubins=[87, 110])
    finish(bundle, system=system, plugin_library=mine)
    assert orin.plans[-1].plugin_library == mine
    plugin_library(mine, machine=183, cubins=[87], glibc="2.99")
    with pytest.raises(DeviceError, match=r"plugin ABI: it needs glibc 2\.99, and here is 2\.35"):
        finish(bundle, system=system, plugin_library=mine)


def without_library(bundle: Path) -> None:
    """As if no compiler had been found where the bundle was made."""
    data = json.loads((bundle / MANIFEST).read_text())
    for library in data["bundle"]["libraries"]:
        library.update(file=None, why="no compiler")
    name = "plugins/aarch64/libretentive_plugins.so"
    del data["files"][name]
    (bundle / name).unlink()
    content = json.dumps(data).encode()
    (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_bytes(checksum(content))


def test_a_library_that_is_compiled_on_the_device(
    orin: Device, bundle: Path, tmp_path: Path, orin_library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the bundle's sources, and kept for the next try."""
    without_library(bundle)
    compilers = {
        "cmake --version": "cmake version 3.28.3",
        "ninja --version": "1.11.1",
        "g++ --version": "g++ (Ubuntu) 13.3.0",
        "nvcc --version": "Cuda compilation tools, release 13.2, V13.2.1",
    }
    bare = seven(tmp_path / "root")
    monkeypatch.setattr(device, "find_toolkits", list)
    with pytest.raises(DeviceError, match="none can be compiled here: it takes nvcc of CUDA 12") as error:
        finish(bundle, system=bare)
    assert error.value.hint is not None
    assert "--plugin-library" in error.value.hint

    from retentive_export.bundle.toolchain import Compilation, Toolkit

    toolkit = Toolkit(nvcc=Path("/nvcc"), version="13.2", capabilities=frozenset({87}))
    monkeypatch.setattr(
        device,
        "plan_compilations",
        lambda target, *_: [Compilation(stacks=("all",), machine="aarch64", sms=target.sm, toolkit=toolkit)],
    )
    with pytest.raises(DeviceError, match="compilers: missing: nvcc, cmake, ninja, g\\+\\+"):
        finish(bundle, system=bare)
    made: list[tuple[Path, Path]] = []

    def compile_library(what: Compilation, sources: Path, objects: Path, progress: Any) -> Path:
        made.append((sources, objects))
        objects.mkdir()
        return Path(shutil.copy(orin_library, objects))

    monkeypatch.setattr(device, "compile_library", compile_library)
    (tmp_path / "root/usr/include").mkdir(parents=True)
    (tmp_path / "root/usr/include/NvInferRuntime.h").touch()
    result = finish(bundle, system=seven(tmp_path / "root", commands=compilers))
    assert made == [(bundle / "plugins/source", bundle.with_name("orin.jetson-orin.partial") / ".compile")]
    assert result.ran == ["files", "plugins", "engine", "validate"]
    assert (result.directory / "plugins/libretentive_plugins.so").read_bytes() == orin_library.read_bytes()
    assert not (result.directory / ".compile").exists()


@pytest.mark.parametrize(
    ("tensorrt", "cuda", "chosen"),
    [
        ("10.3.0", "12.6", "twelve"),
        ("10.16.2", "13.2", "thirteen"),
        ("10.16.2", "12.6", "twelve"),
        ("11.4.1", "13.2", "thirteen"),
        ("11.4.1", "12.6", None),
        ("9.3.0", "12.6", None),
    ],
)
def test_which_library(tensorrt: str, cuda: str, chosen: str | None, tmp_path: Path) -> None:
    """By TensorRT's version and what the driver can run."""
    target = load_targets()["jetson-orin"]
    libraries = (
        BundleLibrary(stacks=("JetPack 6.2",), cuda="12.6", file="twelve"),
        BundleLibrary(stacks=("JetPack 7.2", "TensorRT 11"), cuda="13.0", file="thirteen"),
    )
    section = BundleSection(target=target, libraries=libraries, sources="plugins/source", runtime="runtime/x.whl")
    system = jetson(tmp_path, tensorrt=tensorrt)
    (tmp_path / "usr/local/cuda/version.json").write_text(f'{{"cuda" : {{"version" : "{cuda}"}}}}')
    if chosen is None:
        with pytest.raises(DeviceError, match=rf"here are TensorRT {tensorrt} and CUDA {cuda}, and this bundle is for"):
            machine.choose_library(section, target, system)
    else:
        assert machine.choose_library(section, target, system).file == chosen


def test_a_data_centre_gpu_takes_what_is_compiled(tmp_path: Path) -> None:
    """TensorRT 10 for CUDA 12 and for CUDA 13 have the same version: what is in the bundle decides."""
    target = load_targets()["l4"]
    libraries = (
        BundleLibrary(stacks=("TensorRT 10",), why="no nvcc of CUDA 12"),
        BundleLibrary(stacks=("TensorRT 10 on CUDA 13", "TensorRT 11"), cuda="13.0", file="thirteen"),
    )
    section = BundleSection(target=target, libraries=libraries, sources="plugins/source", runtime="runtime/x.whl")
    system = host_with_gpu(tmp_path, packages={"tensorrt": "10.13.3"})
    assert machine.choose_library(section, target, system).file == "thirteen"
