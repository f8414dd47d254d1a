"""Recipes by name or file: what the package carries, and YAML of your own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from retentive_export.errors import RecipeError
from retentive_export.spec.overrides import apply_overrides
from retentive_export.spec.plain import plain_yaml
from retentive_export.spec.recipe import Recipe, parse_recipe

__all__ = ["load_recipe", "recipe_names", "recipe_path"]


def load_recipe(name_or_path: str | Path, overrides: Iterable[str] = ()) -> Recipe:
    """Read a recipe by its name (one of the package's) or from a YAML file, and apply `key=value` overrides.

    Raises:
        RecipeError: there is no such recipe, the file is not YAML, or a field is wrong.
    """
    path = recipe_path(name_or_path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} cannot be read: {error}") from None
    try:
        data = plain_yaml(text)
    except ValueError as error:
        raise RecipeError(f"recipe {path} is not YAML: {error}") from None
    if isinstance(data, Mapping):
        data = apply_overrides({"name": path.stem, **data}, overrides)
    recipe = parse_recipe(data, origin=f"recipe {path.name}")
    if recipe.constants is None:
        return recipe
    beside = str(path.parent / recipe.constants.file)  # an absolute path stays what it is
    return recipe.model_copy(update={"constants": recipe.constants.model_copy(update={"file": beside})})


def recipe_names() -> list[str]:
    """Names of the recipes that the package carries."""
    return sorted(path.stem for path in _recipes_dir().glob("*.yaml"))


def recipe_path(name_or_path: str | Path) -> Path:
    """File of a recipe given by name or path.

    Raises:
        RecipeError: neither a known name nor a file.
    """
    path = Path(name_or_path)
    if path.suffix in {".yaml", ".yml"}:
        if path.is_file():
            return path
        raise RecipeError(f"recipe {str(path)!r}: there is no such file")
    known = _recipes_dir() / f"{path.name}.yaml"
    if str(path) == path.name and known.is_file():
        return known
    raise RecipeError(
        f"recipe {str(name_or_path)!r} is neither a file nor one of: {', '.join(recipe_names())}",
        hint="name a .yaml file, or a directory with a Hugging Face model",
    )


def _recipes_dir() -> Path:
    return Path(__file__).resolve().parent.parent / "recipes"
