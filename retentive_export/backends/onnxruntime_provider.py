"""Where ONNX Runtime computes: its CPU provider, or its CUDA provider on one device."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from retentive_export.errors import MissingExtraError, RecipeError

__all__ = ["PROVIDERS", "Place", "open_session"]

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

REINSTALL = "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
"""Both packages are the one folder onnxruntime/: with both installed, the one that came last has overwritten the
other."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A provider and its device.

    provider: "cpu" or "cuda". device_id: number of the CUDA device. tf32: whether CUDA may round float32 factors to 10
    bits, which is faster and further from the reference than its thresholds allow.
    """

    provider: Literal["cpu", "cuda"] = "cpu"
    device_id: int = 0
    tf32: bool = False

    def __post_init__(self) -> None:
        if self.provider not in PROVIDERS:
            raise RecipeError(f"provider is {self.provider!r}, and must be one of: {', '.join(PROVIDERS)}")
        if self.device_id < 0 or (self.provider == "cpu" and self.device_id):
            raise RecipeError(
                f"device_id is {self.device_id}, and must be a CUDA device's number, or 0 with provider 'cpu'"
            )

    def options(self) -> list[tuple[str, dict[str, str]]]:
        """ONNX Runtime's providers, first choice first. CUDA's arena grows by what is asked for, not by doubling."""
        cpu: tuple[str, dict[str, str]] = (PROVIDERS["cpu"], {})
        if self.provider == "cpu":
            return [cpu]
        cuda = {
            "device_id": str(self.device_id),
            "use_tf32": str(int(self.tf32)),
            "arena_extend_strategy": "kSameAsRequested",
        }
        return [(PROVIDERS["cuda"], cuda), cpu]


def open_session(path: Path, place: Place, options: Any) -> Any:
    """An `InferenceSession` of the graph `path`, with `SessionOptions`, that computes where it was asked to.

    Raises:
        MissingExtraError: the installed ONNX Runtime has no CUDA provider, or lacks what that one needs.
        RecipeError: the device cannot be opened.
    """
    import onnxruntime as ort

    if place.provider == "cpu":
        return ort.InferenceSession(str(path), options, providers=place.options())
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        raise _no_cuda_build(ort)
    complaints = _preload(ort)
    try:
        # Without enable_fallback=0 a failure ends in a session on the CPU and a banner on stdout.
        session = ort.InferenceSession(str(path), options, providers=place.options(), enable_fallback=0)
    except Exception as error:
        raise RecipeError(
            f"provider is 'cuda', and ONNX Runtime cannot open {path.name} on CUDA device {place.device_id}: "
            f"{str(error).splitlines()[0]}",
            hint="nvidia-smi lists the devices and their free memory; provider 'cpu' needs neither",
        ) from None
    # A CUDA provider whose libraries are missing is left out of the session, and nothing is raised.
    if PROVIDERS["cuda"] not in session.get_providers():
        raise _no_cuda_libraries(ort, complaints)
    return session


def _preload(ort: Any) -> str:
    """Load CUDA's libraries from NVIDIA's Python packages, if they are there; what could not be loaded."""
    if not hasattr(ort, "preload_dlls"):
        return ""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        ort.preload_dlls()
    return "; ".join(line for line in said.getvalue().splitlines() if line.startswith("Failed to load"))


def _no_cuda_build(ort: Any) -> MissingExtraError:
    both = _is_installed("onnxruntime-gpu")
    why = "onnxruntime was installed over onnxruntime-gpu" if both else "the package onnxruntime has no CUDA provider"
    return MissingExtraError(
        f"provider is 'cuda', and the installed ONNX Runtime {ort.__version__} has only: "
        f"{', '.join(ort.get_available_providers())} ({why})",
        hint=REINSTALL,
    )


def _no_cuda_libraries(ort: Any, complaints: str) -> MissingExtraError:
    release = getattr(ort, "cuda_version", "") or "the CUDA release that it was built with"
    return MissingExtraError(
        f"provider is 'cuda', and ONNX Runtime {ort.__version__} could not load its CUDA provider: a library of "
        f"CUDA {release} or the NVIDIA driver is missing{f' ({complaints})' if complaints else ''}",
        hint="nvidia-smi shows the driver; pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's libraries, or put "
        "those of an installed CUDA on LD_LIBRARY_PATH",
    )


def _is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True
