"""The plugin library for an Orin, compiled here: what it is, which GPU it has code for, and that it can be loaded.

Programs: scripts/cross_toolchain.sh --emulator installs them, scripts/test.sh runs it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import platform
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

from retentive_export.bundle.compile import check_library, compile_library
from retentive_export.bundle.toolchain import Compilation, find_toolkits, plan_compilations
from retentive_export.errors import ArtifactError, ExportError
from retentive_export.ops.contract import DOMAIN, OPS, VERSION, attributes
from retentive_export.spec.targets import load_targets
from tests.conftest import ROOT
from tests.ops.helpers import GATE, GEOMETRIES, SCALE

PLUGINS = ROOT / "plugins"
SYSROOT = Path("/usr/aarch64-linux-gnu")


@pytest.fixture(scope="module")
def plan() -> Compilation:
    """The library for JetPack 7.2 and TensorRT 11 on CUDA 13."""
    plans = plan_compilations(load_targets()["jetson-orin"], PLUGINS, find_toolkits())
    found = next(one for one in plans if "JetPack 7.2" in one.stacks)
    assert found.toolkit is not None, found.why
    return found


@pytest.fixture(scope="module")
def library(plan: Compilation) -> Path:
    """Compiled, or from the build folder where it is unchanged."""
    return compile_library(plan, PLUGINS, PLUGINS / "build" / "targets", lambda line: None)


def printed(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout


def test_it_is_an_aarch64_library(library: Path) -> None:
    header = printed("readelf", "-h", library)
    assert re.search(r"Machine:\s+AArch64", header)
    assert re.search(r"Type:\s+DYN", header)
    dynamic = printed("readelf", "-d", library)
    assert set(re.findall(r"NEEDED.*\[(.*?)\.so", dynamic)) == {"libstdc++", "libgcc_s", "libc"}
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    assert str(ROOT).encode() not in library.read_bytes()
    # What JetPack 7.2 (Ubuntu 24.04) and 6.2 (22.04) have: glibc 2.39 and 2.35, libstdc++ of GCC 13 and 12.
    needs = printed("readelf", "-V", library)
    glibc = max(tuple(map(int, one.split("."))) for one in re.findall(r"GLIBC_([\d.]+)", needs))
    assert glibc <= (2, 35)
    assert max(map(int, re.findall(r"GLIBCXX_3\.4\.(\d+)", needs))) <= 30


def test_it_has_code_for_sm_87_alone(library: Path) -> None:
    cuobjdump = Path(sysconfig.get_paths()["purelib"], "nvidia", "cu13", "bin", "cuobjdump")
    elves = re.findall(r"sm_(\d+)\.cubin", printed(cuobjdump, "--list-elf", library))
    assert len(elves) >= 4
    assert set(elves) == {"87"}
    assert "ptx" not in printed(cuobjdump, "--list-ptx", library)
    check_library(library, "aarch64", ("8.7",))
    with pytest.raises(ArtifactError, match=r"machine code for SM 8\.7, and the target is SM 11\.0"):
        check_library(library, "aarch64", ("11.0",))


def test_it_loads_under_emulation_and_lists_its_creators(library: Path, plan: Compilation, tmp_path: Path) -> None:
    """With TensorRT's loading protocol, on an emulated Arm CPU; of CUDA only what is linked into it is there."""
    spec = importlib.util.find_spec("kernel_lens")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    assert plan.toolkit is not None
    dry = subprocess.run(
        [plan.toolkit.nvcc, "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True, check=True
    )
    (top,) = re.findall(r"#\$ TOP=(.*)", dry.stderr)
    headers = [Path(spec.submodule_search_locations[0], "include", "tensorrt"), Path(top, "include")]
    includes = [part for path in headers for part in ("-isystem", path)]
    program = tmp_path / "list_creators"
    source = Path(__file__).with_name("list_creators.cpp")
    printed("aarch64-linux-gnu-g++", "-std=c++17", "-Wall", "-Werror", *includes, source, "-o", program, "-ldl")
    lines = printed("qemu-aarch64-static", "-L", SYSROOT, program, library).splitlines()
    fields = len(attributes(GEOMETRIES["mass"], GATE, SCALE))
    alias = {"StateTransition": 1}  # declare_alias
    assert lines == [f"{op} {VERSION} {DOMAIN} {fields + alias.get(op, 0)}" for op in OPS]


def test_it_is_compiled_once(library: Path, plan: Compilation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same sources and compilers: no program is started but those that are asked for their versions."""

    def refuse(*_: object) -> None:
        raise AssertionError("it was compiled again")

    monkeypatch.setattr("retentive_export.bundle.compile._run", refuse)
    made = library.stat().st_mtime_ns
    assert compile_library(plan, PLUGINS, PLUGINS / "build" / "targets", lambda line: None) == library
    assert library.stat().st_mtime_ns == made
    sources = tmp_path / "plugins"
    sources.mkdir()
    (sources / "CMakeLists.txt").write_text("changed")
    with pytest.raises(AssertionError, match="compiled again"):
        compile_library(plan, sources, tmp_path / "build", lambda line: None)


def test_sources_that_do_not_compile(plan: Compilation, tmp_path: Path) -> None:
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / "CMakeLists.txt").write_text('message(FATAL_ERROR "it is broken")')
    native = dataclasses.replace(plan, machine=platform.machine(), cudart=None)
    with pytest.raises(
        ExportError, match=r"the plugin library cannot be compiled \(cmake ended with 1\).*it is broken"
    ):
        compile_library(native, tmp_path / "plugins", tmp_path / "build", lambda line: None)
    assert not list((tmp_path / "build").rglob("*.so"))
