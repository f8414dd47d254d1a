"""Tasks, one per file: each makes streams of a model's tokens, with answers to predict and breaks to compress at."""

from __future__ import annotations

from retentive_export.errors import RecipeError
from retentive_export.eval.tasks.base import Task
from retentive_export.eval.tasks.digits import Digits
from retentive_export.eval.tasks.frames import Frames
from retentive_export.eval.tasks.needle import Needle
from retentive_export.eval.tasks.pairs import Pairs
from retentive_export.eval.tasks.text import Text

__all__ = ["TASKS", "Task", "task"]

TASKS: dict[str, type[Task]] = {cls.name: cls for cls in (Digits, Frames, Text, Pairs, Needle)}


def task(name: str, **sizes: int) -> Task:
    """The task called `name`, with sizes in the place of its defaults.

    Raises:
        RecipeError: no such task, or it has no such size.
    """
    if name not in TASKS:
        raise RecipeError(f"task is {name!r}, and must be one of: {', '.join(TASKS)}")
    return TASKS[name](**sizes)
