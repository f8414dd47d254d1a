"""A plan's curves as one self-contained SVG: no plotting library, no font files, no script."""

from __future__ import annotations

from retentive_export.planner import BoardPlan, Plan
from retentive_export.report.panels import Curve, Panel, drawing
from retentive_export.report.sizes import human_bytes

__all__ = ["curves_svg"]

_FULL, _BOUNDED, _LIMIT = "#c0392b", "#1f6fb4", "#888888"


def curves_svg(plan: Plan, board: BoardPlan) -> str:
    """KV memory and decode speed of a plain cache and of the recipe's against context length, on one board.

    The plain cache's speed ends where it no longer fits; the dashed line is the memory left for the cache.
    """
    points = board.points
    left = board.usable - (plan.memory.total - plan.memory.state)
    memory = [
        Curve("full cache", _FULL, [(p.context, p.full_bytes) for p in points]),
        Curve("this recipe", _BOUNDED, [(p.context, p.state_bytes) for p in points]),
    ]
    if left > 0:
        memory.append(Curve("memory left for it", _LIMIT, [(p.context, left) for p in points], dashed=True))
    speed = [
        Curve("full cache", _FULL, [(p.context, p.full_tokens_per_second) for p in points if p.full_fits]),
        Curve("this recipe", _BOUNDED, [(p.context, p.tokens_per_second) for p in points] if board.fits else []),
    ]
    panels = [Panel("KV memory", 90, memory, log_y=True, y_text=lambda value: human_bytes(round(value)))]
    if drawn := [curve for curve in speed if len(curve.points) > 1]:
        title = f"predicted tokens/s, {board.efficiency:.0%} of {board.board.bandwidth:g} GB/s"
        panels.append(Panel(title, 560, drawn, log_y=False, y_text=lambda value: f"{value:.3g}"))
    name = f"{plan.recipe} on {plan.target.name}, {board.board.name}"
    return drawing(name, memory, panels)
