"""Which compilers for the plugin library are on this machine, and which target's stacks each of them serves."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from retentive_export.doctor import System
from retentive_export.doctor.plugins import headers
from retentive_export.doctor.versions import numbers
from retentive_export.spec.targets import Stack, Target

__all__ = ["Compilation", "Toolkit", "cudart_directory", "find_toolkits", "plan_compilations"]

CROSS = "scripts/cross_toolchain.sh"
CROSS_COMPILER = "{machine}-linux-gnu-g++"


@dataclass(frozen=True, kw_only=True)
class Toolkit:
    """An nvcc: the file, its version such as "13.0", and the compute capabilities that it compiles for, such as 87."""

    nvcc: Path
    version: str
    capabilities: frozenset[int]

    @property
    def major(self) -> int:
        """Major version of CUDA."""
        return numbers(self.version)[0]


@dataclass(frozen=True, kw_only=True)
class Compilation:
    """One library to compile, or why it cannot be.

    stacks: names of those that it serves. machine: architecture of the CPU. sms: compute capabilities, such as "8.7".
    toolkit: null where there is none that would do, and `why` says what is missing. cudart: directory of the CUDA
    runtime's static library when it is for another machine than this.
    """

    stacks: tuple[str, ...]
    machine: str
    sms: tuple[str, ...]
    toolkit: Toolkit | None = None
    cudart: Path | None = None
    why: str = ""

    @property
    def name(self) -> str:
        """A folder's name, such as "cuda13-aarch64-sm87"."""
        assert self.toolkit is not None
        return f"cuda{self.toolkit.major}-{self.machine}-sm{'-'.join(sm.replace('.', '') for sm in self.sms)}"

    @property
    def is_cross(self) -> bool:
        """Whether it is for another architecture than this machine's."""
        return self.machine != platform.machine()

    def key(self, sources: str) -> str:
        """Changes when anything does that the library's bytes depend on. sources: digest of the source files."""
        assert self.toolkit is not None
        compiler = CROSS_COMPILER.format(machine=self.machine) if self.is_cross else "c++"
        parts = [sources, self.name, said(str(self.toolkit.nvcc), "--version"), said(compiler, "--version")]
        if self.cudart is not None:
            parts.append(hashlib.sha256((self.cudart / "libcudart_static.a").read_bytes()).hexdigest())
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def said(*command: str) -> str:
    """What a program prints; "" where it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def find_toolkits() -> list[Toolkit]:
    """Every nvcc on PATH and below /usr/local, one for each version, the newest first."""
    on_path = shutil.which("nvcc")
    candidates = [Path(on_path)] if on_path else []
    candidates += sorted(Path("/usr/local").glob("cuda*/bin/nvcc"))
    found: dict[str, Toolkit] = {}
    for nvcc in candidates:
        version = re.search(r"release ([\d.]+)", said(str(nvcc), "--version"))
        if version and version[1] not in found:
            codes = re.findall(r"sm_(\d+)\b", said(str(nvcc), "--list-gpu-code"))
            found[version[1]] = Toolkit(nvcc=nvcc, version=version[1], capabilities=frozenset(map(int, codes)))
    return sorted(found.values(), key=lambda one: numbers(one.version), reverse=True)


def cudart_directory(plugins: Path, machine: str, version: str) -> Path:
    """Where scripts/cross_toolchain.sh puts another machine's static CUDA runtime, below the plugins' source folder."""
    return plugins / "build" / "cross" / f"cudart-{version}-{machine}"


def plan_compilations(target: Target, plugins: Path, toolkits: Iterable[Toolkit]) -> list[Compilation]:
    """What to compile for a target: one library for each major version of CUDA among its stacks.

    Machine code of one toolkit runs with every driver of the same major version, older minor ones included.
    """
    by_major: dict[int | None, list[Stack]] = {}
    for stack in target.stacks:
        by_major.setdefault(numbers(stack.cuda)[0], []).append(stack)
    known = list(toolkits)
    return [
        _plan(target, tuple(stack.name for stack in stacks), major, plugins, known)
        for major, stacks in (by_major or {None: []}).items()
    ]


def _plan(
    target: Target, stacks: tuple[str, ...], major: int | None, plugins: Path, toolkits: list[Toolkit]
) -> Compilation:
    planned = Compilation(stacks=stacks, machine=target.machine, sms=target.sm)
    fitting = [one for one in toolkits if major in (None, one.major)]
    if not fitting:
        here = ", ".join(one.version for one in toolkits) or "none"
        return _without(planned, f"it takes nvcc of CUDA {major or '12 or 13'}, and here is: {here}")
    toolkit = fitting[0]
    if unknown := [sm for sm in target.sm if int(sm.replace(".", "")) not in toolkit.capabilities]:
        return _without(planned, f"nvcc {toolkit.version} does not know SM {unknown[0]}")
    for program in ("cmake", "ninja"):
        if shutil.which(program) is None:
            return _without(planned, f"{program} was not found")
    if (found := headers(System(), None)).status != "ok":
        return _without(planned, f"TensorRT's headers were not found ({found.remedy})")
    cudart = None
    if planned.is_cross:
        compiler = CROSS_COMPILER.format(machine=target.machine)
        cudart = cudart_directory(plugins, target.machine, toolkit.version)
        if shutil.which(compiler) is None:
            return _without(planned, f"{compiler} was not found ({CROSS} installs it)")
        if not (cudart / "libcudart_static.a").is_file():
            return _without(planned, f"the CUDA runtime {toolkit.version} for {target.machine} is not here ({CROSS})")
    elif shutil.which("c++") is None:
        return _without(planned, "no C++ compiler was found")
    return Compilation(stacks=stacks, machine=target.machine, sms=target.sm, toolkit=toolkit, cudart=cudart)


def _without(planned: Compilation, why: str) -> Compilation:
    return Compilation(stacks=planned.stacks, machine=planned.machine, sms=planned.sms, why=why)
