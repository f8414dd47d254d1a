"""Backends: run an artifact's graphs. Each knows the manifest and its own vendor's runtime, and nothing else."""

from __future__ import annotations

from retentive_export.backends.base import Backend, DecoderInputs

__all__ = ["Backend", "DecoderInputs", "open_backend"]


def open_backend(name: str, directory: object, **options: object) -> Backend:
    """Open an artifact with the backend called `name`; options are the backend's own."""
    from pathlib import Path

    from retentive_export.backends.onnxruntime import OnnxRuntimeBackend
    from retentive_export.errors import RecipeError

    if name != OnnxRuntimeBackend.name:
        raise RecipeError(f"backend is {name!r}, and must be {OnnxRuntimeBackend.name!r}")
    return OnnxRuntimeBackend(Path(str(directory)), **options)  # type: ignore[arg-type]
