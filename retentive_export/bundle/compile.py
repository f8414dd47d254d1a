"""Compiling the plugin library for a target, here or on the device; it is kept by the hash of what it depends on."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from retentive_export.bundle.toolchain import Compilation
from retentive_export.doctor.elf import read_library
from retentive_export.errors import ArtifactError, ExportError
from retentive_export.spec.files import atomic_file, storage_errors

__all__ = ["LIBRARY", "check_library", "compile_library", "source_digest", "source_files"]

LIBRARY = "libretentive_plugins.so"
LAST_LINES = 8
Progress = Callable[[str], None]


def source_files(plugins: Path) -> list[str]:
    """Relative paths of the plugins' sources: all below the folder but what builds leave there."""
    found = (path.relative_to(plugins) for path in plugins.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] != "build" and "__pycache__" not in path.parts)


def source_digest(plugins: Path) -> str:
    """Hash of the sources and their names."""
    digest = hashlib.sha256()
    for name in source_files(plugins):
        digest.update(f"{name}\0{hashlib.sha256((plugins / name).read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def compile_library(what: Compilation, plugins: Path, build: Path, progress: Progress) -> Path:
    """The library, compiled or from an earlier time; the file stays in `build`.

    Args:
        what: with a toolkit. plugins: folder of the sources. build: folder for results and object files, used again by
            the next call; processes that compile into the same one wait for each other.
        progress: called with "[4/23]".

    Raises:
        ExportError: CMake, a compiler or the linker failed, or the result is not what was asked for.
        StorageError: the disk is full or not writable.
    """
    assert what.toolkit is not None
    folder = build / what.name
    kept = folder / what.key(source_digest(plugins))[:16] / LIBRARY
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / ".lock") as lock:
        if not kept.is_file():
            _run(_configure(what, plugins.resolve(), folder / "objects"), folder, lock, progress)
            jobs = str(os.cpu_count() or 1)
            command = ["cmake", "--build", str(folder / "objects"), "--target", "retentive_plugins", "-j", jobs]
            _run(command, folder, lock, progress)
            made = folder / "objects" / LIBRARY
            check_library(made, what.machine, what.sms)
            for old in folder.glob(f"*/{LIBRARY}"):
                if old != made:
                    shutil.rmtree(old.parent)
            with atomic_file(kept) as stream:
                stream.write(made.read_bytes())
    return kept


def _configure(what: Compilation, plugins: Path, objects: Path) -> list[str]:
    assert what.toolkit is not None
    architectures = ";".join(f"{sm.replace('.', '')}-real" for sm in what.sms)
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_ARCHITECTURES": architectures,
        "CMAKE_CUDA_COMPILER": what.toolkit.nvcc,
        "CMAKE_SHARED_LINKER_FLAGS_RELEASE": "-s",  # with the symbols goes the only trace of the folder's name
        "CMAKE_SKIP_RPATH": "ON",
        "Python3_EXECUTABLE": sys.executable,
        "RETENTIVE_HARNESS": "OFF",
    }
    if what.is_cross:
        options["CMAKE_TOOLCHAIN_FILE"] = plugins / "cmake" / f"{what.machine}-linux-gnu.cmake"
        options["CUDART_DIR"] = what.cudart or ""
    flags = [f"-D{name}={value}" for name, value in options.items()]
    return ["cmake", "-G", "Ninja", "-S", str(plugins), "-B", str(objects), *flags]


def _run(command: list[str], folder: Path, lock: int, progress: Progress) -> None:
    """Run one command; its children hold the lock, so that a build goes on undisturbed where its starter was killed."""
    log, last = folder / "compile.log", deque[str](maxlen=LAST_LINES)
    with log.open("a", encoding="utf-8") as file:
        child = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", pass_fds=(lock,)
        )
        assert child.stdout is not None
        for line in child.stdout:
            file.write(line)
            if line.strip():
                last.append(line.strip())
            if line.startswith("["):
                progress(line.split(" ", 1)[0])
        status = child.wait()
    if status:
        raise ExportError(
            f"the plugin library cannot be compiled ({Path(command[0]).name} ended with {status}): {' | '.join(last)}",
            hint=f"all of it is in {log}",
        )


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Hold an exclusive lock on a file; its descriptor may go to child processes."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def check_library(path: Path, machine: str, sms: tuple[str, ...]) -> None:
    """Hold that a library is for a machine and has code for GPUs.

    Raises:
        ArtifactError: it is for another architecture, or lacks an SM or TensorRT's entry points.
    """
    library = read_library(path)
    if library.machine != machine:
        raise ArtifactError(
            f"{path} is for {library.machine}, and the target is {machine}", hint="give the library for the target"
        )
    wanted = {sm: int(sm.replace(".", "")) for sm in sms}
    if lacking := [sm for sm, number in wanted.items() if number not in library.cubins]:
        has = ", ".join(f"{one // 10}.{one % 10}" for one in sorted(library.cubins)) or "none"
        raise ArtifactError(
            f"{path} has machine code for SM {has}, and the target is SM {lacking[0]}",
            hint="give a library that was compiled for it: -DRETENTIVE_SM_LIST",
        )
    if "getCreators" not in library.symbols:
        raise ArtifactError(f"{path} has no getCreators: it is no plugin library of this package")
