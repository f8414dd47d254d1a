"""The command group, and the one place that turns errors into messages and exit codes."""

from __future__ import annotations

import json
from typing import Any

import click

from retentive_export.cli.artifacts import inspect
from retentive_export.cli.bench import bench
from retentive_export.cli.build import build
from retentive_export.cli.calibrate import calibrate
from retentive_export.cli.doctor import doctor
from retentive_export.cli.eval import evaluate
from retentive_export.cli.finish import finish
from retentive_export.cli.plan import plan
from retentive_export.cli.recipes import recipes, targets
from retentive_export.cli.run import run
from retentive_export.cli.shared import JSON
from retentive_export.cli.validate import validate
from retentive_export.errors import RetentiveExportError

__all__ = ["main"]

INTERRUPTED = 130


class _Group(click.Group):
    """Reports the package's own errors with their exit codes; anything else is a bug and keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RetentiveExportError as error:
            if ctx.params.get("debug"):
                raise
            _report(error, as_json=bool(ctx.meta.get(JSON)))
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("interrupted", err=True)
            ctx.exit(INTERRUPTED)


def _report(error: RetentiveExportError, *, as_json: bool) -> None:
    if as_json:
        fields = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
        click.echo(json.dumps({**fields, "exit_code": error.exit_code}), err=True)
        return
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(package_name="retentive-export", prog_name="retentive-export")
def main(debug: bool) -> None:
    """Export vision-language models with a bounded KV cache, and run them.

    \b
    retentive-export build reference-vlm --target cpu -o out
    retentive-export run out --image picture.png --prompt "Which digit is in row 1, column 2?"

    Exit codes: 2 usage, 3 recipe, 4 model, 5 export, 6 artifact, 7 input, 8 missing package, 9 storage, 10 validation,
    11 NaN or infinity, 12 no suitable GPU or machine, 130 interrupted.
    """


for _command in (build, finish, calibrate, plan, run, inspect, validate, evaluate, bench, recipes, targets, doctor):
    main.add_command(_command)
