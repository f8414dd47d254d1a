"""The target registry as a table."""

from __future__ import annotations

from collections.abc import Iterable

from rich.table import Table

from retentive_export.spec.targets import Board, Target

__all__ = ["targets_table"]


def targets_table(targets: Iterable[Target]) -> Table:
    """A line per target, and one more for each further board."""
    columns = ("target", "SM", "board", "GB/s", "precisions", "engines built", "software")
    table = Table(*columns, box=None, pad_edge=False)
    table.columns[3].justify = "right"
    for target in targets:
        first, *more = target.boards or (None,)
        precisions = ", ".join(target.precisions)
        software = "; ".join(stack.name for stack in target.stacks)
        table.add_row(target.name, ", ".join(target.sm), *_board(first), precisions, _WHERE[target.engines], software)
        for board in more:
            table.add_row("", "", *_board(board))
    return table


_WHERE = {"device": "on the device", "anywhere": "anywhere, no GPU needed", "none": "no engines"}


def _board(board: Board | None) -> tuple[str, str]:
    return (board.name, f"{board.bandwidth:g}") if board else ("", "")
