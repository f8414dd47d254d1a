"""Results as JSON and as tables. Knows results, not how they came about."""

from __future__ import annotations

from retentive_export.report.artifact import (
    build_data,
    build_table,
    cache_words,
    contract_table,
    files_table,
    manifest_data,
    manifest_table,
    plan_data,
    plan_table,
)
from retentive_export.report.golden import golden_data, golden_table
from retentive_export.report.sizes import human_bytes

__all__ = [
    "build_data",
    "build_table",
    "cache_words",
    "contract_table",
    "files_table",
    "golden_data",
    "golden_table",
    "human_bytes",
    "manifest_data",
    "manifest_table",
    "plan_data",
    "plan_table",
]
