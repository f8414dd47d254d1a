"""Driver, GPU, CUDA, compilers."""

from __future__ import annotations

import re

from retentive_export.doctor.finding import Finding, fail, ok, warn
from retentive_export.doctor.system import System
from retentive_export.doctor.versions import numbers
from retentive_export.spec.targets import Target

__all__ = ["compilers", "cuda", "cuda_version", "driver", "gpu"]

_OLDEST_CUDA = (12, 6)
_OLDEST_CMAKE = (3, 22)


def driver(system: System, target: Target | None) -> Finding:
    """The driver's library, without which nothing else of CUDA works."""
    found = system.libraries("libcuda.so.1") + system.libraries("nvidia/libcuda.so.1*")
    known = [one.driver for one in system.gpus if one.driver]
    if not found and not known:
        hint = "flash the Jetson with JetPack" if target and target.is_jetson else "install NVIDIA's driver"
        return fail("driver", "libcuda.so.1 was not found", f"{hint}; nvidia-smi then shows it")
    return ok("driver", f"version {known[0]}" if known else str(found[0]))


def gpu(system: System, target: Target | None) -> Finding:
    """The GPU's compute capability against the target's."""
    gpus = system.gpus
    if not gpus:
        kind = f" of SM {' or '.join(target.sm)}" if target and target.sm else ""
        return fail("gpu", "none", f"run it on a machine with a GPU{kind}")
    seen = ", ".join(f"{one.name} (SM {one.sm})" for one in gpus)
    if target and target.sm and gpus[0].sm not in target.sm:
        wanted = " or ".join(target.sm)
        return fail(
            "gpu", f"{seen}; {target.name} is SM {wanted}", "choose the target of this GPU: retentive-export targets"
        )
    return ok("gpu", seen)


def cuda(system: System, target: Target | None) -> Finding:
    """The newest CUDA that the driver can run, or the toolkit's where the driver does not say."""
    found = cuda_version(system)
    if found is None:
        return fail("cuda", "neither nvidia-smi nor a toolkit says a version", "install CUDA 12.6 or later")
    version, seen = found[0], f"{found[0]} ({found[1]})"
    if numbers(version) < _OLDEST_CUDA:
        oldest = ".".join(str(part) for part in _OLDEST_CUDA)
        return fail("cuda", f"{seen}, older than {oldest}", f"install a driver for CUDA {oldest} or later")
    return ok("cuda", seen)


def cuda_version(system: System) -> tuple[str, str] | None:
    """(version, "driver" or "toolkit"): the newest CUDA that the driver can run, else the toolkit's."""
    match = re.search(r"CUDA Version:\s*([\d.]+)", system.run("nvidia-smi") or "")
    if match:
        return match[1], "driver"
    toolkit = _toolkit(system)
    return (toolkit, "toolkit") if toolkit else None


def _toolkit(system: System) -> str | None:
    match = re.search(
        r'"cuda"\s*:\s*{[^}]*"version"\s*:\s*"([\d.]+)"', system.read("usr/local/cuda/version.json") or ""
    )
    return match[1] if match else _nvcc(system)


def _nvcc(system: System) -> str | None:
    text = system.run("nvcc", "--version") or system.run(str(system.root / "usr/local/cuda/bin/nvcc"), "--version")
    match = re.search(r"release ([\d.]+)", text or "")
    return match[1] if match else None


def compilers(system: System, target: Target | None) -> Finding:
    """nvcc, cmake, ninja and a C++ compiler: needed only to build the plugin library here."""
    versions = {
        "nvcc": _nvcc(system),
        "cmake": _version(system, "cmake", r"version ([\d.]+)"),
        "ninja": _version(system, "ninja", r"([\d.]+)"),
        "g++": _version(system, "g++", r"\) ([\d.]+)") or _version(system, "c++", r"([\d.]+)"),
    }
    seen = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    remedies = {
        "nvcc": "install the CUDA toolkit and put its bin directory on PATH",
        "cmake": "pip install 'cmake>=3.22'",
        "ninja": "pip install ninja",
        "g++": "sudo apt install g++",
    }
    if missing := [name for name, version in versions.items() if version is None]:
        what = f"missing: {', '.join(missing)}" + (f"; {seen}" if seen else "")
        return warn("compilers", what, "; ".join(remedies[name] for name in missing))
    if numbers(versions["cmake"] or "") < _OLDEST_CMAKE:
        return warn("compilers", f"{seen}; cmake 3.22 or later is needed", remedies["cmake"])
    return ok("compilers", seen)


def _version(system: System, program: str, pattern: str) -> str | None:
    match = re.search(pattern, system.run(program, "--version") or "")
    return match[1] if match else None
