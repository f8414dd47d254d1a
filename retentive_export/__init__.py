"""Export vision-language models with a bounded-memory decode loop, and run them anywhere.

    from pathlib import Path

    import numpy as np
    from PIL import Image

    import retentive_export as rx

    recipe = rx.load_recipe("reference-vlm")            # a name, or a .yaml file
    rx.build(recipe, "cpu", Path("out"))                # needs retentive-export[export]; finished steps are reused

    session = rx.Session.open("out")                    # needs the base install only: no torch
    with Image.open("picture.png") as picture:
        session.observe(np.asarray(picture.convert("RGB")))
    print(session.ask("Which digit is in row 1, column 2?"))
    print(session.state_bytes, "bytes, however long this goes on")

Names are imported when they are first used, so that `import retentive_export` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from retentive_export.errors import (
    ArtifactError,
    CapacityError,
    DeviceError,
    ExportError,
    InputError,
    MissingExtraError,
    ModelError,
    ModelNotSupportedError,
    NumericalError,
    RecipeError,
    RetentiveExportError,
    StorageError,
    ValidationError,
)

if TYPE_CHECKING:
    from retentive_export.pipeline import BuildResult, build
    from retentive_export.runtime import Generation, Sampler, Session
    from retentive_export.spec.recipe import Recipe
    from retentive_export.spec.recipe_files import load_recipe
    from retentive_export.validate import ValidationReport, validate_against, validate_golden

    __version__: str

__all__ = [
    "ArtifactError",
    "BuildResult",
    "DeviceError",
    "CapacityError",
    "ExportError",
    "Generation",
    "ValidationReport",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "ModelNotSupportedError",
    "NumericalError",
    "Recipe",
    "RecipeError",
    "RetentiveExportError",
    "Sampler",
    "Session",
    "StorageError",
    "ValidationError",
    "__version__",
    "build",
    "load_recipe",
    "validate_against",
    "validate_golden",
]

_HOMES = {
    "BuildResult": "pipeline",
    "Generation": "runtime",
    "ValidationReport": "validate",
    "Recipe": "spec.recipe",
    "Sampler": "runtime",
    "Session": "runtime",
    "build": "pipeline",
    "load_recipe": "spec.recipe_files",
    "validate_against": "validate",
    "validate_golden": "validate",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("retentive-export")
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
