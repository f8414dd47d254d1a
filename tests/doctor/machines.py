"""Machines that are not here: a root directory, programs' answers, Python packages."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from retentive_export.doctor import System
from retentive_export.errors import MissingExtraError, RetentiveExportError

__all__ = ["Machine", "host_with_gpu", "jetson", "plugin_library"]

NVIDIA_SMI = "| NVIDIA-SMI 580.65   Driver Version: 580.65   CUDA Version: {cuda} |"
QUERY = "nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv,noheader"
EXPORTER = {"torch": "2.13.0", "transformers": "5.17.0", "onnx": "1.19", "onnxscript": "0.6", "onnx-ir": "0.2"}


@dataclass(frozen=True, kw_only=True)
class Machine(System):
    """Answers by command line, packages by name; everything else is below `root`."""

    commands: dict[str, str] = field(default_factory=dict)
    packages: dict[str, str] = field(default_factory=dict)
    modules: frozenset[str] = frozenset()
    version: tuple[int, int, int] = (3, 12, 3)
    architecture: str = "x86_64"
    libc: tuple[int, ...] | None = (2, 39)
    disk: int = 100 << 30

    def run(self, *command: str) -> str | None:
        return self.commands.get(" ".join(command))

    def package(self, *names: str) -> tuple[str, str] | None:
        return next(((name, self.packages[name]) for name in names if name in self.packages), None)

    def package_directories(self) -> list[Path]:
        return []

    def has_module(self, name: str) -> bool:
        return name in self.modules

    def python(self) -> tuple[int, int, int]:
        return self.version

    def machine(self) -> str:
        return self.architecture

    def glibc(self) -> tuple[int, ...] | None:
        return self.libc

    def free_disk(self) -> int:
        return self.disk

    def plugin_library(self) -> Path | RetentiveExportError:
        return self.plugins or MissingExtraError(
            "libretentive_plugins.so was not found", hint="scripts/build_plugins.sh"
        )


def put(root: Path, path: str, text: str = "") -> None:
    """A file below the root."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


def jetson(
    root: Path, *, release: tuple[str, str] = ("36", "4.3"), tensorrt: str = "10.3.0", **changes: object
) -> Machine:
    """A Jetson AGX Orin with everything in place."""
    put(root, "etc/nv_tegra_release", f"# R{release[0]} (release), REVISION: {release[1]}, GCID: 1, BOARD: generic\n")
    put(root, "proc/meminfo", "MemTotal: 64000000 kB\nMemAvailable:   60000000 kB\n")
    put(root, "proc/device-tree/compatible", "nvidia,p3737-0000+p3701-0005\0nvidia,tegra234\0")
    put(root, "proc/device-tree/model", "NVIDIA Jetson AGX Orin Developer Kit\0")
    put(root, "usr/lib/aarch64-linux-gnu/nvidia/libcuda.so.1")
    put(root, f"usr/lib/aarch64-linux-gnu/libnvinfer.so.{tensorrt}")
    put(root, f"usr/lib/aarch64-linux-gnu/libnvinfer_builder_resource.so.{tensorrt}")
    put(root, "usr/local/cuda/version.json", '{"cuda" : {"name" : "CUDA SDK", "version" : "12.6.68"}}')
    fields: dict[str, object] = {
        "root": root,
        "packages": {"cuda-bindings": "12.9", **EXPORTER},
        "modules": frozenset({"tensorrt"}),
        "version": (3, 10, 12),
        "architecture": "aarch64",
        "libc": (2, 35),
        "plugins": plugin_library(root / "libretentive_plugins.so", machine=183, glibc="2.34", cubins=[87]),
    }
    return Machine(**{**fields, **changes})  # type: ignore[arg-type]


def host_with_gpu(
    root: Path, *, name: str = "NVIDIA L4", sm: str = "8.9", cuda: str = "13.0", **changes: object
) -> Machine:
    """An x86 machine with a data-centre GPU and TensorRT's wheels."""
    put(root, "proc/meminfo", "MemAvailable:   60000000 kB\n")
    put(root, "usr/lib/x86_64-linux-gnu/libcuda.so.1")
    put(root, "usr/lib/x86_64-linux-gnu/libnvinfer_builder_resource_sm89.so.11.1.0")
    fields: dict[str, object] = {
        "root": root,
        "commands": {"nvidia-smi": NVIDIA_SMI.format(cuda=cuda), QUERY: "NVIDIA L4, 8.9, 580.65\n"},
        "packages": {"tensorrt": "11.1.0.5", "cuda-bindings": "13.0", **EXPORTER},
        "modules": frozenset({"tensorrt"}),
        "plugins": plugin_library(root / "libretentive_plugins.so", cubins=[80, 89, 90], ptx=[90]),
    }
    return Machine(**{**fields, **changes})  # type: ignore[arg-type]


def plugin_library(
    path: Path,
    *,
    machine: int = 62,
    glibc: str = "2.34",
    symbols: tuple[str, ...] = ("getCreators", "setLoggerFinder", "retentive_step"),
    cubins: list[int] | None = None,
    ptx: list[int] | None = None,
) -> Path:
    """A library of nothing but the sections that are looked at."""
    names = "\0".join(["", *symbols, "GLIBC_2.2.5", f"GLIBC_{glibc}", ""]).encode()
    entries = b"".join(_entry(2, one) for one in cubins or []) + b"".join(_entry(1, one) for one in ptx or [])
    fat = struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries
    table = b"\0.dynstr\0.nv_fatbin\0.shstrtab\0"
    offsets = [64, 64 + len(names), 64 + len(names) + len(fat)]
    sections = b"\0" * 64
    for name, content, offset in ((1, names, offsets[0]), (9, fat, offsets[1]), (20, table, offsets[2])):
        sections += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, len(content), 0, 0, 1, 0)
    start = offsets[2] + len(table)
    header = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, machine, 1, 0, 0, start, 0, 64, 0, 0, 64, 4, 3)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + names + fat + table + sections)
    return path


def _entry(kind: int, capability: int) -> bytes:
    return struct.pack("<HHIQIIHHI", kind, 0x101, 64, 8, 0, 0, 0, 0, capability).ljust(64, b"\0") + b"\0" * 8
