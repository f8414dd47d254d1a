"""A validation as one HTML page that needs nothing else: styles and diagrams inside, no script, readable on a phone."""

from __future__ import annotations

from html import escape

from retentive_export.report.charts import Series, bar_chart, heat_map, line_chart
from retentive_export.report.page import html_page, html_table
from retentive_export.report.validation import (
    CHECK_COLUMNS,
    LAYER_COLUMNS,
    STEP_COLUMNS,
    check_cells,
    conditions,
    layer_cells,
    step_cells,
    verdict,
)
from retentive_export.validate import ValidationReport

__all__ = ["validation_html"]

_STYLE = """:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 0.8rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 1.6rem; }
.verdict { padding: 0.6rem 0.8rem; border-left: 0.4rem solid #2e8b57; background: #2e8b5722; overflow-wrap: anywhere; }
.verdict.failed { border-color: #c0392b; background: #c0392b22; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; white-space: nowrap; }
tr { border-bottom: 1px solid #8884; } tr.bad { color: #c0392b; font-weight: 600; }
"""


def validation_html(report: ValidationReport) -> str:
    """The whole report as a page."""
    title = escape(f"Validation of {report.artifact}")
    state = "" if report.passed else " failed"
    checks = [(check_cells(check), _mark(not check.holds)) for check in report.checks()]
    steps = [(step_cells(report, index), _mark(not step.agrees)) for index, step in enumerate(report.steps)]
    parts = [
        f'<p class="verdict{state}">{escape(verdict(report))}</p>',
        f"<p>{escape(conditions(report))}.</p>",
        f'<div class="charts">{"".join(_charts(report))}</div>',
        "<h2>Quantities</h2>",
        html_table(CHECK_COLUMNS, checks),
    ]
    if report.layers:
        layers = [(layer_cells(report, layer), _mark(layer.drifts)) for layer in report.layers]
        compared = f"States compared after {len(report.compared_steps)} of {len(report.steps)} steps."
        parts += ["<h2>Layer by layer</h2>", f"<p>{compared}</p>", html_table(LAYER_COLUMNS, layers)]
    parts += ["<h2>Step by step</h2>", html_table(STEP_COLUMNS, steps)]
    return html_page(title, _STYLE, parts)


def _mark(bad: bool) -> str:
    return "bad" if bad else ""


def _charts(report: ValidationReport) -> list[str]:
    errors = Series("logit error", "#1f6fb4", [step.logit_error for step in report.steps])
    angles = Series("1 - cosine", "#2e8b57", [max(0.0, 1 - step.cosine) for step in report.steps])
    norms = Series("|norm ratio - 1|", "#b8860b", [abs(step.norm_ratio - 1) for step in report.steps])
    kl = Series("KL (nats)", "#7d3c98", [step.kl for step in report.steps])
    charts = [
        line_chart("Logit error per step", [errors], limit=report.logit_limit),
        line_chart("Distributions per step", [angles, kl, norms]),
    ]
    if report.layers:
        names = [f"{layer.layer}" for layer in report.layers]
        marked = next((i for i, layer in enumerate(report.layers) if layer.drifts), None)
        worst = [max(layer.excess) for layer in report.layers]
        charts.append(bar_chart("State of each layer, share of its limit", names, worst, marked=marked))
        if len(report.compared_steps) > 1:
            cells = [layer.excess for layer in report.layers]
            charts.append(heat_map("Layer by step, share of the limit", names, report.compared_steps, cells))
    return charts
