"""`plan`: what a recipe takes on a target, without reading a weight."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from retentive_export.cli.shared import (
    echo_json,
    json_option,
    print_tables,
    recipe_of,
    set_option,
    target_options,
)

if TYPE_CHECKING:
    from retentive_export.planner import BoardPlan, MeasuredArm, Plan
    from retentive_export.spec.targets import Board, Target

    _Compared = tuple[str, tuple[MeasuredArm, ...], Board, float]

__all__ = ["plan"]


def _size(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """Bytes, from a number or a size such as '16 GB'."""
    from retentive_export.spec.plain import parse_bytes

    if value is None:
        return None
    try:
        size = int(parse_bytes(value))
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no size: {error}", ctx, param) from None
    if size < 1:
        raise click.BadParameter(f"{value!r} is no memory: it must be at least 1 byte", ctx, param)
    return size


@click.command()
@click.argument("recipe_or_model")
@target_options(default="cpu")
@set_option
@click.option("--board", help="One board of the target, see `targets`.  [default: all]")
@click.option("--memory", callback=_size, help="Memory of a machine that is no board, such as '16 GB'.")
@click.option(
    "--bandwidth", type=click.FloatRange(min=0, min_open=True), help="Its bandwidth in GB/s; goes with --memory."
)
@click.option(
    "--margin", type=click.FloatRange(0, 1), default=0.1, show_default=True, help="Share of the memory to leave free."
)
@click.option(
    "--efficiency",
    type=click.FloatRange(0, 1, min_open=True),
    help="Share of the bandwidth that decode reaches.  [default: the target's]",
)
@click.option("--measured", type=click.Path(path_type=Path), help="JSON of benchmarks/decode_loop, to set beside.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write an SVG of memory and speed against context.")
@json_option
def plan(
    recipe_or_model: str,
    target_name: str,
    targets_file: Path | None,
    overrides: tuple[str, ...],
    board: str | None,
    memory: int | None,
    bandwidth: float | None,
    margin: float,
    efficiency: float | None,
    measured: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Print what a recipe takes on a target: bytes, whether they fit, tokens per second.

    RECIPE_OR_MODEL is as in `build`. No weight is read and nothing downloaded: sizes come from the model's config.json,
    or from the published shapes that the package carries.
    """
    from retentive_export.planner import Assumptions, plan_recipe
    from retentive_export.spec.targets import target

    recipe = recipe_of(recipe_or_model, overrides)
    chosen = target(target_name, recipe.model.dtype, file=targets_file)
    planned = plan_recipe(
        recipe,
        chosen,
        boards=_boards(chosen, board, memory, bandwidth),
        assumptions=Assumptions(margin=margin, efficiency=efficiency),
    )
    compared = None if measured is None else _compared(planned, measured)
    if plot is not None:
        _write_plot(planned, plot)
    _print(planned, compared, as_json)


def _boards(target: Target, name: str | None, memory: int | None, bandwidth: float | None) -> tuple[Board, ...] | None:
    if (memory is None) != (bandwidth is None):
        raise click.UsageError("--memory and --bandwidth go together.")
    if memory is not None and bandwidth is not None:
        if name is not None:
            raise click.UsageError("--board and --memory exclude each other.")
        from retentive_export.spec.targets import Board

        return (Board(name="given", memory=memory, bandwidth=bandwidth),)
    return None if name is None else (target.board(name),)


def _compared(planned: Plan, measured: Path) -> _Compared:
    from retentive_export.planner import read_measured

    first = _first(planned)
    return (*read_measured(measured), first.board, first.efficiency)


def _print(planned: Plan, compared: _Compared | None, as_json: bool) -> None:
    from retentive_export import report

    if as_json:
        data = report.planner_data(planned)
        echo_json(data if compared is None else {**data, "measured": report.measured_data(*compared)})
        return
    tables = report.planner_tables(planned)
    if compared is not None:
        tables.append(report.measured_table(*compared))
    print_tables(*(part for table in tables for part in (table, "")))


def _first(planned: Plan) -> BoardPlan:
    """The board that a plot or a comparison is for: the one that was chosen, or the target's first."""
    if not planned.boards:
        raise click.UsageError(f"Target {planned.target.name!r} has no boards: give --memory and --bandwidth.")
    return planned.boards[0]


def _write_plot(planned: Plan, path: Path) -> None:
    from retentive_export.report import curves_svg
    from retentive_export.spec.files import write_text

    if path.suffix != ".svg":
        raise click.UsageError(f"--plot writes SVG, and {path.name!r} does not end in .svg.")
    write_text(path, curves_svg(planned, _first(planned)))
