"""`build`: a recipe or a model becomes an artifact."""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from retentive_export.cli.shared import echo_json, json_option, print_tables, set_option

if TYPE_CHECKING:
    from retentive_export.spec.recipe import Recipe

__all__ = ["build"]


@click.command()
@click.argument("recipe_or_model")
@click.option("--target", "target_name", default="cpu", show_default=True, help="Where it will run; see `targets`.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory of the artifact.  [required]")
@set_option
@click.option("--dry-run", is_flag=True, help="Read the model, print what would be made, write nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Progress lines on stderr where it is no terminal.")
@json_option
def build(
    recipe_or_model: str,
    target_name: str,
    output: Path | None,
    overrides: tuple[str, ...],
    dry_run: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Build an artifact from a recipe or a model.

    RECIPE_OR_MODEL is a recipe's name, a .yaml file, a directory with a Hugging Face model, or a hub id. A model
    without a recipe gets the defaults; a vision-language model then needs --set model.frame=[HEIGHT,WIDTH]. A
    repeated build reuses finished steps.
    """
    from retentive_export import pipeline, report
    from retentive_export.cli.progress import build_progress

    recipe = _recipe(recipe_or_model, overrides)
    _quiet_libraries()
    if dry_run:
        described = pipeline.describe(recipe, target_name)
        if as_json:
            echo_json(report.plan_data(*described))
        else:
            print_tables(report.plan_table(*described))
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    with build_progress(verbose) as progress:
        result = pipeline.build(recipe, target_name, output, progress=progress)
    if as_json:
        echo_json(report.build_data(result))
    else:
        print_tables(report.build_table(result))


def _recipe(text: str, overrides: tuple[str, ...]) -> Recipe:
    """The recipe that the argument names, or one of defaults around the model that it names."""
    from retentive_export.spec.recipe import apply_overrides, load_recipe, parse_recipe, recipe_names

    path = Path(text)
    is_file = path.suffix in {".yaml", ".yml"}
    is_model = path.is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text)
    if is_file or text in recipe_names() or not is_model:
        return load_recipe(text, overrides)
    data = {"name": path.resolve().name if path.is_dir() else path.name, "model": {"source": text}}
    return parse_recipe(apply_overrides(data, overrides), origin=f"recipe of {text}")


def _quiet_libraries() -> None:
    """Bars and notes of the libraries would tear ours apart; they read this variable when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)
