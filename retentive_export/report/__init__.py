"""Results as JSON and as tables. Knows results, not how they came about."""

from __future__ import annotations

from retentive_export.report.artifact import (
    build_data,
    build_table,
    bundle_words,
    cache_words,
    contract_table,
    files_table,
    manifest_data,
    manifest_table,
    plan_data,
    plan_table,
)
from retentive_export.report.bench import bench_data, bench_markdown, bench_svg, bench_tables, bench_words
from retentive_export.report.calibration import calibration_data, calibration_tables
from retentive_export.report.doctor import diagnosis_data, diagnosis_table
from retentive_export.report.evaluation import (
    evaluation_data,
    evaluation_markdown,
    evaluation_sections,
    evaluation_tables,
)
from retentive_export.report.evaluation_html import evaluation_html, evaluation_pages
from retentive_export.report.finish import finish_data, finish_table
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
from retentive_export.report.validation_files import validation_files
from retentive_export.report.validation_html import validation_html

__all__ = [
    "bench_data",
    "bench_markdown",
    "bench_svg",
    "bench_tables",
    "bench_words",
    "build_data",
    "build_table",
    "bundle_words",
    "cache_words",
    "calibration_data",
    "calibration_tables",
    "conditions",
    "contract_table",
    "curves_svg",
    "diagnosis_data",
    "diagnosis_table",
    "evaluation_data",
    "evaluation_html",
    "evaluation_markdown",
    "evaluation_pages",
    "evaluation_sections",
    "evaluation_tables",
    "files_table",
    "finish_data",
    "finish_table",
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
    "validation_files",
    "validation_html",
    "validation_markdown",
    "validation_table",
    "verdict",
]
