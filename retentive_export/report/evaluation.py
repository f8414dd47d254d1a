"""An evaluation as tables: arm x budget for every task and moment of compression, best baseline and losses marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from retentive_export.eval.result import Cell, Evaluation
from retentive_export.report.markdown import markdown_table

__all__ = [
    "EvaluationRow",
    "cell_text",
    "column_words",
    "environment_words",
    "evaluation_data",
    "evaluation_markdown",
    "evaluation_sections",
    "evaluation_tables",
    "group_rows",
    "verdicts",
]

_MOMENTS = {
    "blind": "compressed once, right after the picture or context, before any question",
    "deferred": "compressed once, after the first questions",
    "stream": "bounded from the first token on",
}
_ORDER = ("full", "ceiling", "ours", "paper", "baseline")


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """One arm's line: a cell per budget, None where it was not measured."""

    arm: str
    group: str
    cells: tuple[Cell | None, ...]


def _moment_words(when: str) -> str:
    """What a moment of compression means."""
    return _MOMENTS.get(when, when)


def group_rows(evaluation: Evaluation, task: str, when: str, budgets: Sequence[float]) -> list[EvaluationRow]:
    """The lines of one table, group by group, in the order of measurement within a group."""
    columns = [evaluation.column(task, when, budget) for budget in budgets]
    arms = dict.fromkeys(arm for column in columns for arm in column if column[arm].group != "full")
    rows = []
    for arm in arms:
        cells = tuple(column.get(arm) for column in columns)
        group = next(cell.group for cell in cells if cell is not None)
        rows.append(EvaluationRow(arm=arm, group=group, cells=cells))
    return sorted(rows, key=lambda row: _ORDER.index(row.group))


def cell_text(cell: Cell | None, metric: str | None = None) -> str:
    """Mean and 95 % interval of the headline, or of another metric."""
    if cell is None:
        return ""
    if cell.refused is not None:
        return "does not fit"
    one = cell.interval(metric or cell.headline)
    digits = 3 if one.value < 10 else 1
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def evaluation_data(evaluation: Evaluation) -> dict[str, Any]:
    """Environment, settings, verdicts and every cell's intervals; the values per dialogue are in the JSON file."""
    cells = []
    for cell in evaluation.cells:
        plain = {name: value for name, value in asdict(cell).items() if name != "values"}
        cells.append(plain | {name: asdict(cell.interval(name)) for name in cell.values})
    runs = [asdict(run) for run in evaluation.runs]
    return {"runs": runs, "verdicts": verdicts(evaluation), "cells": cells}


def verdicts(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Per column: the best of ours, the best baseline, their paired difference, and the share of the full cache."""
    found = []
    for task, when, budgets in evaluation.groups():
        full = next(iter(evaluation.column(task, when, 1.0).values()), None)
        for budget in budgets:
            ours = evaluation.best((task, when, budget), "ours")
            other = evaluation.best((task, when, budget), "baseline")
            if ours is None or budget == 1.0:
                continue
            entry: dict[str, Any] = {"task": task, "when": when, "budget": budget, "metric": ours.headline}
            entry |= {"ours": ours.arm, "value": ours.interval(ours.headline).value}
            if full is not None and ours.headline == "accuracy":
                ratio = ours.against(full, "accuracy").ratio
                entry["of_full"] = None if ratio is None else (ratio.value, ratio.low, ratio.high)
            if other is not None:
                gap = ours.against(other, ours.headline).difference
                sign = 1 if ours.headline == "accuracy" else -1
                entry |= {"baseline": other.arm, "baseline_value": other.interval(other.headline).value}
                entry |= {"difference": (gap.value, gap.low, gap.high)}
                won, lost = min(sign * gap.low, sign * gap.high) > 0, max(sign * gap.low, sign * gap.high) < 0
                entry["verdict"] = "better" if won else "worse" if lost else "not told apart"
            found.append(entry)
    return found


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """One table per task and moment, for the terminal."""
    tables = []
    for task, when, budgets in evaluation.groups():
        shares = [budget for budget in budgets if budget != 1.0]
        title = f"{task}, {when}: {_headline(evaluation, task, when)}"
        table = Table("arm", *(f"{b:.1%}" for b in shares), title=title, title_justify="left", box=None, pad_edge=False)
        for row in group_rows(evaluation, task, when, shares):
            table.add_row(escape(row.arm), *(escape(cell_text(cell)) for cell in row.cells))
        tables.append(table)
    return tables


def evaluation_markdown(evaluation: Evaluation) -> str:
    """All tables as Markdown, with the environment."""
    parts = ["# Evaluation", "\n".join(f"- {line}" for line in environment_words(evaluation))]
    return "\n\n".join([*parts, evaluation_sections(evaluation, "##")]) + "\n"


def evaluation_sections(evaluation: Evaluation, heading: str) -> str:
    """The tables as Markdown under headings of a level: first the verdicts, then each task and moment."""
    parts = []
    if found := verdicts(evaluation):
        parts += [f"{heading} Ours against the best baseline at equal bytes", _verdict_table(found)]
    for task, when, budgets in evaluation.groups():
        shares = [budget for budget in budgets if budget != 1.0]
        parts += [f"{heading} {task}, {when}", column_words(evaluation, task, when)]
        lines = [["arm", "kind", *(f"{share:.1%}" for share in shares)]]
        for row in group_rows(evaluation, task, when, shares):
            lines.append([f"`{row.arm}`", row.group, *(_marked(evaluation, cell) for cell in row.cells)])
        parts.append(markdown_table(lines[0], lines[1:]))
    return "\n\n".join(parts)


def _verdict_table(found: Sequence[dict[str, Any]]) -> str:
    lines = [["task", "moment", "bytes", "best of ours", "", "of full", "best baseline", "", "difference", ""]]
    for one in found:
        of_full = one.get("of_full")
        gap = one.get("difference")
        lines.append(
            [
                *(one["task"], one["when"], f"{one['budget']:.1%}", f"`{one['ours']}`", f"{one['value']:.3f}"),
                "" if of_full is None else f"{of_full[0]:.1%} [{of_full[1]:.1%}, {of_full[2]:.1%}]",
                f"`{one['baseline']}`" if gap else "",
                f"{one['baseline_value']:.3f}" if gap else "",
                f"{gap[0]:+.3f} [{gap[1]:+.3f}, {gap[2]:+.3f}]" if gap else "",
                one.get("verdict", ""),
            ]
        )
    return markdown_table(lines[0], lines[1:])


def _marked(evaluation: Evaluation, cell: Cell | None) -> str:
    """The cell, bold where it is the best of the column but for the ceiling."""
    text = cell_text(cell)
    if cell is None or cell.refused is not None or cell.group == "ceiling":
        return text
    rivals = [evaluation.best(cell.column, group) for group in ("ours", "paper", "baseline")]
    values = [one.interval(one.headline).value for one in rivals if one is not None]
    best = max(values) if cell.headline == "accuracy" else min(values)
    return f"**{text}**" if cell.interval(cell.headline).value == best else text


def _headline(evaluation: Evaluation, task: str, when: str) -> str:
    cell = next(c for c in evaluation.cells if (c.task, c.when) == (task, when))
    return {"accuracy": "accuracy", "kl": "KL to the full cache, nats per token"}[cell.headline]


def column_words(evaluation: Evaluation, task: str, when: str) -> str:
    """What a table shows, as a sentence."""
    cells = [c for c in evaluation.cells if (c.task, c.when) == (task, when) and c.refused is None]
    if not cells:
        return f"Cache {_moment_words(when)}: nothing fits."
    full = next((c for c in cells if c.group == "full"), None)
    about = f"{_headline(evaluation, task, when)}; cache {_moment_words(when)}; {cells[0].dialogues} dialogues, "
    about += f"{cells[0].units} answers; the full cache holds {cells[0].tokens} tokens"
    if full is not None:
        about += f" and reaches accuracy {full.interval('accuracy').value:.3f}"
    return about[0].upper() + about[1:] + "."


def environment_words(evaluation: Evaluation) -> list[str]:
    """Command, commit, machine and versions of every run, a line each; then what all share."""
    lines = []
    for run in evaluation.runs:
        where = run.environment
        versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
        place = f"{where['device']} ({where['cores']} cores)"
        lines.append(f"`{where['command']}` at commit {where['commit']}, on {place}, {versions}.")
    chosen = evaluation.runs[0].settings
    lines.append(
        f"Budgets are shares of the bytes of a full cache in {chosen['cache_dtype']}, whole states counted; "
        f"intervals are 95 % bootstraps over dialogues, paired for differences and ratios; seed {chosen['seed']}."
    )
    return lines
