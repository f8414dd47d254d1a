"""`build`: a recipe or a model becomes an artifact."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from retentive_export.cli.shared import (
    echo_json,
    json_option,
    print_tables,
    quiet_libraries,
    recipe_of,
    set_option,
    target_options,
)

if TYPE_CHECKING:
    from retentive_export.planner import Plan
    from retentive_export.spec.recipe import Recipe
    from retentive_export.spec.targets import Target

__all__ = ["build"]


@click.command()
@click.argument("recipe_or_model")
@target_options(default="cpu")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory of the artifact.  [required]")
@set_option
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path),
    help="libretentive_plugins.so, for targets with engines.  [default: the package's own build]",
)
@click.option("--bundle", is_flag=True, help="Make a bundle even where this machine is the target.")
@click.option("--archive", is_flag=True, help="Write the bundle as one file too, OUTPUT.tar.zst.")
@click.option(
    "--sign", "sign_key", type=click.Path(path_type=Path), help="Private key (ed25519, PEM) to sign the bundle with."
)
@click.option("--dry-run", is_flag=True, help="Read the model, print what would be made, write nothing.")
@click.option("-v", "--verbose", is_flag=True, help="Progress lines on stderr where it is no terminal.")
@json_option
def build(
    recipe_or_model: str,
    target_name: str,
    targets_file: Path | None,
    output: Path | None,
    overrides: tuple[str, ...],
    plugin_library: Path | None,
    bundle: bool,
    archive: bool,
    sign_key: Path | None,
    dry_run: bool,
    verbose: bool,
    as_json: bool,
) -> None:
    """Build an artifact from a recipe or a model.

    RECIPE_OR_MODEL is a recipe's name, a .yaml file, a directory with a Hugging Face model, or a hub id. A model
    without a recipe gets the defaults; a vision-language model then needs --set model.frame=[HEIGHT,WIDTH]. A
    repeated build reuses finished steps. For a target whose engines are built on the device, on any other machine the
    result is a deployment bundle, which `finish` completes there.
    """
    from retentive_export import pipeline, report
    from retentive_export.cli.progress import build_progress

    recipe = recipe_of(recipe_or_model, overrides)
    quiet_libraries()
    if dry_run:
        described = pipeline.describe(recipe, target_name, targets_file=targets_file)
        planned = _planned(recipe, described[0])
        if as_json:
            plan = report.planner_data(planned) if planned else None
            echo_json({**report.plan_data(*described), "plan": plan})
        else:
            tables = [report.plan_table(*described), *(report.planner_tables(planned) if planned else [])]
            print_tables(*(part for table in tables for part in (table, "")))
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    with build_progress(verbose) as progress:
        result = pipeline.build(
            recipe,
            target_name,
            output,
            plugin_library=plugin_library,
            targets_file=targets_file,
            bundle=bundle,
            archive=archive,
            sign_key=sign_key,
            progress=progress,
        )
    if as_json:
        echo_json(report.build_data(result))
    else:
        print_tables(report.build_table(result))


def _planned(recipe: Recipe, target: Target) -> Plan | None:
    """The plan for a target; None, with a note, where a model's sizes are not known without its weights."""
    from retentive_export.errors import ModelError
    from retentive_export.planner import plan_recipe

    try:
        return plan_recipe(recipe, target)
    except ModelError as error:
        click.echo(f"no plan of memory and speed: {error.message}", err=True)
        return None
