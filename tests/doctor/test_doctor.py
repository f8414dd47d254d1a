"""What doctor says of machines that are well, and of those that lack one thing: finding, remedy, verdict."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from retentive_export import doctor
from retentive_export.cli import main
from retentive_export.doctor import Diagnosis, Finding, System, examine
from retentive_export.doctor.elf import read_library
from retentive_export.errors import ArtifactError
from retentive_export.spec.targets import load_targets, target
from tests.doctor.machines import EXPORTER, QUERY, Machine, host_with_gpu, jetson, plugin_library, put


def finding(diagnosis: Diagnosis, name: str) -> Finding:
    return next(one for one in diagnosis.findings if one.name == name)


def names(diagnosis: Diagnosis) -> list[str]:
    return [one.name for one in diagnosis.failures]


def test_a_jetson_that_is_well(tmp_path: Path) -> None:
    diagnosis = examine(target("jetson-orin"), jetson(tmp_path))
    assert not diagnosis.failures
    assert finding(diagnosis, "jetpack").seen == "Jetson Linux 36.4.3, JetPack 6.2: CUDA 12.6, TensorRT 10.3"
    assert finding(diagnosis, "gpu").seen == "NVIDIA Jetson AGX Orin Developer Kit (SM 8.7)"
    assert finding(diagnosis, "tensorrt").seen == "10.3.0"
    assert finding(diagnosis, "builder resource").seen == "libnvinfer_builder_resource.so.10.3.0"
    assert finding(diagnosis, "plugin ABI").seen == "aarch64, glibc 2.34 or later"
    assert finding(diagnosis, "plugin code").seen == "SM 8.7"
    assert finding(diagnosis, "memory").seen == "57.2 GiB available"
    assert finding(diagnosis, "python").status == "ok"
    assert finding(diagnosis, "compilers").status == "warn"  # needed only to build the plugins


def test_a_gpu_server_that_is_well(tmp_path: Path) -> None:
    diagnosis = examine(target("l4"), host_with_gpu(tmp_path))
    assert not diagnosis.failures
    assert finding(diagnosis, "driver").seen == "version 580.65"
    assert finding(diagnosis, "cuda").seen == "13.0 (driver)"
    assert finding(diagnosis, "builder resource").seen == "libnvinfer_builder_resource_sm89.so.11.1.0"
    assert "jetpack" not in [one.name for one in diagnosis.findings]


Break = Callable[[Path, Machine], Machine]


def _without(*patterns: str) -> Break:
    def remove(root: Path, machine: Machine) -> Machine:
        found = [path for pattern in patterns for path in root.rglob(pattern)]
        assert found
        for path in found:
            path.unlink()
        return machine

    return remove


def _changed(**fields: Any) -> Break:
    return lambda root, machine: replace(machine, **fields)


def _library(**fields: Any) -> Break:
    return lambda root, machine: replace(machine, plugins=plugin_library(root / "other.so", **fields))


ON_A_JETSON: list[tuple[str, Break, str, str, str]] = [
    ("no driver", _without("libcuda.so.1"), "driver", "libcuda.so.1 was not found", "JetPack"),
    ("no release", _without("nv_tegra_release"), "jetpack", "this is no Jetson", "on the Jetson itself"),
    ("no gpu", _without("compatible"), "gpu", "none", "a GPU of SM 8.7"),
    ("no tensorrt", _without("libnvinfer.so.*"), "tensorrt", "libnvinfer.so was not found", "nvidia-jetpack"),
    ("no module", _changed(modules=frozenset()), "tensorrt", "cannot be imported", "--system-site-packages"),
    ("no resource", _without("*resource*"), "builder resource", "libnvinfer_builder_resource.so", "libnvinfer10"),
    ("no bindings", _changed(packages=EXPORTER), "cuda-bindings", "not installed", "retentive-export[cuda]"),
    ("no plugins", _changed(plugins=None), "plugins", "libretentive_plugins.so was not found", "build_plugins.sh"),
    (
        "x86 plugins",
        _library(machine=62, cubins=[87]),
        "plugin ABI",
        "for x86_64, and this machine is aarch64",
        "build",
    ),
    ("newer glibc", _library(machine=183, glibc="2.38", cubins=[87]), "plugin ABI", "glibc 2.38, and here is 2.35", ""),
    ("no entry", _library(machine=183, symbols=("getCreators",)), "plugin ABI", "setLoggerFinder, retentive_step", ""),
    ("no code", _library(machine=183, cubins=[80, 86]), "plugin code", "SM 8.0, 8.6; none for SM 8.7", "LIST='87'"),
    ("old python", _changed(version=(3, 9, 1)), "python", "3.9.1", "Python 3.10"),
]


@pytest.mark.parametrize(
    ("change", "name", "seen", "remedy"), [case[1:] for case in ON_A_JETSON], ids=[case[0] for case in ON_A_JETSON]
)
def test_a_jetson_that_lacks_one_thing(change: Break, name: str, seen: str, remedy: str, tmp_path: Path) -> None:
    diagnosis = examine(target("jetson-orin"), change(tmp_path, jetson(tmp_path)))
    assert name in names(diagnosis)
    assert seen in finding(diagnosis, name).seen
    assert remedy in finding(diagnosis, name).remedy
    assert all(one.remedy for one in diagnosis.findings if one.status != "ok")
    assert all(not one.remedy for one in diagnosis.findings if one.status == "ok")


@pytest.mark.parametrize(
    ("change", "name", "seen", "remedy"),
    [
        (_changed(version=(3, 11, 0)), "python", "JetPack 6.2 is for Python 3.10", "python3.10 -m venv"),
        (_changed(disk=1 << 30), "disk", "1.0 GiB free", "free some space"),
        (_changed(packages={"cuda-bindings": "12.9"}), "exporter", "torch, transformers", "retentive-export[export]"),
        (_library(machine=183, cubins=[80], ptx=[80]), "plugin code", "PTX of 8.0; none for SM 8.7", "LIST='87'"),
    ],
)
def test_warnings_do_not_keep_it_from_working(change: Break, name: str, seen: str, remedy: str, tmp_path: Path) -> None:
    diagnosis = examine(target("jetson-orin"), change(tmp_path, jetson(tmp_path)))
    assert not diagnosis.failures
    assert finding(diagnosis, name).status == "warn"
    assert seen in finding(diagnosis, name).seen
    assert remedy in finding(diagnosis, name).remedy


def test_little_memory_and_an_unknown_release(tmp_path: Path) -> None:
    machine = jetson(tmp_path, release=("35", "6.2"))
    put(tmp_path, "proc/meminfo", "MemAvailable:   1000000 kB\n")
    diagnosis = examine(target("jetson-orin"), machine)
    assert finding(diagnosis, "memory").status == "warn"
    assert (
        finding(diagnosis, "jetpack").seen
        == "Jetson Linux 35.6.2, which is none of 36.4 (JetPack 6.2), 39.2 (JetPack 7.2)"
    )


@pytest.mark.parametrize(
    ("version", "files", "missing"),
    [
        ("10.15.1", ["libnvinfer_builder_resource.so.10.15.1"], None),
        ("10.16.2", ["libnvinfer_builder_resource_sm86.so.10.16.2"], None),
        ("10.16.2", ["libnvinfer_builder_resource_sm87.so.10.16.2"], "libnvinfer_builder_resource_sm86.so"),
        ("10.16.2", ["libnvinfer_builder_resource.so.10.16.2"], "libnvinfer_builder_resource_sm86.so"),
        ("11.4.1", [], "libnvinfer_builder_resource_sm86.so"),
    ],
)
def test_builder_resources_on_orin(version: str, files: list[str], missing: str | None, tmp_path: Path) -> None:
    """One library up to 10.15, then one per SM, of which Orin takes that of SM 8.6."""
    machine = jetson(tmp_path, release=("39", "2.0"), tensorrt=version, version=(3, 12, 3))
    _without("*resource*")(tmp_path, machine)
    for file in files:
        put(tmp_path, f"usr/lib/aarch64-linux-gnu/{file}")
    diagnosis = examine(target("jetson-orin"), machine)
    found = finding(diagnosis, "builder resource")
    assert found.seen == (f"{missing} was not found, which TensorRT {version} builds with" if missing else files[0])
    assert names(diagnosis) == (["builder resource"] if missing else [])


@pytest.mark.parametrize(
    ("on", "version", "words"),
    [
        ("jetson-orin", "10.2.0", "10.3 to 11.x are supported"),
        ("jetson-orin", "12.0.0", "10.3 to 11.x are supported"),
        ("jetson-orin", "11.2.0", "jetson-orin takes 11.4.1 or later of this major version"),
        ("jetson-thor", "10.3.0", "jetson-thor takes 10.13 or later"),
    ],
)
def test_versions_of_tensorrt_that_do_not_serve(on: str, version: str, words: str, tmp_path: Path) -> None:
    diagnosis = examine(target(on), jetson(tmp_path, tensorrt=version))
    assert "tensorrt" in names(diagnosis)
    assert words in finding(diagnosis, "tensorrt").seen


def test_another_gpu_and_an_old_driver(tmp_path: Path) -> None:
    diagnosis = examine(target("h100"), host_with_gpu(tmp_path, cuda="12.2"))
    assert names(diagnosis) == ["gpu", "cuda"]
    assert finding(diagnosis, "gpu").seen == "NVIDIA L4 (SM 8.9); h100 is SM 9.0"
    assert finding(diagnosis, "cuda").seen == "12.2 (driver), older than 12.6"
    assert not examine(target("tensorrt"), host_with_gpu(tmp_path)).failures


def test_machine_code_of_an_earlier_minor_version_runs(tmp_path: Path) -> None:
    """SM 8.0 code on 8.9; but not 8.7 code on 8.9, 9.0 code on 8.9, or PTX of a later GPU."""
    for cubins, ptx, status in (([80], [], "ok"), ([87], [], "fail"), ([90], [90], "fail"), ([], [80], "warn")):
        library = plugin_library(tmp_path / "other.so", cubins=cubins, ptx=ptx)
        diagnosis = examine(target("l4"), host_with_gpu(tmp_path, plugins=library))
        assert finding(diagnosis, "plugin code").status == status, (cubins, ptx)


def test_cuobjdump_is_asked_first(tmp_path: Path) -> None:
    machine = host_with_gpu(tmp_path)
    command = f"cuobjdump --list-elf --list-ptx {machine.plugins}"
    listed = "ELF file    1: lib.1.sm_100a.cubin\nELF file    2: lib.2.sm_89.cubin\nPTX file    1: lib.1.sm_120.ptx\n"
    diagnosis = examine(target("l4"), replace(machine, commands={**machine.commands, command: listed}))
    assert finding(diagnosis, "plugin code").seen == "SM 8.9, 10.0; PTX of 12.0"


def test_rtx_needs_no_gpu_to_build(tmp_path: Path) -> None:
    """But its wheels, of one version, and the plugins."""
    wheels = {"tensorrt-rtx-cu13-bindings": "1.7.1.116", "tensorrt-rtx-cu13-libs": "1.7.1.116"}
    library = plugin_library(tmp_path / "lib.so", cubins=[80, 86, 89, 120], ptx=[120])
    machine = Machine(root=tmp_path, packages=wheels, plugins=library)
    diagnosis = examine(target("rtx"), machine)
    assert not diagnosis.failures
    assert {finding(diagnosis, name).status for name in ("driver", "gpu", "cuda")} == {"warn"}
    assert finding(diagnosis, "plugin code").status == "ok"
    mixed = examine(target("rtx"), replace(machine, packages={**wheels, "tensorrt-rtx-cu13-libs": "1.7.2"}))
    assert finding(mixed, "tensorrt-rtx").seen == "bindings 1.7.1.116 with libraries 1.7.2"
    old = examine(target("rtx"), replace(machine, packages=dict.fromkeys(wheels, "1.4.0")))
    assert names(old) == ["tensorrt-rtx"]
    assert names(examine(target("rtx"), replace(machine, packages={}))) == ["tensorrt-rtx"]


def test_the_cpu_needs_onnxruntime_alone(tmp_path: Path) -> None:
    bare = Machine(root=tmp_path)
    assert names(examine(target("cpu"), bare)) == ["onnxruntime"]
    assert names(examine(None, bare)) == ["onnxruntime"]
    ready = replace(bare, packages={"onnxruntime": "1.32.0"})
    assert not examine(target("cpu"), ready).failures
    assert names(examine(target("onnx"), ready)) == ["exporter"]
    everything = {one.name for one in examine(None, jetson(tmp_path / "other")).findings}
    assert {"python", "driver", "jetpack", "tensorrt", "tensorrt-rtx", "plugin code", "compilers"} <= everything


def test_compilers(tmp_path: Path) -> None:
    commands = {
        "nvcc --version": "Cuda compilation tools, release 13.0, V13.0.88",
        "cmake --version": "cmake version 3.25.1",
        "ninja --version": "1.11.1",
        "g++ --version": "g++ (Debian 12.2.0-14) 12.2.0",
    }
    machine = host_with_gpu(tmp_path)
    whole = replace(machine, commands={**machine.commands, **commands})
    assert (
        finding(examine(target("l4"), whole), "compilers").seen == "nvcc 13.0, cmake 3.25.1, ninja 1.11.1, g++ 12.2.0"
    )
    old = replace(whole, commands={**whole.commands, "cmake --version": "cmake version 3.18.4"})
    assert "cmake 3.22 or later" in finding(examine(target("l4"), old), "compilers").seen
    none = finding(examine(target("l4"), machine), "compilers")
    assert none.seen == "missing: nvcc, cmake, ninja, g++"
    assert none.remedy.count(";") == 3


def test_headers_to_build_the_plugins_with(tmp_path: Path) -> None:
    """From a wheel, or from the system's include paths; without them it still runs."""

    def seen(machine: Machine) -> tuple[str, str]:
        found = finding(examine(target("l4"), machine), "TensorRT headers")
        return found.status, found.seen

    machine = host_with_gpu(tmp_path)
    assert seen(machine) == ("warn", "NvInferRuntime.h was not found")
    assert not examine(target("l4"), machine).failures
    assert seen(replace(machine, packages={**machine.packages, "kernel-lens": "0.1"})) == ("ok", "kernel-lens 0.1")
    put(tmp_path, "usr/include/x86_64-linux-gnu/NvInferRuntime.h")
    assert seen(machine) == ("ok", str(tmp_path / "usr/include/x86_64-linux-gnu"))


def test_every_target_can_be_asked_for(tmp_path: Path) -> None:
    for known in load_targets().values():
        diagnosis = examine(known, Machine(root=tmp_path))
        assert diagnosis.target == known.name
        assert diagnosis.failures


def test_real_gpu_code_is_read(tmp_path: Path) -> None:
    """A library that nvcc makes: two machine codes and one PTX, in two translation units, with a C ABI."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.cu").write_text(
            f"__global__ void {name}(float *x) {{ x[threadIdx.x] *= 2; }}\n"
            f'extern "C" void launch_{name}(float *x) {{ {name}<<<1, 32>>>(x); }}\n'
        )
    codes = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in (87, 90)]
    library = tmp_path / "lib.so"
    command = ["nvcc", "-shared", "-Xcompiler", "-fPIC", *codes, "-gencode=arch=compute_90,code=compute_90"]
    subprocess.run([*command, "-o", library, tmp_path / "one.cu", tmp_path / "two.cu"], check=True, capture_output=True)
    found = read_library(library)
    assert (found.cubins, found.ptx) == ({87, 90}, {90})
    assert found.machine == System().machine()
    assert {"launch_one", "launch_two"} <= found.symbols
    assert "one" not in found.symbols
    assert (2, 2, 5) <= found.glibc <= (System().glibc() or ())


def test_files_that_are_no_library(tmp_path: Path) -> None:
    path = plugin_library(tmp_path / "lib.so", cubins=[87])
    whole = path.read_bytes()
    for content, words in ((b"", "no 64-bit ELF"), (b"\x7fELF\x01\x01", "no 64-bit ELF"), (whole[:90], "cut short")):
        path.write_bytes(content)
        with pytest.raises(ArtifactError, match=words):
            read_library(path)
        diagnosis = examine(target("l4"), host_with_gpu(tmp_path / "root", plugins=path))
        assert names(diagnosis) == ["plugin ABI"]
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_library(tmp_path / "absent.so")


def test_this_machine() -> None:
    """The real probes agree with Python's own modules."""
    system = System()
    assert system.package("onnxruntime") == ("onnxruntime", __import__("onnxruntime").__version__)
    assert system.package("no-such-package", "numpy") == ("numpy", __import__("numpy").__version__)
    assert system.run("no-such-program") is None
    assert system.run("false") is None
    assert system.run("echo", "x") == "x\n"
    assert system.read("proc/self/comm")
    assert system.read("no/such/file") is None
    assert system.has_module("json")
    assert not system.has_module("no_such_module")
    assert not examine(target("cpu"), system).failures


def run(*args: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, ["doctor", *map(str, args)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, result.stdout, result.stderr


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, out, _ = run("--target", "cpu")
    assert code == 0
    assert "onnxruntime" in out
    monkeypatch.setattr(doctor, "System", lambda plugins: jetson(tmp_path, packages=EXPORTER))
    code, out, err = run("--target", "jetson-orin")
    assert code == 12
    assert "pip install 'retentive-export[cuda]'" in out
    assert "error: this machine cannot serve target 'jetson-orin': cuda-bindings\n" in err
    assert "hint: pip install 'retentive-export[cuda]'" in err
    code, out, err = run("--target", "jetson-orin", "--json")
    data = json.loads(out)
    assert (code, data["served"], data["target"]) == (12, False, "jetson-orin")
    assert {"name", "status", "seen", "remedy"} == set(data["findings"][0])
    assert json.loads(err)["exit_code"] == 12
    code, _, err = run("--target", "toaster")
    assert code == 3
    assert "'toaster'" in err


def test_a_plugin_library_by_path(tmp_path: Path) -> None:
    path = plugin_library(tmp_path / "lib.so", cubins=[120])
    findings = {one["name"]: one for one in json.loads(run("--plugin-library", path, "--json")[1])["findings"]}
    assert findings["plugins"]["seen"] == str(path)
    assert findings["plugin code"]["seen"] == "SM 12.0"
    absent = {one["name"]: one for one in json.loads(run("--plugin-library", tmp_path, "--json")[1])["findings"]}
    assert absent["plugins"]["status"] == "warn"


def test_gpus_of_the_driver_come_before_the_chips(tmp_path: Path) -> None:
    machine = jetson(tmp_path, commands={QUERY: "Orin (nvgpu), [N/A], [N/A]\n"})
    assert [gpu.sm for gpu in machine.gpus] == ["8.7"]
    thor = replace(machine, commands={QUERY: "NVIDIA Thor, 11.0, 580.00\n"})
    assert [(gpu.sm, gpu.driver) for gpu in thor.gpus] == [("11.0", "580.00")]
