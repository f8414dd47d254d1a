"""A benchmark as plain data, as tables for the terminal, as Markdown and as curves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from retentive_export.bench import ArmResult, BenchReport, Comparison, Group, Spread, flatness
from retentive_export.report.markdown import markdown_table
from retentive_export.report.panels import Curve, Panel, drawing
from retentive_export.report.sizes import human_bytes

__all__ = ["bench_data", "bench_markdown", "bench_svg", "bench_tables", "bench_words"]

POINT_COLUMNS = (
    "arm",
    "context",
    "threads",
    "ms/token",
    "P10 - P90",
    "tokens/s",
    "of floor",
    "floor ms",
    "first token s",
    "peak memory",
)
COMPARISON_COLUMNS = ("bounded arm", "full cache", "context", "threads", "times as fast", "P10 - P90")
COLORS = ("#1f6fb4", "#c0392b", "#2e8b57", "#b8860b", "#7d3c98", "#444444", "#d35400", "#16a085")


def bench_data(report: BenchReport) -> dict[str, Any]:
    """The report as plain data, with what follows from the measurements."""
    data = asdict(report)
    for group, plain in zip(report.groups, data["groups"], strict=True):
        plain["comparisons"] = [asdict(one) for one in group.comparisons()]
        for arm, fields in zip(group.arms, plain["arms"], strict=True):
            for point, numbers in zip(arm.points, fields["points"], strict=True):
                numbers["tokens_per_second"] = point.tokens_per_second
                numbers["of_floor"] = point.of_floor
            fields["flatness"] = {str(n): flat for n in _threads(arm) if (flat := flatness(arm, n)) is not None}
    data["copy_bandwidth"] = {str(threads): value for threads, value in report.copy_bandwidth.items()}
    return data


def bench_words(report: BenchReport) -> str:
    """Machine, method and floor, in a few sentences."""
    machine, settings = report.machine, report.settings
    speeds = ", ".join(f"{n}: {value / 1e9:.1f} GB/s" for n, value in sorted(report.copy_bandwidth.items()))
    where = f"{machine['cores']} CPU cores ({machine['cpu']}, {human_bytes(machine['memory_bytes'])})"
    return (
        f"{where}, {machine['system']}, Python {machine['python']}, commit {machine['commit']}, load average "
        f"{machine['load_average']:.2f} at the end, {report.seconds:.0f} s in all. Every arm in its own process, fed "
        f"the same tokens ({settings['text']}); at each context {settings['rounds']} rounds in which all arms decode "
        f"in turn, {settings['warm_up']} token(s) to warm up and {settings['tokens']} measured. Copy bandwidth by "
        f"threads: {speeds}."
    )


def bench_tables(report: BenchReport) -> list[Table | str]:
    """For the terminal: per group the points, the comparisons, what did not run."""
    parts: list[Table | str] = []
    for group in report.groups:
        parts.append(_table(f"{group.model}, {group.weights} weights", POINT_COLUMNS, _points(group)))
        if compared := _comparisons(group):
            parts.append(_table("bounded against full", COMPARISON_COLUMNS, compared))
        parts += [escape(line) for line in _remarks(group)]
    return parts


def bench_markdown(report: BenchReport) -> str:
    """The whole report as Markdown."""
    parts = ["# Benchmark", bench_words(report)]
    for group in report.groups:
        parts += [f"## {group.model}, {group.weights} weights", markdown_table(POINT_COLUMNS, _points(group))]
        if compared := _comparisons(group):
            parts.append(markdown_table(COMPARISON_COLUMNS, compared))
        parts += [f"- {line}" for line in _remarks(group)]
    return "\n\n".join(parts) + "\n"


def bench_svg(report: BenchReport, group: Group) -> str | None:
    """Milliseconds per token and peak memory against context; None with fewer than two contexts."""
    threads = report.settings["threads"][0]
    drawn = [arm for arm in group.arms if len([p for p in arm.points if p.threads == threads]) > 1]
    if not drawn:
        return None
    curves: dict[str, list[Curve]] = {"ms": [], "peak": []}
    for arm, color in zip(drawn, COLORS * (1 + len(drawn) // len(COLORS)), strict=False):
        points = [p for p in arm.points if p.threads == threads]
        curves["ms"].append(
            Curve(arm.name, color, [(p.context, p.milliseconds.median) for p in points], dashed=not arm.ours)
        )
        curves["peak"].append(Curve(arm.name, color, [(p.context, p.peak_bytes) for p in points], dashed=not arm.ours))
    panels = [
        Panel("ms per token, median", 90, curves["ms"], log_y=False, y_text=lambda value: f"{value:.3g}"),
        Panel("peak memory", 560, curves["peak"], log_y=False, y_text=lambda value: human_bytes(round(value))),
    ]
    name = f"{group.model}, {group.weights} weights, {threads} thread{'s' if threads > 1 else ''}"
    return drawing(name, curves["ms"], panels)


def _threads(arm: ArmResult) -> list[int]:
    return sorted({point.threads for point in arm.points})


def _points(group: Group) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for arm in group.arms:
        for point in arm.points:
            floor = ("", "") if point.floor_ms is None else (f"{point.of_floor:.2f}", f"{point.floor_ms:.1f}")
            first = "" if point.first_token_seconds is None else f"{point.first_token_seconds:.1f}"
            ms = point.milliseconds
            cells = (arm.name, f"{point.context:,}", str(point.threads), f"{ms.median:.1f}", _range(ms, 1))
            rows.append((*cells, f"{point.tokens_per_second:.1f}", *floor, first, human_bytes(point.peak_bytes)))
    return rows


def _comparisons(group: Group) -> list[tuple[str, ...]]:
    return [_comparison(one) for one in group.comparisons()]


def _comparison(one: Comparison) -> tuple[str, ...]:
    cells = (one.faster, one.slower, f"{one.context:,}", str(one.threads))
    return (*cells, f"{one.ratio.median:.2f}", _range(one.ratio, 2))


def _range(spread: Spread, digits: int) -> str:
    return f"{spread.p10:.{digits}f} - {spread.p90:.{digits}f}"


def _remarks(group: Group) -> list[str]:
    """Flatness of the bounded arms, notes, versions, and what is missing."""
    lines = []
    for arm in group.arms:
        for threads in _threads(arm):
            if arm.bounded and (flat := flatness(arm, threads)) is not None:
                lines.append(f"{arm.name}: slowest over fastest context from 1,024 on, threads {threads}: {flat:.3f}")
        versions = ", ".join(f"{name} {version}" for name, version in arm.facts.get("versions", {}).items())
        said = [versions, arm.facts.get("cache"), arm.note, arm.stopped and f"stopped {arm.stopped}"]
        lines.append(f"{arm.name}: {'; '.join(part for part in said if part)}")
    return lines + [f"{one.name}: not run: {one.reason}" for one in group.absent]


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table
