"""`recipes` and `targets`: what there is to build, and for what."""

from __future__ import annotations

import click
import yaml
from rich.table import Table

from retentive_export.cli.shared import echo_json, json_option, print_tables, set_option

__all__ = ["recipes", "targets"]


@click.group(invoke_without_command=True)
@json_option
@click.pass_context
def recipes(ctx: click.Context, as_json: bool) -> None:
    """List the recipes; show, check or describe one."""
    if ctx.invoked_subcommand is not None:
        return
    from retentive_export.spec.recipe import load_recipe, recipe_names

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
def show(name: str, overrides: tuple[str, ...]) -> None:
    """Print the recipe NAME (or a file) with every default, as YAML."""
    from retentive_export.spec.recipe import load_recipe

    recipe = load_recipe(name, overrides)
    click.echo(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=120), nl=False)


@recipes.command()
@click.argument("file")
@set_option
def check(file: str, overrides: tuple[str, ...]) -> None:
    """Check the recipe FILE without reading its model."""
    from retentive_export.spec.recipe import load_recipe

    recipe = load_recipe(file, overrides)
    click.echo(f"{recipe.name}: ok")


@recipes.command()
def schema() -> None:
    """Print the JSON schema of a recipe."""
    from retentive_export.spec.recipe import Recipe

    echo_json(Recipe.model_json_schema(by_alias=True))


@click.command()
@json_option
def targets(as_json: bool) -> None:
    """List the targets."""
    from retentive_export.spec.targets import load_targets

    known = load_targets().values()
    if as_json:
        echo_json([target.model_dump(mode="json") for target in known])
        return
    table = Table("target", "backend", "precisions", "description", box=None, pad_edge=False)
    for target in known:
        table.add_row(target.name, target.backend, ", ".join(target.precisions), target.description)
    print_tables(table)
