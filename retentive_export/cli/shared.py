"""Options and printing that several commands share."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console, RenderableType

__all__ = ["JSON", "artifact_argument", "echo_json", "json_option", "print_tables", "set_option"]

JSON = "retentive_export.json"
Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
    ctx.meta[JSON] = value
    return value


def json_option(command: Decorated) -> Decorated:
    """`--json`: data on stdout, and errors as JSON on stderr."""
    text = "Print JSON on stdout, and errors as JSON on stderr."
    return click.option("--json", "as_json", is_flag=True, is_eager=True, callback=_remember, help=text)(command)


def artifact_argument(command: Decorated) -> Decorated:
    """OUT: the directory of a finished artifact."""
    return click.argument("out", type=click.Path(path_type=Path))(command)


def set_option(command: Decorated) -> Decorated:
    """`--set key=value`, repeated."""
    text = "Override a field of the recipe, such as cache.window=64; the value is YAML."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)(command)


def echo_json(data: Any) -> None:
    """Data on stdout; numbers that JSON lacks are refused rather than written."""
    click.echo(json.dumps(data, indent=1, allow_nan=False))


def print_tables(*parts: RenderableType) -> None:
    """Tables on stdout, as wide as the terminal; in a pipe, wide enough that nothing is folded."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    for part in parts:
        console.print(part, highlight=False)
