"""Backends: run an artifact's graphs. Each knows the manifest and its own vendor's runtime, and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from retentive_export.backends.base import Backend, DecoderInputs
from retentive_export.errors import RecipeError
from retentive_export.spec.manifest import read_manifest

__all__ = ["LOADERS", "Backend", "DecoderInputs", "default_backend", "open_backend"]


def _onnxruntime() -> Callable[..., Backend]:
    from retentive_export.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend


def _torch() -> Callable[..., Backend]:
    from retentive_export.backends.torch_backend import TorchBackend

    return TorchBackend


def _tensorrt() -> Callable[..., Backend]:
    from retentive_export.backends.tensorrt.runtime import TensorRTBackend

    return TensorRTBackend


def _tensorrt_rtx() -> Callable[..., Backend]:
    from retentive_export.backends.tensorrt.runtime import TensorRTRTXBackend

    return TensorRTRTXBackend


LOADERS: dict[str, Callable[[], Callable[..., Backend]]] = {
    "onnxruntime": _onnxruntime,
    "torch": _torch,
    "tensorrt": _tensorrt,
    "tensorrt_rtx": _tensorrt_rtx,
}
"""Name -> function that imports the backend's module and returns its class; nothing of a vendor is imported before."""


def default_backend(directory: str | Path) -> str:
    """The backend that an artifact was built for: that of its engines if it has any, else onnxruntime.

    Raises:
        ArtifactError: it cannot be read.
    """
    engine = read_manifest(Path(directory)).engine
    return "onnxruntime" if engine is None else engine.backend


def open_backend(name: str, directory: str | Path, **options: object) -> Backend:
    """Open an artifact with the backend called `name`; options are the backend's own.

    Raises:
        RecipeError: no backend has this name, or this one has no such option. MissingExtraError: its vendor's package
            is not installed.
    """
    if name not in LOADERS:
        raise RecipeError(f"backend is {name!r}, and must be one of: {', '.join(LOADERS)}")
    backend = LOADERS[name]()
    known = list(inspect.signature(backend).parameters)[1:]
    if unknown := [option for option in options if option not in known]:
        raise RecipeError(f"backend {name!r} has no option {unknown[0]!r}; it has: {', '.join(known)}")
    return backend(Path(directory), **options)
