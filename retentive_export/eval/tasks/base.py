"""The interface of tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

from retentive_export.errors import RecipeError
from retentive_export.eval.engine import Engine
from retentive_export.eval.streams import Stream

__all__ = ["STREAM", "Task"]

STREAM = "stream"
"""The moment of compression that every task has: from the first token on, while the prompt is read and decoded."""


class Task(ABC):
    """Something to ask a model about what its cache should have kept.

    A subclass sets `name`, `recipe` (whose model it runs on), `overrides` (fields of it with other values), `headline`
    (the metric that its table shows), `moments` (moments of compression -> the break that each one is; None: from the
    first token on), `sizes` (what may be set, with defaults), and writes `streams`. `windows`: sizes of the recent
    window that suit it; a window must hold a question and the begun answer.
    """

    name: ClassVar[str]
    recipe: ClassVar[str]
    overrides: ClassVar[tuple[str, ...]] = ()
    headline: ClassVar[str]
    moments: ClassVar[Mapping[str, int | None]]
    sizes: ClassVar[Mapping[str, int]]
    windows: ClassVar[tuple[int, ...]] = (32, 16, 8)

    def __init__(self, **sizes: int) -> None:
        unknown = sorted(set(sizes) - set(self.sizes))
        if unknown:
            raise RecipeError(
                f"task {self.name}: {unknown[0]!r} is not a size of it", hint=f"one of: {', '.join(self.sizes)}"
            )
        for name, value in sizes.items():
            if value < 1:
                raise RecipeError(f"task {self.name}: {name} is {value}, and must be at least 1")
        self.size: dict[str, int] = {**self.sizes, **sizes}

    @abstractmethod
    def streams(self, engine: Engine, count: int, seed: int) -> list[Stream]:
        """`count` streams; the same seed gives the same ones, and the first of more are those of fewer."""

    def facts(self) -> dict[str, object]:
        """What else must be known to repeat it: sizes, and whatever the data depends on."""
        return dict(self.size)
