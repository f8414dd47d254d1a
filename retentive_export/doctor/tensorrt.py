"""TensorRT, its builder-resource libraries, TensorRT-RTX."""

from __future__ import annotations

from pathlib import Path

from retentive_export.backends.tensorrt.vendor import VENDORS
from retentive_export.doctor.finding import Finding, fail, ok
from retentive_export.doctor.system import System
from retentive_export.doctor.versions import numbers
from retentive_export.spec.targets import Target

__all__ = ["builder_resource", "tensorrt", "tensorrt_rtx", "tensorrt_version"]

_TRT, _RTX = VENDORS["tensorrt"], VENDORS["tensorrt_rtx"]
_RESOURCE_PER_SM = (10, 16)
"""From this version of TensorRT on there is one builder-resource library per SM."""
_WHEELS = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")


def tensorrt(system: System, target: Target | None) -> Finding:
    """Version, and whether Python can import it."""
    version = tensorrt_version(system)
    jetson = bool(target and target.is_jetson)
    install = "sudo apt install nvidia-jetpack" if jetson else "pip install 'retentive-export[tensorrt]'"
    if version is None:
        return fail("tensorrt", "libnvinfer.so was not found", install)
    if not _TRT.supports(version):
        return fail("tensorrt", f"{version}; {_TRT.versions} are supported", install)
    if target and (oldest := _oldest_of_major(target, numbers(version))) and numbers(version) < oldest:
        wanted = ".".join(str(part) for part in oldest)
        return fail("tensorrt", f"{version}; {target.name} takes {wanted} or later of this major version", install)
    if not system.has_module("tensorrt"):
        remedy = "python3 -m venv --system-site-packages .venv" if jetson else install
        return fail("tensorrt", f"{version}, whose Python module cannot be imported here", remedy)
    return ok("tensorrt", version)


def _oldest_of_major(target: Target, version: tuple[int, ...]) -> tuple[int, ...] | None:
    """The oldest version among the target's stacks with the same major number."""
    known = [numbers(stack.tensorrt) for stack in target.stacks]
    return min((one for one in known if one[:1] == version[:1]), default=None)


def tensorrt_version(system: System) -> str | None:
    """From the wheel, else from the library's file name."""
    if found := system.package(*_WHEELS):
        return found[1]
    versions = [_of_file(path) for path in system.libraries("libnvinfer.so.*")]
    return max((version for version in versions if version), key=numbers, default=None)


def _of_file(path: Path) -> str:
    """ "10.3.0" of libnvinfer.so.10.3.0."""
    return path.name.partition(".so.")[2]


def builder_resource(system: System, target: Target | None) -> Finding | None:
    """The library with the kernels that the builder chooses from. None where there is no TensorRT at all."""
    version = tensorrt_version(system)
    if version is None:
        return None
    sm = _resource_sm(system, target)
    per_sm = numbers(version)[:2] >= _RESOURCE_PER_SM
    if per_sm and sm is None:
        names = {path.name.partition(".")[0] for path in system.libraries("libnvinfer_builder_resource_*.so*")}
        return ok("builder resource", f"{len(names)} of them; without a GPU none in particular is needed")
    stem = f"libnvinfer_builder_resource_sm{sm}" if per_sm else "libnvinfer_builder_resource"
    found = system.libraries(f"{stem}.so*")
    if not found:
        wheel = system.package(*_WHEELS)
        package = f"{wheel[0]}-libs" if wheel and wheel[0] != "tensorrt" else "tensorrt"
        remedy = f"pip install --force-reinstall {package}=={version}" if wheel else _apt(version)
        return fail("builder resource", f"{stem}.so was not found, which TensorRT {version} builds with", remedy)
    return ok("builder resource", found[-1].name)


def _apt(version: str) -> str:
    return f"sudo apt install --reinstall libnvinfer{numbers(version)[0]}"


def _resource_sm(system: System, target: Target | None) -> str | None:
    """The SM in the library's name: the target's rule, else the GPU's own."""
    if target and target.builder_resource:
        return target.builder_resource
    gpus = system.gpus
    sm = gpus[0].sm if gpus else target.sm[0] if target and target.sm else None
    return sm.replace(".", "") if sm else None


def tensorrt_rtx(system: System, target: Target | None) -> Finding:
    """TensorRT-RTX's wheels."""
    remedy = "pip install 'retentive-export[rtx]'"
    found = [system.package(f"tensorrt-rtx-cu13-{part}") for part in ("bindings", "libs")]
    versions = [one[1] for one in found if one]
    if len(versions) < len(found):
        return fail("tensorrt-rtx", "not installed", remedy)
    if not _RTX.supports(versions[0]):
        return fail("tensorrt-rtx", f"{versions[0]}; {_RTX.versions} is supported", remedy)
    if len(set(versions)) > 1:
        return fail("tensorrt-rtx", f"bindings {versions[0]} with libraries {versions[1]}", remedy)
    return ok("tensorrt-rtx", versions[0])
