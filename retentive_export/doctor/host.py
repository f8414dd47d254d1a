"""Python, memory, disk, Jetson release, Python packages."""

from __future__ import annotations

import re

from retentive_export.doctor.finding import Finding, fail, ok, warn
from retentive_export.doctor.system import System
from retentive_export.doctor.versions import numbers
from retentive_export.spec.targets import Stack, Target

__all__ = ["cuda_bindings", "disk", "exporter", "jetpack", "memory", "onnxruntime", "python"]

_OLDEST_PYTHON = (3, 10)
_FEW_BYTES = 2 << 30
_GIB = 1 << 30


def python(system: System, target: Target | None) -> Finding:
    """Version; on a Jetson also whether it is the one that TensorRT's bindings are for."""
    version = system.python()
    seen = ".".join(str(part) for part in version)
    if version[:2] < _OLDEST_PYTHON:
        return fail("python", seen, "install Python 3.10 or later")
    stack = _stack(system, target)
    if stack and stack.python and numbers(stack.python) != version[:2]:
        return warn(
            "python",
            f"{seen}; the TensorRT of {stack.name} is for Python {stack.python}",
            f"python{stack.python} -m venv --system-site-packages .venv",
        )
    return ok("python", seen)


def memory(system: System, target: Target | None) -> Finding:
    """Memory that is available now."""
    match = re.search(r"^MemAvailable:\s+(\d+) kB", system.read("proc/meminfo") or "", re.MULTILINE)
    if not match:
        return warn("memory", "/proc/meminfo does not say", "look with: free -h")
    free = int(match[1]) * 1024
    seen = f"{free / _GIB:.1f} GiB available"
    if free < _FEW_BYTES:
        return warn("memory", seen, "end other programs; retentive-export plan says how much a recipe takes")
    return ok("memory", seen)


def disk(system: System, target: Target | None) -> Finding:
    """Free space of the working directory's disk."""
    free = system.free_disk()
    seen = f"{free / _GIB:.1f} GiB free"
    if free < _FEW_BYTES:
        return warn("disk", seen, "free some space: an artifact takes about twice the model's weights")
    return ok("disk", seen)


def jetpack(system: System, target: Target | None) -> Finding | None:
    """Release of Jetson Linux, and the JetPack that it is of. None on a machine that is no Jetson and need not be."""
    release = _release(system)
    if release is None:
        if target is None or not target.is_jetson:
            return None
        return fail("jetpack", "no /etc/nv_tegra_release: this is no Jetson", "run doctor on the Jetson itself")
    seen = f"Jetson Linux {release}"
    if target is None or not target.is_jetson:
        return ok("jetpack", seen)
    if stack := _stack(system, target):
        return ok("jetpack", f"{seen}, {stack.name}: CUDA {stack.cuda}, TensorRT {stack.tensorrt}")
    known = ", ".join(f"{stack.l4t} ({stack.name})" for stack in target.stacks if stack.l4t)
    return warn("jetpack", f"{seen}, which is none of {known}", "install one of these with NVIDIA's SDK Manager")


def _stack(system: System, target: Target | None) -> Stack | None:
    """The target's software stack that this machine's release of Jetson Linux is of."""
    release = numbers(_release(system) or "")
    for stack in target.stacks if target else ():
        if stack.l4t and release[:2] == numbers(stack.l4t):
            return stack
    return None


def _release(system: System) -> str | None:
    """ "36.4.3" from "# R36 (release), REVISION: 4.3, ..."."""
    text = system.read("etc/nv_tegra_release") or ""
    match = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", text)
    return f"{match[1]}.{match[2]}" if match else None


def onnxruntime(system: System, target: Target | None) -> Finding:
    """ONNX Runtime."""
    found = system.package("onnxruntime", "onnxruntime-gpu")
    if found is None:
        return fail("onnxruntime", "not installed", "pip install onnxruntime")
    return ok("onnxruntime", " ".join(found))


def exporter(system: System, target: Target | None) -> Finding:
    """What building an artifact from a model needs; running one does not."""
    names = ("torch", "transformers", "onnx", "onnxscript", "onnx-ir")
    missing = [name for name in names if system.package(name) is None]
    if missing:
        return fail("exporter", f"not installed: {', '.join(missing)}", "pip install 'retentive-export[export]'")
    versions = [found for found in (system.package(name) for name in ("torch", "transformers")) if found]
    return ok("exporter", ", ".join(" ".join(found) for found in versions))


def cuda_bindings(system: System, target: Target | None) -> Finding:
    """cuda-bindings, through which sessions use the GPU."""
    found = system.package("cuda-bindings")
    if found is None:
        return fail("cuda-bindings", "not installed", "pip install 'retentive-export[cuda]'")
    return ok("cuda-bindings", found[1])
