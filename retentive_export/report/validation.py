"""A validation as plain data, as tables for the terminal and as Markdown."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from retentive_export.report.markdown import markdown_table
from retentive_export.validate import Check, LayerReport, ValidationReport

__all__ = [
    "check_cells",
    "conditions",
    "layer_cells",
    "layers_table",
    "step_cells",
    "validation_data",
    "validation_markdown",
    "validation_table",
    "verdict",
]

CHECK_COLUMNS = ("compared with the reference", "value", "limit", "")
LAYER_COLUMNS = ("layer", "rows that differ", "largest state error", "in", "of its limit", "drifts from step", "")
STEP_COLUMNS = ("step", "tokens", "logit error", "max abs", "cosine", "norm ratio", "KL (nats)", "greedy")


def validation_data(report: ValidationReport) -> dict[str, Any]:
    """The report as plain data; the verdict first."""
    first = report.first_layer
    return {
        "passed": report.passed,
        "failures": list(report.failures()),
        "first_layer": None if first is None else first.layer,
        **asdict(report),
        "differing_rows": report.differing_rows,
        "victim_share": report.victim_share,
        "state_error": report.state_error,
    }


def verdict(report: ValidationReport) -> str:
    """One line: passed or failed, and where the difference enters."""
    if not report.passed:
        drift = report.drift()
        where = f"; the first layer that drifts: {drift}" if drift else ""
        return f"FAILED: {'; '.join(report.failures())}{where}"
    return "passed: every limit is kept"


def conditions(report: ValidationReport) -> str:
    """What was compared, as a sentence."""
    decode = len(report.steps) - report.prefill
    start = "every step from the reference's state" if report.lockstep else "each side on its own state"
    sides = "PyTorch on the CPU" if report.against == "reference" else report.against
    if report.against == "golden":
        sides = "golden.npz, the reference's run when the artifact was made"
    return f"{report.backend} against {sides}: {report.prefill} prefill and {decode} decode steps, {start}"


def check_cells(check: Check) -> tuple[str, str, str, str]:
    """Name, value, limit and verdict."""
    limit = "" if check.limit is None else f"{check.limit:.3g}"
    kept = "" if check.limit is None else "ok" if check.holds else "FAILED"
    value = f"{check.value:.3g}" if isinstance(check.value, float) else str(check.value)
    return check.name, value, limit, kept


def layer_cells(report: ValidationReport, layer: LayerReport) -> tuple[str, ...]:
    """A layer's line, as `LAYER_COLUMNS`."""
    kind, error = max(layer.state_error.items(), key=lambda item: item[1] / (report.limits.of(item[0]) or 1.0))
    marked = "<- first" if layer is report.first_layer else ""
    start = "" if layer.first_step is None else f"{layer.first_step} ({layer.cause})"
    share = f"{max(layer.excess):.2g}"
    return str(layer.layer), str(layer.differing_rows), f"{error:.2e}", kind, share, start, marked


def step_cells(report: ValidationReport, index: int) -> tuple[str, ...]:
    """A step's line, as `STEP_COLUMNS`."""
    step = report.steps[index]
    numbers = (f"{step.logit_error:.2e}", f"{step.max_abs:.2e}", f"{step.cosine:.8f}", f"{step.norm_ratio:.6f}")
    return str(index), str(step.tokens), *numbers, f"{step.kl:.2e}", "same" if step.agrees else "DIFFERS"


def validation_table(report: ValidationReport) -> Table:
    """One line per quantity: the value, the limit, and whether it holds."""
    golden = report.against == "golden"
    title = f"golden run on {report.backend}" if golden else f"{report.backend} against {report.against}"
    table = Table(*CHECK_COLUMNS, title=title, title_justify="left", box=None, pad_edge=False)
    for check in report.checks():
        table.add_row(*(escape(cell) for cell in check_cells(check)), style=None if check.holds else "red")
    return table


def layers_table(report: ValidationReport) -> Table:
    """One line per layer; the first that drifts is marked."""
    table = Table(*LAYER_COLUMNS, title="layer by layer", title_justify="left", box=None, pad_edge=False)
    for layer in report.layers:
        table.add_row(*layer_cells(report, layer), style="red" if layer.drifts else None)
    return table


def validation_markdown(report: ValidationReport) -> str:
    """The whole report as Markdown."""
    parts = [f"# Validation of {report.artifact}", f"**{verdict(report)}**", conditions(report) + "."]
    parts += ["## Quantities", markdown_table(CHECK_COLUMNS, [check_cells(check) for check in report.checks()])]
    if report.layers:
        compared = f"States compared after {len(report.compared_steps)} of {len(report.steps)} steps."
        rows = [layer_cells(report, layer) for layer in report.layers]
        parts += ["## Layer by layer", compared, markdown_table(LAYER_COLUMNS, rows)]
    rows = [step_cells(report, index) for index in range(len(report.steps))]
    parts += ["## Step by step", markdown_table(STEP_COLUMNS, rows)]
    return "\n\n".join(parts) + "\n"
