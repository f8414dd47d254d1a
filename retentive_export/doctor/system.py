"""The machine as the probes see it. Tests give them another one."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from retentive_export.errors import RetentiveExportError
from retentive_export.ops.native import find

__all__ = ["Gpu", "System"]

_SECONDS = 20
_TEGRA = {"nvidia,tegra234": "8.7", "nvidia,tegra264": "11.0"}
"""Chip in the device tree of a Jetson -> compute capability of its GPU."""
_LIBRARIES = (
    "usr/lib/*-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/lib",
    "usr/local/cuda*/lib64",
    "usr/local/[Tt]ensor[Rr][Tt]*/lib",
    "opt/[Tt]ensor[Rr][Tt]*/lib",
)


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU: its name, compute capability such as "8.9", and the driver's version."""

    name: str
    sm: str
    driver: str


@dataclass(frozen=True, kw_only=True)
class System:
    """This machine. root: of its file system. plugins: where the plugin library is, when it is not the package's."""

    root: Path = Path("/")
    plugins: Path | None = None

    def read(self, path: str) -> str | None:
        """Text of a file below the root; None if there is none."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def libraries(self, pattern: str) -> list[Path]:
        """Shared libraries by file name, from the system's directories and from TensorRT's Python wheels."""
        places = [path for glob in _LIBRARIES for path in self.root.glob(glob)] + self.package_directories()
        return sorted({file for place in places for file in place.glob(pattern)})

    def package_directories(self) -> list[Path]:
        """Directories of installed Python packages that hold TensorRT's libraries."""
        found = (importlib.util.find_spec(name) for name in ("tensorrt_libs", "tensorrt_rtx_libs"))
        return [Path(place) for spec in found if spec for place in spec.submodule_search_locations or ()]

    def run(self, *command: str) -> str | None:
        """What a program prints on stdout; None if it is not there, fails or hangs."""
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout if done.returncode == 0 else None

    def package(self, *names: str) -> tuple[str, str] | None:
        """(name, version) of the first of some Python distributions that is installed."""
        for name in names:
            try:
                return name, importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return None

    def has_module(self, name: str) -> bool:
        """Whether a top-level Python module can be imported here; it is not."""
        return importlib.util.find_spec(name) is not None

    def python(self) -> tuple[int, int, int]:
        """Version of this Python."""
        return sys.version_info[:3]

    def machine(self) -> str:
        """Architecture, such as "x86_64" or "aarch64"."""
        return platform.machine()

    def glibc(self) -> tuple[int, ...] | None:
        """Version of the C library; None where it is another one."""
        name, version = platform.libc_ver()
        return tuple(int(part) for part in version.split(".")) if name == "glibc" else None

    def free_disk(self) -> int:
        """Free bytes where the command runs, which is where artifacts usually go."""
        return shutil.disk_usage(os.getcwd()).free

    def plugin_library(self) -> Path | RetentiveExportError:
        """The plugin library, or why there is none."""
        try:
            return find("plugins", self.plugins)
        except RetentiveExportError as error:
            return error

    @cached_property
    def gpus(self) -> list[Gpu]:
        """GPUs that the driver shows; on a Jetson, whose nvidia-smi says little, the one of its chip."""
        query = "--query-gpu=name,compute_cap,driver_version"
        lines = (self.run("nvidia-smi", query, "--format=csv,noheader") or "").splitlines()
        rows = [[field.strip() for field in line.split(",")] for line in lines]
        found = [Gpu(name=row[0], sm=row[1], driver=row[2]) for row in rows if len(row) == 3 and row[1][:1].isdigit()]
        return found or self._tegra()

    def _tegra(self) -> list[Gpu]:
        compatible = (self.read("proc/device-tree/compatible") or "").split("\0")
        model = (self.read("proc/device-tree/model") or "Jetson").strip("\0\n ")
        return [Gpu(name=model, sm=_TEGRA[chip], driver="") for chip in compatible if chip in _TEGRA]
