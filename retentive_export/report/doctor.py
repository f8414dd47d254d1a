"""A diagnosis as plain data and as a table."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from retentive_export.doctor import Diagnosis

__all__ = ["diagnosis_data", "diagnosis_table"]

_STYLES = {"ok": None, "warn": "yellow", "fail": "red"}


def diagnosis_data(diagnosis: Diagnosis) -> dict[str, Any]:
    """The findings as plain data; `served` first."""
    findings = [asdict(finding) for finding in diagnosis.findings]
    return {"served": not diagnosis.failures, "target": diagnosis.target, "findings": findings}


def diagnosis_table(diagnosis: Diagnosis) -> Table:
    """A line per finding: what was looked at, what was seen, what to do."""
    title = f"this machine for {diagnosis.target}" if diagnosis.target else "this machine"
    table = Table("", "looked at", "seen", "what to do", title=title, title_justify="left", box=None, pad_edge=False)
    for finding in diagnosis.findings:
        style = _STYLES[finding.status]
        words = (escape(text) for text in (finding.status, finding.name, finding.seen, finding.remedy))
        table.add_row(*words, style=style)
    return table
