"""What finishing a bundle did: plain data for `--json`, tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from retentive_export.report.artifact import Made, made_data, made_table

__all__ = ["finish_data", "finish_table"]


class Finished(Made, Protocol):
    """What finishing left behind, as `bundle.FinishResult` says it."""

    @property
    def verdict(self) -> str: ...
    @property
    def report(self) -> Path: ...


def finish_data(result: Finished) -> dict[str, Any]:
    """What finishing did, as plain data."""
    engine = result.manifest.engine
    return made_data(
        result,
        validation=result.verdict,
        report=str(result.report),
        engine=engine.model_dump(mode="json") if engine else None,
    )


def finish_table(result: Finished) -> Table:
    """What finishing did."""
    table = made_table(result)
    table.add_row("validation", result.verdict)
    table.add_row("report", str(result.report / "validation.html"))
    return table
