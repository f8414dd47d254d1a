"""Several pictures in one dialogue: a long visual context."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from retentive_export.eval.engine import Engine
from retentive_export.eval.streams import Stream, StreamWriter
from retentive_export.eval.tasks.base import STREAM, Task
from retentive_export.eval.tasks.digits import write_turns
from retentive_export.reference_vlm.dialogue import sample_dialogue
from retentive_export.reference_vlm.pictures import load_digit_sets, sample_grid

__all__ = ["Frames"]


class Frames(Task):
    """A dialogue that sees one picture after another (16 of them are 4,096 visual tokens), with questions after each.

    Every question is about the latest picture, as of a robot that looks around; the earlier ones stay in the context.
    Moments: `blind`, right after the last picture; `stream`. Scored are the questions after the moment.

    The reference VLM was trained on one picture a dialogue, so the full cache's own accuracy falls with their number:
    agreement and KL with it say more here.
    """

    name: ClassVar[str] = "frames"
    recipe: ClassVar[str] = "reference-vlm"
    headline: ClassVar[str] = "kl"
    moments: ClassVar[Mapping[str, int | None]] = {"blind": 0, STREAM: None}
    sizes: ClassVar[Mapping[str, int]] = {"pictures": 16, "turns": 6}
    windows: ClassVar[tuple[int, ...]] = (16, 8, 4)

    def streams(self, engine: Engine, count: int, seed: int) -> list[Stream]:
        """See `Task.streams`."""
        digits = load_digit_sets()[1]
        result = []
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            writer = StreamWriter(axes=engine.adapter.position_axes, layout=engine.layout)
            for last in (False,) * (self.size["pictures"] - 1) + (True,):
                picture, grid = sample_grid(digits, rng)
                turns = sample_dialogue(grid, rng, self.size["turns"] if last else 1)
                write_turns(engine, writer, [picture], turns)
            stream = writer.finish()
            breaks = stream.breaks[-1:]
            result.append(Stream(**{**vars(stream), "breaks": breaks}))
        return result
