"""`eval`: what does a bounded cache lose, policy by policy, at equal bytes?"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from retentive_export.cli.shared import echo_json, json_option, print_tables, quiet_libraries
from retentive_export.errors import MissingExtraError, RecipeError

if TYPE_CHECKING:
    from retentive_export.eval.harness import Column
    from retentive_export.eval.result import Evaluation

__all__ = ["evaluate"]

NAMES = ("digits", "frames", "text", "pairs", "needle")
FOLDER = click.Path(path_type=Path, file_okay=False)
JSON_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command("eval")
@click.option(
    "--task",
    "tasks",
    multiple=True,
    metavar="TASK[:MOMENT]",
    help=f"One of {', '.join(NAMES)}; moments: blind, deferred (digits), stream.  [default: all, at every moment]",
)
@click.option("--arm", "arms", multiple=True, help="Such as h2o or retentive+int4+mass; repeat.  [default: the suite]")
@click.option("--suite", type=click.Choice(["small", "long"]), default="small", show_default=True, help="Set of arms.")
@click.option("--budget", "budgets", type=click.FloatRange(0, 1, min_open=True), multiple=True, help="Share of bytes.")
@click.option("--dialogues", type=click.IntRange(min=2), default=200, show_default=True, help="Per task.")
@click.option("--batch", type=click.IntRange(min=1), default=50, show_default=True, help="Dialogues at a time.")
@click.option("--watched", type=click.IntRange(min=0), default=2, show_default=True, help="Compared exactly, a batch.")
@click.option("--size", "sizes", multiple=True, metavar="TASK.SIZE=N", help="Size of a task, such as digits.turns=12.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--from", "earlier", type=JSON_FILE, multiple=True, help="Take cells of an earlier evaluation.json along."
)
@click.option("--render", is_flag=True, help="Measure nothing: write the reports of --from.")
@click.option("--commit", help="Recorded in the results.  [default: the checkout's]")
@click.option("-v", "--verbose", is_flag=True, help="Progress on stderr, also when it is no terminal.")
@click.option("-o", "--output", type=FOLDER, help="Folder for evaluation.json, evaluation.md and evaluation.html.")
@json_option
def evaluate(
    tasks: tuple[str, ...],
    arms: tuple[str, ...],
    suite: str,
    budgets: tuple[float, ...],
    dialogues: int,
    batch: int,
    watched: int,
    sizes: tuple[str, ...],
    seed: int,
    device: str,
    earlier: tuple[Path, ...],
    render: bool,
    commit: str | None,
    verbose: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure what a bounded cache loses: every policy, row type and readout on recall and text, at equal bytes.

    \b
    retentive-export eval --task digits:blind --arm h2o --arm retentive+int4 --budget 0.2
    retentive-export eval --suite long --device cuda -o results
    """
    from retentive_export.eval.result import load_evaluation

    quiet_libraries()
    known = [load_evaluation(path) for path in earlier]
    if render:
        if not known:
            raise click.UsageError("--render needs at least one --from.")
        result = _merged(known)
    else:
        from retentive_export.eval.arms import parse_arm
        from retentive_export.eval.arms import suite as suite_of
        from retentive_export.eval.harness import Settings
        from retentive_export.eval.harness import evaluate as measure

        chosen = [parse_arm(text) for text in arms] or suite_of(suite)
        settings = Settings(dialogues=dialogues, batch=batch, watched=watched, seed=seed, device=device, commit=commit)
        if budgets:
            settings = replace(settings, budgets=budgets)
        _require("torch", "transformers", "sklearn")
        say = (lambda line: click.echo(line, err=True)) if verbose or Console(stderr=True).is_terminal else None
        keep = None if output is None else (lambda found: _write(_merged([*known, found]), output))
        result = _merged([*known, measure(_columns(tasks, sizes), chosen, settings, progress=say, checkpoint=keep)])
    if output is not None:
        _write(result, output)
    _show(result, as_json)


def _merged(parts: Sequence[Evaluation]) -> Evaluation:
    return parts[0].merged(parts[1:])


def _require(*modules: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise MissingExtraError.of(module, "eval")


def _columns(tasks: tuple[str, ...], sizes: tuple[str, ...]) -> list[Column]:
    from retentive_export.eval.harness import Column
    from retentive_export.eval.tasks import TASKS, task

    given: dict[str, dict[str, int]] = {}
    for text in sizes:
        place, equals, number = text.partition("=")
        name, dot, size = place.partition(".")
        if not (equals and dot and number.isdecimal()) or name not in TASKS:
            raise RecipeError(f"--size {text!r} is not of the form TASK.SIZE=N, such as digits.turns=12")
        given.setdefault(name, {})[size] = int(number)
    columns = []
    for text in tasks or tuple(TASKS):
        name, _, moment = text.partition(":")
        made = task(name, **given.get(name, {}))
        columns += [Column(made, when) for when in ([moment] if moment else made.moments)]
    return columns


def _write(result: Evaluation, folder: Path) -> None:
    from retentive_export import report
    from retentive_export.eval.result import save_evaluation
    from retentive_export.spec.files import atomic_file

    save_evaluation(result, folder / "evaluation.json")
    for name, text in (
        ("evaluation.md", report.evaluation_markdown(result)),
        ("evaluation.html", report.evaluation_html(result)),
    ):
        with atomic_file(folder / name) as stream:
            stream.write(text.encode())


def _show(result: Evaluation, as_json: bool) -> None:
    from retentive_export import report

    if as_json:
        echo_json(report.evaluation_data(result))
        return
    for table in report.evaluation_tables(result):
        print_tables(table, "")
