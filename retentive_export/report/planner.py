"""A plan as plain data and as tables: bytes, fit, speed."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.markup import escape
from rich.table import Table

from retentive_export.planner import BoardPlan, MeasuredArm, Plan, Point
from retentive_export.report.artifact import cache_words, facts_table
from retentive_export.report.sizes import human_bytes
from retentive_export.spec.manifest import cache_fields
from retentive_export.spec.targets import Board

__all__ = ["measured_data", "measured_table", "planner_data", "planner_tables"]


def planner_data(plan: Plan) -> dict[str, Any]:
    """The whole plan as plain data. Sizes are bytes; `estimates` names the figures that are not exact."""
    shape = plan.model
    return {
        "recipe": plan.recipe,
        "target": plan.target.name,
        "engines": plan.target.engines,
        "model": {
            "family": shape.family,
            "origin": shape.origin,
            "dtype": plan.dtype,
            "text": shape.text.model_dump(mode="json"),
            "parameters": {**asdict(shape.parameters), "total": shape.parameters.total},
            "frame": asdict(shape.frame) if shape.frame else None,
        },
        "weights": {**plan.weights.model_dump(), **asdict(plan.weight_bytes)},
        "cache": cache_fields(plan.cache),
        "memory": {**asdict(plan.memory), "total": plan.memory.total},
        "state": asdict(plan.state),
        "full_cache_bytes": plan.cache.full_cache_bytes,
        "moved_bytes_per_token": plan.moved,
        "reserved": plan.target.reserved,
        "margin": plan.assumptions.margin,
        "estimates": ["memory.activations", "memory.workspace", "reserved", "boards.*.points.*tokens_per_second"],
        "boards": [_board_data(board) for board in plan.boards],
    }


def _board_data(board: BoardPlan) -> dict[str, Any]:
    return {**asdict(board), "board": board.board.model_dump(mode="json"), "fits": board.fits}


def planner_tables(plan: Plan) -> list[Table]:
    """What the recipe takes, which boards it fits, how fast it decodes."""
    tables = [_bytes_table(plan)]
    if plan.boards:
        tables += [_boards_table(plan), _points_table(plan, plan.boards[0])]
    return tables


def _bytes_table(plan: Plan) -> Table:
    shape, memory, state = plan.model, plan.memory, plan.state
    table = facts_table(f"{plan.recipe} on {plan.target.name} ({plan.target.description})")
    table.add_row("model", f"{shape.family}, {shape.text.layers} layers, {shape.parameters.total:,} parameters")
    table.add_row("", escape(f"sizes from {shape.origin}"))
    if frame := shape.frame:
        seen = f"{frame.tokens} visual tokens, grid {frame.grid[0]} x {frame.grid[1]}"
        table.add_row("frame", f"{frame.frame[0]} x {frame.frame[1]} pixels: {seen}")
    for index, line in enumerate(cache_words(plan.cache)):
        table.add_row("cache" if index == 0 else "", line)
    quantised = "" if plan.weights.format == "none" else f" and {plan.weights.format}, blocks of {plan.weights.block}"
    table.add_row("weights", f"{human_bytes(memory.weights)} in {plan.dtype}{quantised}: {_weights_words(plan)}")
    parts = f"rows {human_bytes(state.rows)}, memory {human_bytes(state.memory)}"
    table.add_row("state", f"{memory.state:,} bytes: {parts}, bookkeeping {human_bytes(state.bookkeeping)}")
    full, context = plan.cache.full_cache_bytes, plan.cache.context
    table.add_row("", f"{full / memory.state:.2f}x smaller than {human_bytes(full)} for {context} tokens in full")
    table.add_row("activations", f"~ {human_bytes(memory.activations)} (estimate)")
    table.add_row("workspace", f"~ {human_bytes(memory.workspace)} (estimate)")
    table.add_row("in all", f"~ {human_bytes(memory.total)}; a decode step reads {human_bytes(plan.moved)}")
    if engines := _ENGINES[plan.target.engines]:
        table.add_row("engines", f"{engines}, with the plugin library that scripts/build_plugins.sh makes")
    if not plan.boards:
        table.add_row("fit, speed", "unknown: give the machine's --memory and --bandwidth")
    return table


_ENGINES = {"device": "built on the device itself", "anywhere": "built on any machine", "none": ""}


def _weights_words(plan: Plan) -> str:
    parts = plan.weight_bytes
    named = [("vision", parts.vision), ("embedding", parts.embedding), ("layers", parts.layers)]
    words = [f"{name} {human_bytes(size)}" for name, size in named if size]
    words.append(f"head {human_bytes(parts.head)}" if parts.head else "head shared with the embedding")
    return ", ".join(words)


def _boards_table(plan: Plan) -> Table:
    reserved, margin = human_bytes(plan.target.reserved), f"{plan.assumptions.margin:.0%}"
    title = f"boards; {reserved} for the system and {margin} of the memory stay free"
    columns = ("board", "memory", "GB/s", "fits", "to spare", "largest budget", "largest full cache", "tokens/s")
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for one in plan.boards:
        point = _own_point(plan, one)
        table.add_row(
            one.board.name,
            human_bytes(one.board.memory),
            f"{one.board.bandwidth:g}",
            "yes" if one.fits else "NO",
            human_bytes(one.spare),
            _budget_words(plan, one),
            f"{one.largest_context:,} tokens",
            f"{point.tokens_per_second:.1f}" if one.fits else "-",
            style=None if one.fits else "red",
        )
    return table


def _budget_words(plan: Plan, board: BoardPlan) -> str:
    if plan.cache.capacity is not None:
        return "evicts nothing"
    budget = board.largest_budget
    return f"{budget.rows:,} rows, {human_bytes(budget.bytes)}" if budget else "none"


def _own_point(plan: Plan, board: BoardPlan) -> Point:
    return next(point for point in board.points if point.context == plan.cache.context)


def _points_table(plan: Plan, board: BoardPlan) -> Table:
    title = f"predicted decode on {board.board.name}, {board.efficiency:.0%} of {board.board.bandwidth:g} GB/s"
    columns = ("context", "full cache", "state", "full tokens/s", "bounded tokens/s", "speed-up")
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns:
        column.justify = "right"
    for point in board.points:
        table.add_row(
            f"{point.context:,}",
            human_bytes(point.full_bytes),
            human_bytes(point.state_bytes),
            f"{point.full_tokens_per_second:.1f}" if point.full_fits else "does not fit",
            f"{point.tokens_per_second:.1f}" if board.fits else "does not fit",
            f"{point.tokens_per_second / point.full_tokens_per_second:.2f}",
            style="bold" if point.context == plan.cache.context else None,
        )
    return table


def measured_data(shape: str, arms: tuple[MeasuredArm, ...], board: Board, efficiency: float) -> dict[str, Any]:
    """Measured arms beside the prediction for a board, as plain data."""
    rows = [
        {
            **asdict(arm),
            "predicted_milliseconds": arm.predicted_milliseconds(board.bandwidth, efficiency),
            "efficiency": arm.efficiency(board.bandwidth),
        }
        for arm in arms
    ]
    return {"shape": shape, "board": board.name, "arms": rows}


def measured_table(shape: str, arms: tuple[MeasuredArm, ...], board: Board, efficiency: float) -> Table:
    """Measured arms beside the prediction for a board, and the efficiency that would have predicted them."""
    title = f"{shape} measured, beside {efficiency:.0%} of {board.name}'s {board.bandwidth:g} GB/s"
    columns = ("arm", "batch", "context", "cache", "measured ms", "predicted ms", "efficiency reached")
    table = Table(*columns, title=title, title_justify="left", box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    for arm in arms:
        table.add_row(
            arm.name,
            str(arm.batch),
            f"{arm.context:,}",
            human_bytes(arm.cache_bytes),
            f"{arm.milliseconds:.3f}",
            f"{arm.predicted_milliseconds(board.bandwidth, efficiency):.3f}",
            f"{arm.efficiency(board.bandwidth):.1%}",
        )
    return table
