"""The command line in this process."""

from __future__ import annotations

from click.testing import CliRunner, Result

from retentive_export.cli import main

__all__ = ["call"]


def call(*args: object, stdin: str | None = None) -> Result:
    """What a command ends with; anything but an exit is raised."""
    result = CliRunner().invoke(main, [str(arg) for arg in args], input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result
