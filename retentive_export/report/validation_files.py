"""A validation as the three files of a report."""

from __future__ import annotations

import json

from retentive_export.report.validation import validation_data, validation_markdown
from retentive_export.report.validation_html import validation_html
from retentive_export.validate import ValidationReport

__all__ = ["validation_files"]


def validation_files(report: ValidationReport) -> dict[str, str]:
    """File name -> content: validation.json, .md and .html."""
    return {
        "validation.json": json.dumps(validation_data(report), indent=1, allow_nan=False) + "\n",
        "validation.md": validation_markdown(report),
        "validation.html": validation_html(report),
    }
