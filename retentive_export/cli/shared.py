"""Options and printing that several commands share."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from retentive_export.spec.recipe import Recipe

__all__ = [
    "JSON",
    "artifact_argument",
    "backend_options",
    "echo_json",
    "given",
    "json_option",
    "print_tables",
    "quiet_libraries",
    "recipe_of",
    "set_option",
    "target_options",
    "targets_file_option",
]

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


def backend_options(command: Decorated) -> Decorated:
    """`--backend`, and the options that go to it; those left out are None, and `given` drops them."""
    backend = "onnxruntime, torch, tensorrt or tensorrt_rtx.  [default: what the artifact was built for]"
    provider = "Where ONNX Runtime computes; cuda needs onnxruntime-gpu.  [default: cpu]"
    device = "Where PyTorch computes: cpu, cuda or cuda:N.  [default: cpu]"
    for option in (
        click.option("--device", help=device),
        click.option("--provider", type=click.Choice(["cpu", "cuda"]), help=provider),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of the backend."),
        click.option("--backend", help=backend),
    ):
        command = option(command)
    return command


def given(**options: Any) -> dict[str, Any]:
    """The options that were given: a backend need not know the others."""
    return {name: value for name, value in options.items() if value is not None}


def quiet_libraries() -> None:
    """Bars and notes of the libraries would tear ours apart; they read this variable when they are imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)


def set_option(command: Decorated) -> Decorated:
    """`--set key=value`, repeated."""
    text = "Override a field of the recipe, such as cache.window=64; the value is YAML."
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)(command)


def targets_file_option(command: Decorated) -> Decorated:
    """`--targets-file FILE`."""
    text = "YAML file with targets besides the package's."
    return click.option("--targets-file", type=click.Path(path_type=Path), help=text)(command)


def target_options(default: str | None) -> Callable[[Decorated], Decorated]:
    """`--target NAME` and `--targets-file FILE`."""

    def decorate(command: Decorated) -> Decorated:
        text = "Where it will run; see `targets`."
        command = targets_file_option(command)
        show = default is not None
        return click.option("--target", "target_name", default=default, show_default=show, help=text)(command)

    return decorate


def recipe_of(text: str, overrides: tuple[str, ...]) -> Recipe:
    """The recipe that an argument names, or one of defaults around the model that it names."""
    from retentive_export.spec.overrides import apply_overrides
    from retentive_export.spec.recipe import parse_recipe
    from retentive_export.spec.recipe_files import load_recipe, recipe_names

    path = Path(text)
    is_file = path.suffix in {".yaml", ".yml"}
    is_model = path.is_dir() or re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", text)
    if is_file or text in recipe_names() or not is_model:
        return load_recipe(text, overrides)
    data = {"name": path.resolve().name if path.is_dir() else path.name, "model": {"source": text}}
    return parse_recipe(apply_overrides(data, overrides), origin=f"recipe of {text}")


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
