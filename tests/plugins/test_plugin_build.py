"""The plugins' build: formatting, and configurations that CMake refuses with the remedy in its message."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[2] / "plugins"
SUFFIXES = {".h", ".cpp", ".cu", ".cuh"}


def configure(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`cmake` in a fresh build folder; its output with the line breaks of CMake's messages undone."""
    command = ["cmake", "-S", PLUGINS, "-B", folder / "build", "-G", "Ninja", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    done.stderr = " ".join(done.stderr.split())
    return done


@pytest.fixture
def bare_python(tmp_path: Path) -> Path:
    """An interpreter that sees no installed package."""
    path = tmp_path / "python3"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n', encoding="utf-8")
    path.chmod(0o755)
    return path


def test_sources_are_formatted() -> None:
    sources = [
        path for path in sorted(PLUGINS.rglob("*")) if path.suffix in SUFFIXES and PLUGINS / "build" not in path.parents
    ]
    assert len(sources) > 20
    clang_format = Path(sys.executable).with_name("clang-format")
    done = subprocess.run([clang_format, "--dry-run", "-Werror", *sources], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:4000]


def test_missing_headers_are_an_error_with_the_remedy(tmp_path: Path, bare_python: Path) -> None:
    done = configure(tmp_path, f"-DPython3_EXECUTABLE={bare_python}", "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF")
    assert done.returncode != 0
    assert "TensorRT's C++ headers (NvInferRuntime.h) were not found" in done.stderr
    assert f"{bare_python} -m pip install --no-deps kernel-lens" in done.stderr
    assert "-DTENSORRT_INCLUDE_DIR=" in done.stderr


def test_a_wrong_include_directory_is_named(tmp_path: Path) -> None:
    done = configure(tmp_path, f"-DTENSORRT_INCLUDE_DIR={tmp_path}")
    assert done.returncode != 0
    assert f"TENSORRT_INCLUDE_DIR is '{tmp_path}'" in done.stderr


@pytest.mark.parametrize(
    "lines",
    [
        "#define NV_TENSORRT_MAJOR 10 //!< major\n#define NV_TENSORRT_MINOR 2 //!< minor\n",
        "#define TRT_MAJOR_ENTERPRISE 10\n#define TRT_MINOR_ENTERPRISE 2\n"
        "#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE\n",
    ],
    ids=["numbers", "macros"],
)
def test_old_headers_are_refused(tmp_path: Path, lines: str) -> None:
    (tmp_path / "NvInferVersion.h").write_text(lines, encoding="utf-8")
    done = configure(tmp_path, f"-DTENSORRT_INCLUDE_DIR={tmp_path}")
    assert done.returncode != 0
    assert "holds the headers of TensorRT 10.2; 10.3 or later is needed" in done.stderr


def test_sm_versions_are_those_that_the_toolkit_knows(tmp_path: Path) -> None:
    done = configure(tmp_path / "some", "-DRETENTIVE_SM_LIST=42;80;90", f"-DPython3_EXECUTABLE={sys.executable}")
    assert done.returncode == 0, done.stderr
    assert "SM 42 left out" in done.stdout
    assert "CUDA architectures: 80-real;90" in done.stdout
    done = configure(tmp_path / "none", "-DRETENTIVE_SM_LIST=42")
    assert done.returncode != 0
    assert "RETENTIVE_SM_LIST is '42'" in done.stderr


def test_the_reference_needs_no_cuda_and_no_tensorrt(tmp_path: Path, bare_python: Path) -> None:
    done = configure(
        tmp_path,
        "-DRETENTIVE_CUDA=OFF",
        "-DCMAKE_CUDA_COMPILER=/nonexistent/nvcc",
        f"-DPython3_EXECUTABLE={bare_python}",
    )
    assert done.returncode == 0, done.stderr
    assert "CUDA" not in done.stdout
