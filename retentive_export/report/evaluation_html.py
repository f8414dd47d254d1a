"""An evaluation as one HTML page that needs nothing else: styles and diagrams inside, no script, fit for a phone."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from retentive_export.eval.result import Cell, Evaluation
from retentive_export.report.charts import Curve, budget_chart
from retentive_export.report.evaluation import (
    cell_text,
    column_words,
    environment_words,
    evaluation_markdown,
    group_rows,
    verdicts,
)
from retentive_export.report.page import html_page, html_table

__all__ = ["evaluation_html", "evaluation_pages"]

_STYLE = """:root { color-scheme: light dark; }
body { font: 16px/1.45 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 0.8rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 1.8rem; }
p, li { overflow-wrap: anywhere; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
svg { width: 100%; height: auto; font-family: system-ui, sans-serif; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.85rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.7rem 0.2rem 0; text-align: left; white-space: nowrap; }
th:first-child, td:first-child { position: sticky; left: 0; background: Canvas; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 6rem; max-width: 10rem; }
tr { border-bottom: 1px solid #8884; } tr.ours { font-weight: 600; } tr.ceiling { opacity: 0.75; }
tr.worse td { color: #c0392b; } tr.better td { color: #1e7d4f; }
small { opacity: 0.75; }
"""
_COLORS = {"ours": ("#1f6fb4", "#17a2a2", "#6c5ce7"), "baseline": ("#c0392b", "#d98324", "#b8860b")}


def evaluation_html(evaluation: Evaluation) -> str:
    """The whole evaluation as a page."""
    title = "What a bounded KV cache loses, at equal bytes"
    parts = [
        "<p>Every arm spends the same bytes: rows, codes, scales, statistics, metadata and memory all count. "
        "An arm is a selection, a type of rows and a readout; <code>oracle</code> knows the future attention and is a "
        "ceiling for selection on plain rows, not a method. Intervals are in brackets, lost comparisons in red.</p>",
        _verdicts(evaluation),
    ]
    for task, when, budgets in evaluation.groups():
        parts += _section(evaluation, task, when, [budget for budget in budgets if budget != 1.0])
    parts += [f"<p><small>{escape(line)}</small></p>" for line in environment_words(evaluation)]
    return html_page(title, _STYLE, parts)


def evaluation_pages(evaluation: Evaluation) -> dict[str, str]:
    """File name -> content: evaluation.md and .html, what is read beside evaluation.json."""
    return {"evaluation.md": evaluation_markdown(evaluation), "evaluation.html": evaluation_html(evaluation)}


def _verdicts(evaluation: Evaluation) -> str:
    head = ("task", "moment", "bytes", "best of ours", "value", "share of full", "best baseline", "value", "difference")
    rows = []
    for one in verdicts(evaluation):
        of_full, gap = one.get("of_full"), one.get("difference")
        cells = [one["task"], one["when"], f"{one['budget']:.1%}", one["ours"], f"{one['value']:.3f}"]
        cells.append("" if of_full is None else f"{of_full[0]:.1%} [{of_full[1]:.1%}, {of_full[2]:.1%}]")
        if gap:
            cells += [one["baseline"], f"{one['baseline_value']:.3f}"]
            cells.append(f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]")
        else:
            cells += ["", "", ""]
        rows.append((cells, str(one.get("verdict", "")).split()[-1:]))
    lines = [(cells, "".join(mark) if "".join(mark) in ("better", "worse") else "") for cells, mark in rows]
    return "<h2>Ours against the best baseline</h2>" + html_table(head, lines)


def _section(evaluation: Evaluation, task: str, when: str, shares: Sequence[float]) -> list[str]:
    rows = group_rows(evaluation, task, when, shares)
    lines = [([row.arm, *(cell_text(cell) for cell in row.cells)], row.group) for row in rows]
    parts = [
        f"<h2>{escape(task)}, {escape(when)}</h2>",
        f"<p>{escape(column_words(evaluation, task, when))}</p>",
        f'<div class="charts">{"".join(_charts(evaluation, task, when, shares))}</div>',
        html_table(("arm", *(f"{share:.1%}" for share in shares)), lines),
    ]
    local = [([row.arm, *(_local(cell) for cell in row.cells)], row.group) for row in rows]
    parts.append("<details><summary>Agreement with the full cache, attention error, log-mass error</summary>")
    parts.append(
        "<p>Greedy tokens equal to the full cache's; relative error of the attention output (mean, median and 90th "
        "percentile over dialogues, mean over layers); absolute error of the log of the attention's mass.</p>"
    )
    return [*parts, html_table(("arm", *(f"{share:.1%}" for share in shares)), local), "</details>"]


def _local(cell: Cell | None) -> str:
    if cell is None or cell.refused is not None:
        return cell_text(cell)
    text = f"{cell.interval('agreement').value:.3f}"
    if cell.layer_error:
        count = len(cell.layer_error)
        mean, median, p90 = (
            sum(getattr(one, name) for one in cell.layer_error) / count for name in ("mean", "median", "p90")
        )
        text += f"; {mean:.3f} ({median:.3f}, {p90:.3f})"
    return text if cell.log_mass is None else f"{text}; {cell.log_mass.mean:.3f}"


def _charts(evaluation: Evaluation, task: str, when: str, shares: Sequence[float]) -> list[str]:
    """The headline of the arms that are best somewhere in their group, and of the ceiling."""
    curves = []
    for group, colors in _COLORS.items():
        best = [evaluation.best((task, when, share), group) for share in shares]
        names = list(dict.fromkeys(cell.arm for cell in best if cell is not None))
        curves += [(name, color) for name, color in zip(names, colors, strict=False)]
    ceiling = evaluation.best((task, when, shares[0]), "ceiling") if shares else None
    if ceiling is not None:
        curves.append((ceiling.arm, "#888888"))
    drawn = []
    for name, color in curves:
        cells = [evaluation.column(task, when, share).get(name) for share in shares]
        points = [
            (cell.budget, one.value, one.low, one.high)
            for cell in cells
            if cell is not None and cell.refused is None
            for one in (cell.interval(cell.headline),)
        ]
        if points:
            drawn.append(Curve(name, color, points))
    if not drawn:
        return []
    headline = next(c.headline for c in evaluation.cells if (c.task, c.when) == (task, when))
    return [budget_chart(f"{task}, {when}: {headline}", drawn, logarithmic=headline == "kl")]
