"""`bench`: how fast artifacts decode, and peers beside them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retentive_export.cli.shared import echo_json, given, json_option, print_tables, quiet_libraries
from retentive_export.errors import InputError

if TYPE_CHECKING:
    from retentive_export.bench import BenchReport

__all__ = ["bench"]

FOLDER = click.Path(path_type=Path, file_okay=False)


def _tokens(_: click.Context, __: click.Parameter, value: str) -> tuple[int, ...]:
    """512,1k,32k -> numbers."""
    try:
        return tuple(int(w[:-1]) * 1024 if w.lower().endswith("k") else int(w) for w in value.split(","))
    except ValueError:
        raise click.BadParameter(f"{value!r} is no list of numbers such as 512,1k,8k") from None


@click.command()
@click.argument("out", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--contexts",
    callback=_tokens,
    default="512,1k,2k,4k,8k",
    show_default=True,
    help="Tokens held; a full cache is measured as far as it reaches.",
)
@click.option(
    "--threads",
    callback=_tokens,
    default="2",
    show_default=True,
    help="The first number at every context, the others at the headline alone.",
)
@click.option(
    "--headline", type=click.IntRange(min=1), help="Context of the comparison.  [default: the last common one]"
)
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Times all arms take turns.")
@click.option("--tokens", type=click.IntRange(min=1), default=4, show_default=True, help="Measured tokens per round.")
@click.option("--warm-up", type=click.IntRange(min=0), default=1, show_default=True, help="Tokens before them.")
@click.option(
    "--peer",
    "peers",
    multiple=True,
    metavar="NAME[=PYTHON]",
    help="transformers, genai, llama_cpp, or all; PYTHON: the interpreter that has it.",
)
@click.option(
    "--peer-models", "folder", type=FOLDER, default=Path("bench-peers"), show_default=True, help="Their weights, kept."
)
@click.option(
    "--text", type=click.Path(path_type=Path, dir_okay=False), help="Text to read.  [default: Python's topics]"
)
@click.option("--backend", help="onnxruntime, torch, tensorrt or tensorrt_rtx.  [default: what it was built for]")
@click.option("--provider", type=click.Choice(["cpu", "cuda"]), help="Where ONNX Runtime computes.  [default: cpu]")
@click.option("--device", help="Where PyTorch computes: cpu, cuda or cuda:N.  [default: cpu]")
@click.option(
    "--report", "out_folder", type=FOLDER, help="Folder for bench.json, bench.md and one bench-N.svg per model."
)
@json_option
def bench(
    out: tuple[Path, ...], peers: tuple[str, ...], out_folder: Path | None, as_json: bool, **options: Any
) -> None:
    """Decode speed, time to the first token and peak memory of the artifacts OUT against context length.

    Artifacts of one model and weight format are measured together, in turn, with the peers that can run that model.
    """
    from retentive_export import report as words
    from retentive_export.bench import BenchSettings, run_bench

    quiet_libraries()
    backend = given(provider=options.pop("provider"), device=options.pop("device"))
    settings = BenchSettings(**options, backend_options=backend, peers=_peers(peers))
    result = run_bench(out, settings, lambda text: click.echo(text, err=True))
    if out_folder is not None:
        _write(result, out_folder)
    if as_json:
        echo_json(words.bench_data(result))
        return
    print_tables(*words.bench_tables(result))
    click.echo(words.bench_words(result))


def _peers(given_peers: tuple[str, ...]) -> dict[str, str]:
    """Name -> interpreter, in the order of the list of peers."""
    from retentive_export.bench import PEERS

    chosen: dict[str, str] = {}
    for text in given_peers:
        name, _, python = text.partition("=")
        if name not in (*PEERS, "all"):
            raise InputError(f"peer is {name!r}, and must be one of: all, {', '.join(PEERS)}")
        for one in PEERS if name == "all" else (name,):
            if python or one not in chosen:
                chosen[one] = python or sys.executable
    return chosen


def _write(result: BenchReport, folder: Path) -> None:
    from retentive_export import report
    from retentive_export.spec.files import write_text

    files = {"bench.json": json.dumps(report.bench_data(result), indent=1, allow_nan=False) + "\n"}
    files["bench.md"] = report.bench_markdown(result)
    for index, group in enumerate(result.groups):
        if (drawn := report.bench_svg(result, group)) is not None:
            files[f"bench-{index}.svg"] = drawn
    for name, text in files.items():
        write_text(folder / name, text)
