"""Progress of a build on stderr: a live line per step on a terminal, plain lines elsewhere when asked for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

__all__ = ["build_progress"]

Report = Callable[[str, str], None]


@contextlib.contextmanager
def build_progress(verbose: bool) -> Iterator[Report]:
    """A callback for `pipeline.build`: (step, event), where the event is "run", "reuse", "done" or a line of detail."""
    console = Console(stderr=True)
    if console.is_terminal:
        columns = (SpinnerColumn(finished_text="[green]done[/]"), TextColumn("{task.description}"), TimeElapsedColumn())
        with Progress(*columns, console=console) as progress:
            yield _live(progress)
    else:
        yield _plain() if verbose else lambda step, event: None


def _live(progress: Progress) -> Report:
    tasks: dict[str, TaskID] = {}

    def report(step: str, event: str) -> None:
        if event in ("run", "reuse"):
            tasks[step] = progress.add_task(f"{step} (reused)" if event == "reuse" else step, total=1)
        elif event == "done":
            progress.update(tasks[step], completed=1)
        else:
            progress.update(tasks[step], description=f"{step}: {event}")

    return report


def _plain() -> Report:
    started = time.monotonic()

    def report(step: str, event: str) -> None:
        click.echo(f"{time.monotonic() - started:7.1f} s  {step}: {event}", err=True)

    return report
