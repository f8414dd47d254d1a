"""`validate`: does an artifact compute what its model computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retentive_export.cli.shared import (
    artifact_argument,
    backend_options,
    echo_json,
    given,
    json_option,
    print_tables,
    quiet_libraries,
)
from retentive_export.errors import ValidationError

if TYPE_CHECKING:
    from retentive_export.validate import ValidationReport

__all__ = ["validate"]

AGAINST = ["golden", "reference", "onnxruntime", "tensorrt", "tensorrt_rtx"]
FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@artifact_argument
@click.option(
    "--against",
    type=click.Choice(AGAINST),
    default="golden",
    show_default=True,
    help="What to compare with: golden.npz, PyTorch on the CPU, or another backend.",
)
@click.option("--steps", type=click.IntRange(min=0), help="Decode steps.  [default: as many as golden.npz has]")
@click.option(
    "--layers", is_flag=True, help="Layer by layer: every step from equal states; marks the first that drifts."
)
@click.option(
    "--report",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for validation.json, validation.md and validation.html.",
)
@click.option("--markdown", type=FILE, help="Write the report as Markdown.")
@click.option("--html", type=FILE, help="Write the report as one HTML page, diagrams inside.")
@backend_options
@json_option
def validate(
    out: Path,
    against: str,
    steps: int | None,
    layers: bool,
    folder: Path | None,
    markdown: Path | None,
    html: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Verify the files of the artifact OUT, run it, and compare every step with a reference.

    By default the golden run is replayed, which needs no PyTorch. Exit code 10: something is over its limit.
    """
    from retentive_export import report

    result = _compare(out, against, steps, layers, options)
    _write(result, folder, markdown, html)
    if as_json:
        echo_json(report.validation_data(result))
    else:
        if against != "golden":
            print_tables(report.conditions(result), "")
        print_tables(report.validation_table(result))
        if layers:
            print_tables("", report.layers_table(result))
    if not result.passed:
        drift = result.drift()
        where = f"; the first layer that drifts: {drift}" if drift else ""
        raise ValidationError(
            f"{out} differs from its reference: {'; '.join(result.failures())}{where}",
            hint="build it again; if that does not help, this machine's runtime computes differently"
            + ("" if layers else ", and --against reference --layers tells where"),
        )


def _compare(out: Path, against: str, steps: int | None, layers: bool, options: dict[str, Any]) -> ValidationReport:
    from retentive_export.validate import validate_against, validate_golden

    quiet_libraries()
    backend, rest = options.pop("backend"), given(**options)
    if against != "golden":
        return validate_against(out, against, backend, steps=steps, layers=layers, **rest)
    if layers and steps is not None:
        raise click.UsageError(
            "golden.npz holds the state after its last step alone: leave out --steps or --layers, or give "
            "--against reference."
        )
    return validate_golden(out, backend, steps=steps, **rest)


def _write(result: ValidationReport, folder: Path | None, markdown: Path | None, html: Path | None) -> None:
    """Every file whole or not at all, and before the verdict, so that a failure leaves its report."""
    from retentive_export import report
    from retentive_export.spec.files import atomic_file

    texts = report.validation_files(result)
    files = [(folder / name, text) for name, text in texts.items()] if folder is not None else []
    files += [
        (path, texts[f"validation.{kind}"]) for path, kind in ((markdown, "md"), (html, "html")) if path is not None
    ]
    for path, text in files:
        with atomic_file(path) as stream:
            stream.write(text.encode())
