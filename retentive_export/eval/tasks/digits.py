"""Multi-turn recall over one picture of an 8x8 grid of digits: cells, rows, counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from retentive_export.eval.engine import Engine
from retentive_export.eval.streams import Stream, StreamWriter
from retentive_export.eval.tasks.base import STREAM, Task
from retentive_export.reference_vlm.dialogue import Turn, kind_of, sample_dialogue
from retentive_export.reference_vlm.pictures import load_digit_sets, sample_grid
from retentive_export.spec.arrays import Array

__all__ = ["Digits", "write_turns"]


class Digits(Task):
    """A dialogue about one picture of held-out digits; the true answers are fed back.

    Moments: `blind`, right after the picture, before any question; `deferred`, after the first `early` questions, which
    say nothing about the later ones; `stream`. Scored are the answers after the moment, each right when all its tokens
    and the end of the turn are. For `stream` all are scored.
    """

    name: ClassVar[str] = "digits"
    recipe: ClassVar[str] = "reference-vlm"
    headline: ClassVar[str] = "accuracy"
    moments: ClassVar[Mapping[str, int | None]] = {"blind": 0, "deferred": 1, STREAM: None}
    sizes: ClassVar[Mapping[str, int]] = {"turns": 6, "early": 3}
    windows: ClassVar[tuple[int, ...]] = (16, 8, 4)

    def streams(self, engine: Engine, count: int, seed: int) -> list[Stream]:
        """See `Task.streams`; every stream has its own generator."""
        digits = load_digit_sets()[1]
        result = []
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            picture, grid = sample_grid(digits, rng)
            turns = sample_dialogue(grid, rng, self.size["turns"])
            writer = StreamWriter(axes=engine.adapter.position_axes, layout=engine.layout)
            write_turns(engine, writer, [picture], turns[: self.size["early"]])
            writer.mark_break()
            write_turns(engine, writer, [], turns[self.size["early"] :])
            result.append(writer.finish())
        return result


def write_turns(engine: Engine, writer: StreamWriter, pictures: Sequence[Array], turns: Sequence[Turn]) -> None:
    """Turns of a dialogue, the pictures at the head of the first one, with a break behind the last picture."""
    dialogue = engine.adapter.dialogue_layout()
    stop = dialogue.assistant_close[: dialogue.assistant_stop_length]
    rest = dialogue.assistant_close[dialogue.assistant_stop_length :]
    for index, turn in enumerate(turns):
        frames = iter(pictures)
        pieces = dialogue.user_turn(engine.encode, turn.question, frames=len(pictures) if index == 0 else 0)
        last = max((at for at, piece in enumerate(pieces) if piece is None), default=-1)
        for at, piece in enumerate(pieces):
            if piece is None:
                writer.frame(next(frames))
                if at == last:
                    writer.mark_break()
            else:
                writer.text(piece)
        writer.text(engine.encode(turn.answer) + stop, kind=kind_of(turn.question))
        writer.text(rest)
