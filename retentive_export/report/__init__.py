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
from retentive_export.report.bench import bench_data, bench_markdown, bench_svg, bench_tables, bench_words
from retentive_export.report.doctor import diagnosis_data, diagnosis_table
from retentive_export.report.planner import measured_data, measured_table, planner_data, planner_tables
from retentive_export.report.plot import curves_svg
from retentive_export.report.sizes import human_bytes
from retentive_export.report.targets import targets_table
from retentive_export.report.validation import (
    conditions,
    layers_table,
    validation_data,
    validation_markdown,
    validation_table,
    verdict,
)
from retentive_export.report.validation_html import validation_html

__all__ = [
    "bench_data",
    "bench_markdown",
    "bench_svg",
    "bench_tables",
    "bench_words",
    "build_data",
    "build_table",
    "cache_words",
    "conditions",
    "contract_table",
    "curves_svg",
    "diagnosis_data",
    "diagnosis_table",
    "files_table",
    "human_bytes",
    "layers_table",
    "manifest_data",
    "manifest_table",
    "measured_data",
    "measured_table",
    "plan_data",
    "plan_table",
    "planner_data",
    "planner_tables",
    "targets_table",
    "validation_data",
    "validation_html",
    "validation_markdown",
    "validation_table",
    "verdict",
]
