"""Diagrams as inline SVG, 360 units wide so that a phone shows them at full size: no library, no script, no font."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Series", "bar_chart", "budget_chart", "heat_map", "line_chart"]

WIDTH, LEFT, RIGHT, TOP = 360, 48, 350, 28
_BAD, _LIMIT, _AXIS = "#c0392b", "#c0392b", "#888888"
_FLOOR = 1e-12


@dataclass(frozen=True)
class Series:
    """Values of one curve, one per step."""

    name: str
    color: str
    values: Sequence[float]


@dataclass(frozen=True)
class Curve:
    """A measured quantity against a share of bytes: (share, value, low, high), in any order."""

    name: str
    color: str
    points: Sequence[tuple[float, float, float, float]]


def budget_chart(title: str, curves: Sequence[Curve], *, logarithmic: bool = False) -> str:
    """Curves with interval bars over the share of bytes (a logarithmic axis); y is linear from 0 to 1, or
    logarithmic."""
    bottom, line = 170, 14
    shares = sorted({point[0] for curve in curves for point in curve.points})
    values = [x for curve in curves for point in curve.points for x in point[1:] if x > 0]
    low, high = _decades(values) if logarithmic else (0, 1)
    first, last = (math.log(shares[0]), math.log(shares[-1])) if len(shares) > 1 else (math.log(shares[0]) - 1, 0.0)

    def place(share: float, value: float) -> tuple[float, float]:
        across = (math.log(share) - first) / (last - first)
        height = math.log10(max(value, 10.0**low)) if logarithmic else value
        up = min(max((height - low) / (high - low), 0.0), 1.0)
        return LEFT + 8 + across * (RIGHT - LEFT - 16), bottom - up * (bottom - TOP)

    parts = [_text(4, 16, title, weight="bold")]
    ticks = [10.0**power for power in range(low, high + 1)] if logarithmic else [0.0, 0.25, 0.5, 0.75, 1.0]
    for tick in ticks:
        y = place(shares[0], tick)[1]
        parts += [_line(LEFT, y, RIGHT, y), _text(LEFT - 4, y + 3, f"{tick:g}", anchor="end")]
    for share in shares:
        parts.append(_text(place(share, 1.0)[0], bottom + 14, f"{share:.3g}".rstrip("."), anchor="middle", size=10))
    parts.append(_text((LEFT + RIGHT) / 2, bottom + 28, "share of the full cache's bytes", anchor="middle"))
    for order, curve in enumerate(curves):
        points = sorted(curve.points)
        path = " ".join("{:.1f},{:.1f}".format(*place(share, value)) for share, value, _, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{curve.color}" stroke-width="1.8"/>')
        for share, value, below, above in points:
            x, y = place(share, value)
            top, end = place(share, above)[1], place(share, below)[1]
            parts.append(f'<path d="M{x:.1f} {top:.1f}V{end:.1f}" stroke="{curve.color}" stroke-width="1"/>')
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{curve.color}">'
                f"<title>{escape(curve.name)} at {share:.1%}: {value:.3g} [{below:.3g}, {above:.3g}]</title></circle>"
            )
        y = bottom + 44 + line * order
        parts.append(f'<path d="M{LEFT} {y - 4}h18" stroke="{curve.color}" stroke-width="2.4"/>')
        parts.append(_text(LEFT + 24, y, curve.name))
    return _svg(title, bottom + 52 + line * len(curves), parts)


def line_chart(title: str, series: Sequence[Series], *, limit: float | None = None, x_title: str = "step") -> str:
    """Curves over steps on a logarithmic axis, and the limit as a dashed line. Zeros lie on the lower edge."""
    height, bottom = 200, 150
    low, high = _decades([value for one in series for value in one.values] + ([limit] if limit else []))
    count = max(len(one.values) for one in series)

    def place(index: int, value: float) -> tuple[float, float]:
        across = index / max(1, count - 1)
        up = (math.log10(min(max(value, 10.0**low), 10.0**high)) - low) / (high - low)
        return LEFT + across * (RIGHT - LEFT), bottom - up * (bottom - TOP)

    parts = [_text(4, 16, title, weight="bold")]
    for power in range(low, high + 1, max(1, math.ceil((high - low) / 5))):
        y = place(0, 10.0**power)[1]
        parts += [_line(LEFT, y, RIGHT, y), _text(LEFT - 4, y + 3, f"1e{power}", anchor="end")]
    for index in sorted({0, (count - 1) // 2, count - 1}):
        parts.append(_text(place(index, 1.0)[0], bottom + 13, str(index), anchor="middle"))
    parts.append(_text((LEFT + RIGHT) / 2, bottom + 26, x_title, anchor="middle"))
    if limit:
        y = place(0, limit)[1]
        parts.append(f'<path d="M{LEFT} {y:.1f}H{RIGHT}" stroke="{_LIMIT}" stroke-dasharray="5 3"/>')
        parts.append(_text(RIGHT, y - 3, f"limit {limit:.3g}", anchor="end", color=_LIMIT))
    for order, one in enumerate(series):
        points = [place(index, value) for index, value in enumerate(one.values)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{one.color}" stroke-width="1.6"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="1.8" fill="{one.color}"/>' for x, y in points]
        parts.append(f'<path d="M{LEFT + order * 100} {height - 8}h18" stroke="{one.color}" stroke-width="2"/>')
        parts.append(_text(LEFT + order * 100 + 22, height - 5, one.name))
    return _svg(title, height, parts)


def bar_chart(title: str, names: Sequence[str], values: Sequence[float], *, marked: int | None = None) -> str:
    """A bar per name for its share of the limit, on a logarithmic axis; those over it are red, and the title
    names the marked one."""
    low, high = _decades([*values, 1.0])
    bottom = TOP + 14 * len(names)

    def across(value: float) -> float:
        share = (math.log10(min(max(value, 10.0**low), 10.0**high)) - low) / (high - low)
        return LEFT + share * (RIGHT - LEFT)

    title = title if marked is None else f"{title}; {names[marked]} drifts first"
    parts = [_text(4, 16, title, weight="bold")]
    for index, (name, value) in enumerate(zip(names, values, strict=True)):
        y, end = TOP + 14 * index, across(value)
        color = _BAD if value > 1 else "#1f6fb4"
        weight, ink = ("bold", _BAD) if index == marked else ("normal", "")
        parts.append(_text(LEFT - 4, y + 10, name, anchor="end", weight=weight, color=ink))
        parts.append(
            f'<rect x="{LEFT}" y="{y + 2}" width="{max(1.0, end - LEFT):.1f}" height="10" fill="{color}">'
            f"<title>{escape(name)}: {value:.3g}</title></rect>"
        )
    x = across(1.0)
    parts.append(f'<path d="M{x:.1f} {TOP}V{bottom}" stroke="{_LIMIT}" stroke-dasharray="5 3"/>')
    parts.append(_text(x, bottom + 12, "limit", anchor="middle", color=_LIMIT))
    return _svg(title, bottom + 20, parts)


def heat_map(title: str, rows: Sequence[str], columns: Sequence[int], values: Sequence[Sequence[float]]) -> str:
    """A cell per row and column for its share of the limit: pale below a ten-thousandth, blue up to it, red over it."""
    width, height = (RIGHT - LEFT) / len(columns), 10
    bottom = TOP + height * len(rows)
    parts = [_text(4, 16, title, weight="bold")]
    for index, (name, line) in enumerate(zip(rows, values, strict=True)):
        y = TOP + height * index
        parts.append(_text(LEFT - 4, y + 9, name, anchor="end", size=9))
        for column, value in enumerate(line):
            parts.append(
                f'<rect x="{LEFT + column * width:.1f}" y="{y}" width="{width + 0.1:.1f}" height="{height}" '
                f'fill="{_heat(value)}"><title>{escape(name)}, step {columns[column]}: {value:.3g}</title></rect>'
            )
    for column in sorted({0, len(columns) - 1}):
        x = LEFT + (column + 0.5) * width
        parts.append(_text(x, bottom + 12, str(columns[column]), anchor="middle"))
    parts.append(_text((LEFT + RIGHT) / 2, bottom + 12, "step", anchor="middle"))
    return _svg(title, bottom + 20, parts)


def _heat(value: float) -> str:
    if value > 1:
        return _BAD
    share = 1 + math.log10(max(value, 1e-4)) / 4
    pale, deep = (232, 240, 248), (31, 111, 180)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(pale, deep, strict=True))


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """Powers of ten around the positive values, at least one apart."""
    positive = [max(value, _FLOOR) for value in values if value > 0] or [1.0]
    low, high = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    return low, max(high, low + 1)


def _line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="{_AXIS}" stroke-width="0.4"/>'


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 11, color: str = ""
) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{color or "currentColor"}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _svg(title: str, height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img">'
    return "\n".join([head, f"<title>{escape(title)}</title>", *parts, "</svg>"])
