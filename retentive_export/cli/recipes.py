"""`recipes` and `targets`: what there is to build, and for what."""

from __future__ import annotations

from pathlib import Path

import click
import yaml
from rich.table import Table

from retentive_export.cli.shared import echo_json, json_option, print_tables, set_option, targets_file_option

__all__ = ["recipes", "targets"]


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(ctx: click.Context, as_json: bool) -> None:
    """List the recipes; show, check or describe one."""
    if ctx.invoked_subcommand is not None:
        return
    from retentive_export.spec.recipe_files import load_recipe, recipe_names

    listed = [load_recipe(name) for name in recipe_names()]
    if as_json:
        echo_json([recipe.to_dict() for recipe in listed])
        return
    table = Table("recipe", "model", "description", box=None, pad_edge=False)
    for recipe in listed:
        table.add_row(recipe.name, recipe.model.source, recipe.description)
    print_tables(table)


@recipes.command()
@click.argument("name")
@set_option
@json_option
def show(name: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the recipe NAME (or a file) with every default, as YAML."""
    from retentive_export.spec.recipe_files import load_recipe

    recipe = load_recipe(name, overrides)
    if as_json:
        echo_json(recipe.to_dict())
        return
    click.echo(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=120), nl=False)


@recipes.command()
@click.argument("file")
@set_option
def check(file: str, overrides: tuple[str, ...]) -> None:
    """Check the recipe FILE without reading its model: fields, and where the model's sizes are known, its cache."""
    from retentive_export.errors import ModelError
    from retentive_export.planner import model_shape
    from retentive_export.spec.plan import plan_cache
    from retentive_export.spec.recipe_files import load_recipe

    recipe = load_recipe(file, overrides)
    try:
        shape = model_shape(recipe.model)
    except ModelError as error:
        click.echo(f"{recipe.name}: fields ok; the cache was not checked: {error.message}")
        return
    plan_cache(recipe, shape.text, shape.frame)
    click.echo(f"{recipe.name}: ok")


@recipes.command()
def schema() -> None:
    """Print the JSON schema of a recipe."""
    from retentive_export.spec.recipe import Recipe

    echo_json(Recipe.model_json_schema(by_alias=True))


@click.command()
@targets_file_option
@json_option
def targets(targets_file: Path | None, as_json: bool) -> None:
    """List the targets: GPUs, memory, precisions, software."""
    from retentive_export import report
    from retentive_export.spec.targets import load_targets

    known = load_targets(targets_file).values()
    if as_json:
        echo_json([target.model_dump(mode="json") for target in known])
    else:
        print_tables(report.targets_table(known))
