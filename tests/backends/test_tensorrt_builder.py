"""Around the builder: jobs, profiles, the timing cache's key, keys of the step, the environment of the process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retentive_export.backends.tensorrt import build, builder
from retentive_export.backends.tensorrt.build import EngineJob, EngineResult
from retentive_export.backends.tensorrt.builder import EnginePlan, build_engines, engine_key
from retentive_export.backends.tensorrt.vendor import VENDORS, Vendor
from retentive_export.errors import DeviceError
from retentive_export.spec.manifest import EngineSection
from tests.backends.conftest import FakeGpu
from tests.backends.tensorrt_jobs import decoder_job

ORIN, OTHER = (8, 7), (11, 0)


class Machine:
    """Builds without TensorRT: records the jobs, and writes what TensorRT would write."""

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.root, self.version, self.capability = root, "10.3.0", ORIN
        self.plugins = root / "libretentive_plugins.so"
        self.plugins.write_bytes(b"plugins")
        self.jobs: list[EngineJob] = []
        self.tactics: list[bytes] = []
        patch.setattr(Vendor, "version", lambda vendor: self.version)
        patch.setattr(builder, "compute_capability", lambda: self.capability)
        patch.setattr(builder, "run_worker", self.run)

    def run(self, job: EngineJob, progress: Callable[[str], None]) -> EngineResult:
        self.jobs.append(job)
        job.plan.write_bytes(b"plan")
        if job.timing_cache is not None:
            known = job.timing_cache.read_bytes() if job.timing_cache.is_file() else b""
            self.tactics.append(known)
            job.timing_cache.write_bytes(known + job.graph.name.encode() + b";")
        progress("parse")
        return EngineResult(
            version=self.version, layers=9, plugin_layers={"EntropyGate": 2}, activation_bytes=5, bytes=4, sha256="0"
        )

    def build(self, backend: str, name: str, earlier: str = "nothing", chunk: int = 8) -> EngineSection:
        plan = EnginePlan(
            backend=backend,
            graphs={"decoder": self.root / "decoder.tensorrt.onnx", "vision": self.root / "vision.onnx"},
            contract={"decoder": [], "vision": []},
            layers=2,
            chunk=chunk,
            plugin_library=self.plugins,
            earlier=self.root / earlier,
        )
        (self.root / name).mkdir()
        return build_engines(plan, self.root / name, lambda text: None)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_what_is_asked_of_the_builder(machine: Machine) -> None:
    section = machine.build("tensorrt", "out")
    decoder, vision = machine.jobs
    assert (decoder.layers, decoder.plugin_library) == (2, machine.root / "out" / section.plugin_library)
    assert (vision.layers, vision.plugin_library, vision.profiles) == (0, None, [])
    assert decoder.tf32 is vision.tf32 is False
    assert section.compute_capability == ORIN
    assert section.plugin_layers == {"EntropyGate": 2}
    assert all((machine.root / "out" / name).is_file() for name in section.files())


@pytest.mark.parametrize(
    ("backend", "chunk", "profiles"),
    [
        ("tensorrt", 8, [(1, 1, 1), (1, 8, 8)]),
        ("tensorrt", 1, [(1, 1, 1)]),
        ("tensorrt_rtx", 8, [(1, 1, 8)]),
        ("tensorrt_rtx", 1, [(1, 1, 1)]),
    ],
)
def test_profiles(backend: str, chunk: int, profiles: list[tuple[int, int, int]], machine: Machine) -> None:
    section = machine.build(backend, "out", chunk=chunk)
    assert section.profiles == machine.jobs[0].profiles == profiles


def test_the_timing_cache_serves_the_same_machine_alone(machine: Machine) -> None:
    """Its name holds the version, the kind of GPU and the plugins: with another one measuring starts anew."""
    first = machine.build("tensorrt", "first")
    assert machine.tactics == [b"", b"decoder.tensorrt.onnx;"], "graphs of one artifact share their tactics"
    known = (machine.root / "first" / str(first.timing_cache)).read_bytes()
    assert machine.build("tensorrt", "again", "first").timing_cache == first.timing_cache
    assert machine.tactics[2] == known
    changes: list[Callable[[], object]] = [
        lambda: setattr(machine, "version", "10.3.1"),
        lambda: setattr(machine, "capability", OTHER),
        lambda: machine.plugins.write_bytes(b"other plugins"),
    ]
    names = {first.timing_cache}
    for index, change in enumerate(changes):
        change()
        names.add(machine.build("tensorrt", f"other-{index}", "first").timing_cache)
        assert machine.tactics[-2] == b""
    assert len(names) == 4


def test_tensorrt_rtx_has_no_tactics_to_keep(machine: Machine) -> None:
    section = machine.build("tensorrt_rtx", "out")
    assert (section.timing_cache, section.compute_capability) == (None, None)
    assert machine.tactics == []


def test_the_key_of_the_step(machine: Machine) -> None:
    keys = [engine_key("tensorrt", machine.plugins)]
    assert engine_key("tensorrt", machine.plugins) == keys[0]
    machine.version = "11.4.1"
    keys.append(engine_key("tensorrt", machine.plugins))
    machine.capability = OTHER
    keys.append(engine_key("tensorrt", machine.plugins))
    keys.append(engine_key("tensorrt_rtx", machine.plugins))
    machine.capability = ORIN
    assert engine_key("tensorrt_rtx", machine.plugins) == keys[3], "an engine of TensorRT-RTX is bound to no GPU"
    machine.plugins.write_bytes(b"other plugins")
    keys.append(engine_key("tensorrt_rtx", machine.plugins))
    assert len({str(key) for key in keys}) == 5


class Config:
    """`IBuilderConfig` as far as timing caches go. known: the one cache whose header it accepts."""

    def __init__(self, known: bytes, unreadable: bytes = b"unreadable") -> None:
        self.known, self.unreadable = known, unreadable
        self.attached: bytes | None = None

    def create_timing_cache(self, content: bytes) -> Any:
        return None if content == self.unreadable else SimpleNamespace(content=content)

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache.content not in (b"", self.known):
            return False
        self.attached = cache.content
        return True


@pytest.mark.parametrize(
    ("content", "used"), [(None, b""), (b"ours", b"ours"), (b"of another GPU", b""), (b"unreadable", b"")]
)
def test_a_timing_cache_that_is_refused(content: bytes | None, used: bytes, tmp_path: Path) -> None:
    path, config = tmp_path / "timing.cache", Config(known=b"ours")
    if content is not None:
        path.write_bytes(content)
    cache = build._timing_cache(config, path)
    assert config.attached == cache.content == used


def test_tensorrt_builds_where_there_is_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without one the step's key already says so, before a model is loaded."""
    monkeypatch.setattr(Vendor, "version", lambda vendor: "10.3.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "plugins.so").write_bytes(b"")
    with pytest.raises(DeviceError, match="no GPU can be used here"):
        engine_key("tensorrt", tmp_path / "plugins.so")


def test_a_builder_that_does_not_start(
    text_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: FakeGpu
) -> None:
    """pybind11 says TypeError where TensorRT's factory returns a null pointer: it found no usable GPU."""

    def refuse(logger: Any) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr")

    gpu.trt.Builder = refuse  # type: ignore[attr-defined]
    gpu.trt.libraries.append("loaded")
    with pytest.raises(DeviceError, match=r"builds engines on the GPU that runs them, and finds none here") as error:
        build.build_engine(decoder_job(text_artifact, tmp_path / "x.plan", None), lambda text: None)
    assert "choose the target rtx" in str(error.value.hint)


def test_the_parsers_library_is_found_by_its_plain_name(tmp_path: Path) -> None:
    """TensorRT-RTX's parser opens libtensorrt_rtx.so, and its wheel has only libtensorrt_rtx.so.1."""
    environment = VENDORS["tensorrt_rtx"].environment(tmp_path, {"LD_LIBRARY_PATH": "/opt/lib", "HOME": "/root"})
    link = tmp_path / "libtensorrt_rtx.so"
    assert link.resolve().name == "libtensorrt_rtx.so.1"
    assert environment == {"LD_LIBRARY_PATH": f"{tmp_path}{os.pathsep}/opt/lib", "HOME": "/root"}
    assert VENDORS["tensorrt"].environment(tmp_path, {"HOME": "/root"}) == {"HOME": "/root"}
