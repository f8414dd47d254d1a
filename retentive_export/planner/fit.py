"""Whether a plan fits a board, and what is the largest that does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retentive_export.errors import RecipeError
from retentive_export.spec.plan import CachePlan
from retentive_export.spec.targets import Board

__all__ = ["BoardPlan", "Budget", "Point", "largest", "largest_budget"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A cache budget: rows per head and layer, and bytes of a session."""

    rows: int
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Point:
    """One context length: bytes and predicted tokens per second of a plain cache of so many tokens, and of the
    recipe's. full_fits: whether the plain one fits beside the weights."""

    context: int
    full_bytes: int
    state_bytes: int
    full_tokens_per_second: float
    tokens_per_second: float
    full_fits: bool


@dataclass(frozen=True, kw_only=True)
class BoardPlan:
    """A recipe on one board.

    usable: bytes of its memory without what the system takes and without the margin. spare: what a session leaves of
    them, negative where it does not fit. largest_budget: that fits; None where not even the smallest does, or nothing
    is evicted. largest_context: tokens of a plain cache that fit. efficiency: share of the bandwidth in the prediction.
    points: speed and bytes against context, the recipe's own context included.
    """

    board: Board
    usable: int
    spare: int
    largest_budget: Budget | None
    largest_context: int
    efficiency: float
    points: tuple[Point, ...]

    @property
    def fits(self) -> bool:
        """Whether a session fits, margin included."""
        return self.spare >= 0


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number up to `limit` that fits, 0 if none does; what is smaller than one that fits must fit too."""
    low, high = 0, limit + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def largest_budget(usable: int, plan: Callable[[int], CachePlan], needed: Callable[[CachePlan], int]) -> Budget | None:
    """The largest budget of a session that needs no more than `usable` bytes.

    plan: the cache of a budget in bytes; RecipeError below the smallest. needed: bytes of a whole session.
    """

    def within(allowed: int) -> bool:
        try:
            return needed(plan(allowed)) <= usable
        except RecipeError:
            return True  # below the smallest cache; the search goes on upwards

    if usable < 1:
        return None
    try:
        best = plan(largest(usable, within))
    except RecipeError:
        return None
    return Budget(rows=best.geometry.rows, bytes=best.state_bytes)
