"""The light runtime: this package as a wheel, less the data that only exporting needs; equal sources, equal bytes."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from retentive_export.doctor.versions import numbers
from retentive_export.errors import ExportError, MissingExtraError
from retentive_export.spec.files import storage_errors

__all__ = ["EPOCH", "build_wheel", "checkout", "wheel_key"]

EPOCH = 315532800
"""1 January 1980, in seconds: the time of every file of a wheel or an archive, and the first that a zip file knows."""

PACKAGE = Path(__file__).resolve().parents[1]
LEFT_OUT = ("calibration", "reference_vlm/weights", "reference_vlm/samples")
"""Folders of the package that only exporting needs."""
PROJECT = ("pyproject.toml", "README.md", "LICENSE")
BACKEND = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def checkout() -> Path:
    """The source checkout that this package runs from.

    Raises:
        MissingExtraError: it was installed without one.
    """
    root = PACKAGE.parent
    if not all((root / name).is_file() for name in (*PROJECT, "plugins/CMakeLists.txt")):
        raise MissingExtraError(
            f"a bundle carries the plugins' sources, and {PACKAGE} is not in a source checkout",
            hint="pip install -e CHECKOUT, and run it from there",
        )
    return root


def wheel_key(root: Path) -> list[str]:
    """Changes when anything does that the wheel's bytes depend on."""
    digest = hashlib.sha256()
    for name in [*PROJECT, *_modules(root)]:
        digest.update(name.encode() + b"\0" + hashlib.sha256((root / name).read_bytes()).digest())
    try:
        setuptools = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        setuptools = ""
    return [digest.hexdigest(), setuptools]


def build_wheel(root: Path, output: Path) -> str:
    """Write the wheel into `output`; its file name.

    Raises:
        MissingExtraError: setuptools is not installed, or too old. ExportError: it failed. StorageError: the disk is
            full or not writable.
    """
    try:
        version = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        version = "none"
    if numbers(version) < (77,):
        raise MissingExtraError(
            f"the runtime's wheel is built by setuptools 77 or later, and {version} is installed",
            hint="pip install 'retentive-export[bundle]'",
        )
    with storage_errors(output), tempfile.TemporaryDirectory(prefix="retentive-wheel-") as scratch:
        for name in [*PROJECT, *_modules(root)]:
            copy = Path(scratch, name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, copy)
            copy.chmod(0o644)
        output.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {"SOURCE_DATE_EPOCH": str(EPOCH), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-c", BACKEND, str(output)]
        done = subprocess.run(command, cwd=scratch, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(f"setuptools cannot build the runtime's wheel: {done.stderr.strip().splitlines()[-1]}")
    return next(path.name for path in output.glob("*.whl"))


def _modules(root: Path) -> list[str]:
    """Relative paths of the package's files that go in."""
    package = root / PACKAGE.name
    found = (path.relative_to(package).as_posix() for path in package.rglob("*") if path.is_file())
    kept = (name for name in found if not name.startswith(tuple(f"{folder}/" for folder in LEFT_OUT)))
    return sorted(f"{PACKAGE.name}/{name}" for name in kept if Path(name).suffix in (".py", ".yaml", ".typed"))
