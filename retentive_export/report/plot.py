"""A plan's curves as one self-contained SVG: no plotting library, no font files, no script."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from retentive_export.planner import BoardPlan, Plan
from retentive_export.report.sizes import human_bytes

__all__ = ["curves_svg"]

_WIDTH, _HEIGHT = 960, 400
_PANEL, _TOP, _BOTTOM = 370, 70, 330
_FULL, _BOUNDED, _LIMIT = "#c0392b", "#1f6fb4", "#888888"


@dataclass(frozen=True)
class _Curve:
    name: str
    color: str
    points: Sequence[tuple[float, float]]
    dashed: bool = False


@dataclass(frozen=True)
class _Panel:
    """One diagram at `left`; x is logarithmic, y is linear from 0 or logarithmic."""

    title: str
    left: int
    curves: Sequence[_Curve]
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
        lines = [_text(left, _TOP - 18, self.title, weight="bold")]
        for tick in self.y_ticks():
            y = self.place(self._range(0)[0], tick)[1]
            lines.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="#dddddd"/>')
            lines.append(_text(left - 6, y + 4, self.y_text(tick), anchor="end"))
        for tick in self.x_ticks():
            x = self.place(tick, self.y_ticks()[-1])[0]
            lines.append(_text(x, _BOTTOM + 18, _tokens(tick), anchor="middle"))
        lines.append(_text((left + right) / 2, _BOTTOM + 36, "tokens of context", anchor="middle"))
        lines.append(f'<path d="M{left} {_TOP}V{_BOTTOM}H{right}" fill="none" stroke="#444444"/>')
        for curve in self.curves:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (self.place(*point) for point in curve.points))
            dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
            lines.append(f'<polyline points="{path}" fill="none" stroke="{curve.color}" stroke-width="2"{dash}/>')
        return lines


def curves_svg(plan: Plan, board: BoardPlan) -> str:
    """KV memory and decode speed of a plain cache and of the recipe's against context length, on one board.

    The plain cache's speed ends where it no longer fits; the dashed line is the memory left for the cache.
    """
    points = board.points
    left = board.usable - (plan.memory.total - plan.memory.state)
    memory = [
        _Curve("full cache", _FULL, [(p.context, p.full_bytes) for p in points]),
        _Curve("this recipe", _BOUNDED, [(p.context, p.state_bytes) for p in points]),
    ]
    if left > 0:
        memory.append(_Curve("memory left for it", _LIMIT, [(p.context, left) for p in points], dashed=True))
    speed = [
        _Curve("full cache", _FULL, [(p.context, p.full_tokens_per_second) for p in points if p.full_fits]),
        _Curve("this recipe", _BOUNDED, [(p.context, p.tokens_per_second) for p in points] if board.fits else []),
    ]
    panels = [_Panel("KV memory", 90, memory, log_y=True, y_text=lambda value: human_bytes(round(value)))]
    if drawn := [curve for curve in speed if len(curve.points) > 1]:
        title = f"predicted tokens/s, {board.efficiency:.0%} of {board.board.bandwidth:g} GB/s"
        panels.append(_Panel(title, 560, drawn, log_y=False, y_text=lambda value: f"{value:.3g}"))
    name = f"{plan.recipe} on {plan.target.name}, {board.board.name}"
    body = [_text(20, 26, name, weight="bold", size=15), *_legend(memory)]
    for panel in panels:
        body += panel.svg()
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
    head += f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" role="img">'
    frame = f'<title>{escape(name)}</title><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>'
    return "\n".join([head, frame, *body, "</svg>"]) + "\n"


def _legend(curves: Sequence[_Curve]) -> list[str]:
    lines = []
    for index, curve in enumerate(curves):
        x, y = 90 + index * 180, _HEIGHT - 12
        dash = ' stroke-dasharray="6 4"' if curve.dashed else ""
        lines.append(f'<path d="M{x} {y - 4}h28" stroke="{curve.color}" stroke-width="2"{dash}/>')
        lines.append(_text(x + 34, y, curve.name))
    return lines


def _text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _tokens(count: float) -> str:
    return f"{count / 1024:g}k" if count >= 1024 else f"{count:g}"
