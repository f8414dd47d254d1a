"""Where a recipe's weights are on this machine. Torch-free."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from retentive_export.errors import RecipeError
from retentive_export.spec.recipe import ModelSection

__all__ = ["locate"]


def locate(model: ModelSection) -> tuple[Path | str, str | None]:
    """Directory or hub id of the weights, and the GGUF file in it, if any."""
    if model.source == "reference-vlm":
        from retentive_export.reference_vlm import weights_dir

        if not weights_dir().is_dir():
            raise RecipeError(
                "model.source is 'reference-vlm', and this installation is a bundle's light runtime, without its "
                "weights",
                hint="build where the exporter is installed",
            )
        return weights_dir(), None
    if not model.source.startswith("package:"):
        path = Path(model.source)
        return (path if path.exists() else model.source), model.gguf_file
    name = model.source.removeprefix("package:")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(
            f"model.source is {model.source!r}, and no package {name!r} is installed", hint="pip install it first"
        )
    root = Path(next(iter(spec.submodule_search_locations)))
    found = sorted(root.rglob(model.gguf_file or "*.gguf"))
    if len(found) != 1:
        raise RecipeError(
            f"model.source is {model.source!r}, which holds {len(found)} GGUF files",
            hint="name one with model.gguf_file",
        )
    return found[0].parent, found[0].name
