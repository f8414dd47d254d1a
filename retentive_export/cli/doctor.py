"""`doctor`: what this machine has, what it lacks for a target, and the command that fixes it."""

from __future__ import annotations

from pathlib import Path

import click

from retentive_export.cli.shared import echo_json, json_option, print_tables, target_options
from retentive_export.errors import DeviceError

__all__ = ["doctor"]


@click.command()
@target_options(default=None)
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path),
    help="libretentive_plugins.so to look at.  [default: the package's own build]",
)
@json_option
def doctor(target_name: str | None, targets_file: Path | None, plugin_library: Path | None, as_json: bool) -> None:
    """Look at driver, CUDA, TensorRT, plugins, compilers, memory and disk of this machine.

    With --target, fails (exit code 12) when that target cannot be built for and run here.
    """
    from retentive_export import report
    from retentive_export.doctor import System, examine
    from retentive_export.spec.targets import target

    chosen = target(target_name, file=targets_file) if target_name else None
    diagnosis = examine(chosen, System(plugins=plugin_library))
    if as_json:
        echo_json(report.diagnosis_data(diagnosis))
    else:
        print_tables(report.diagnosis_table(diagnosis))
    if failures := diagnosis.failures:
        names = ", ".join(finding.name for finding in failures)
        what = f"serve target {target_name!r}" if target_name else "run anything"
        raise DeviceError(f"this machine cannot {what}: {names}", hint=failures[0].remedy)
