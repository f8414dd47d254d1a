"""What the files of a build's steps depend on besides the recipe: a step whose key is unchanged is not run again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from retentive_export.spec.provenance import versions
from retentive_export.spec.recipe import Recipe
from retentive_export.spec.targets import Target

__all__ = ["source_stamp", "tools", "weights_key"]


def weights_key(recipe: Recipe, target: Target) -> list[Any]:
    """The format, for whom, and the version of the quantiser; empty where nothing is quantised."""
    if recipe.weights.format == "none":
        return []
    import onnxruntime

    return [recipe.weights.model_dump(), target.engines != "none", onnxruntime.__version__]


def source_stamp(source: Path | str, gguf: str | None) -> list[Any]:
    """Changes when the checkpoint's files do; a hub id is pinned by its revision."""
    if isinstance(source, str):
        return [source]
    files = [source / gguf] if gguf else sorted(path for path in source.iterdir() if path.is_file())
    stats = [(path.name, path.stat()) for path in files]
    return [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]


def tools() -> dict[str, str]:
    """Versions that an artifact depends on, and a hash of this package's own source."""
    found = versions(("retentive-export", "torch", "transformers", "onnx", "onnxscript", "onnx-ir"))
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for part in ("cache", "export", "models", "ops", "spec"):
        for path in sorted((root / part).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return found | {"source": digest.hexdigest()[:16]}
