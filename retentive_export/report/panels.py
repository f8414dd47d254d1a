"""Curves over context length, as parts of an SVG: no plotting library, no font files, no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Curve", "Panel", "drawing", "label", "legend"]

WIDTH, HEIGHT = 960, 400
_PANEL, _TOP, _BOTTOM = 370, 70, 330


@dataclass(frozen=True)
class Curve:
    name: str
    color: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One diagram at `left`; x is logarithmic, y is linear from 0 or logarithmic."""

    title: str
    left: int
    curves: Sequence[Curve]
    log_y: bool
    y_text: Callable[[float], str]

    def _range(self, axis: int) -> tuple[float, float]:
        values = [point[axis] for curve in self.curves for point in curve.points]
        low, high = min(values), max(values)
        if axis == 1 and not self.log_y:
            return 0.0, high * 1.1 or 1.0
        return (low, high) if high > low else (low / 2, high * 2)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a value is drawn."""
        (x0, x1), (y0, y1) = self._range(0), self._range(1)
        if self.log_y:
            y, y0, y1 = math.log(y), math.log(y0), math.log(y1)
        across = (math.log(x) - math.log(x0)) / (math.log(x1) - math.log(x0))
        up = (y - y0) / (y1 - y0)
        return self.left + across * _PANEL, _BOTTOM - up * (_BOTTOM - _TOP)

    def y_ticks(self) -> list[float]:
        """Five or fewer values along y."""
        low, high = self._range(1)
        if not self.log_y:
            return [high / 1.1 * step / 4 for step in range(5)]
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        return [2.0**power for power in range(first, last + 1, max(1, (last - first) // 4 or 1))]

    def x_ticks(self) -> list[float]:
        """Powers of two, not too many."""
        low, high = self._range(0)
        first, last = math.ceil(math.log2(low)), math.floor(math.log2(high))
        return [2.0**power for power in range(first, last + 1, max(1, math.ceil((last - first) / 5)))]

    def svg(self) -> list[str]:
        """Title, axes and curves."""
        left, right = self.left, self.left + _PANEL
        lines = [label(left, _TOP - 18, self.title, weight="bold")]
        for tick in self.y_ticks():
            y = self.place(self._range(0)[0], tick)[1]
            lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
            lines.append(label(left - 6, y + 4, self.y_text(tick), anchor="end"))
        for tick in self.x_ticks():
            x = self.place(tick, self.y_ticks()[-1])[0]
            lines.append(label(x, _BOTTOM + 18, _tokens(tick), anchor="middle"))
        lines.append(label((left + right) / 2, _BOTTOM + 36, "tokens of context", anchor="middle"))
        lines.append(f'<path d="M{left} {_TOP}V{_BOTTOM}H{right}" fill="none" stroke="#444444"/>')
        for curve in self.curves:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in curve.points))
            dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
            lines.append(f'<polyline points="{path}" fill="none" stroke="{curve.color}" stroke-width="2"{dash}/>')
        return lines


def drawing(name: str, curves: Sequence[Curve], panels: Sequence[Panel]) -> str:
    """A self-contained SVG: a title, the panels, and a legend of `curves`."""
    height = HEIGHT + 18 * ((len(curves) - 1) // 3)
    body = [label(20, 26, name, weight="bold", size=15), *legend(curves)]
    for panel in panels:
        body += panel.svg()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
    head += f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" role="img">'
    frame = f'<title>{escape(name)}</title><rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, frame, *body, "</svg>"]) + "\n"


def legend(curves: Sequence[Curve]) -> list[str]:
    """Names and strokes below the panels: side by side, or in lines of three where there are more."""
    lines, last = [], (len(curves) - 1) // 3
    for index, curve in enumerate(curves):
        row, column = divmod(index, 3)
        x = 90 + (180 if last == 0 else 290) * column
        y = HEIGHT - 12 + 18 * row
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        lines.append(f'<path d="M{x} {y - 4}h28" stroke="{curve.color}" stroke-width="2"{dash}/>')
        lines.append(label(x + 34, y, curve.name))
    return lines


def label(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _tokens(count: float) -> str:
    return f"{count / 1024:g}k" if count >= 1024 else f"{count:g}"
