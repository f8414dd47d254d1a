"""A golden run's comparison as plain data and as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.table import Table

from retentive_export.validate.golden import GoldenReport

__all__ = ["golden_data", "golden_table"]


def golden_data(report: GoldenReport) -> dict[str, Any]:
    """The report as plain data; `passed` and `failures` first."""
    return {"passed": report.passed, "failures": list(report.failures()), **asdict(report)}


def golden_table(report: GoldenReport) -> Table:
    """One line per quantity: the value, the limit, and whether it holds."""
    columns = ("compared with the reference", "value", "limit", "")
    table = Table(*columns, title=f"golden run on {report.backend}", title_justify="left", box=None, pad_edge=False)
    for check in report.checks():
        limit = "" if check.limit is None else f"{check.limit:.3g}"
        verdict = "" if check.limit is None else "ok" if check.holds else "FAILED"
        value = f"{check.value:.3g}" if isinstance(check.value, float) else str(check.value)
        table.add_row(check.name, value, limit, verdict, style=None if check.holds else "red")
    return table
