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
from retentive_export.report.doctor import diagnosis_data, diagnosis_table
from retentive_export.report.golden import golden_data, golden_table
from retentive_export.report.planner import measured_data, measured_table, planner_data, planner_tables
from retentive_export.report.plot import curves_svg
from retentive_export.report.sizes import human_bytes
from retentive_export.report.targets import targets_table

__all__ = [
    "build_data",
    "build_table",
    "cache_words",
    "contract_table",
    "curves_svg",
    "diagnosis_data",
    "diagnosis_table",
    "files_table",
    "golden_data",
    "golden_table",
    "human_bytes",
    "manifest_data",
    "manifest_table",
    "measured_data",
    "measured_table",
    "plan_data",
    "plan_table",
    "planner_data",
    "planner_tables",
    "targets_table",
]
