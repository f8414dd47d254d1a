"""Key-value recall: a list of names and numbers, then some of them are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from retentive_export.eval.engine import Engine
from retentive_export.eval.streams import Stream, StreamWriter
from retentive_export.eval.tasks.base import STREAM, Task

__all__ = ["Pairs"]

_WORDS = (
    "apple river stone window garden bottle candle mirror ladder pencil blanket hammer kettle lantern pillow basket "
    "bridge castle dragon engine falcon guitar helmet island jacket kitten lemon market needle orange parrot rocket "
    "saddle ticket violin wagon zebra anchor button copper"
)


class Pairs(Task):
    """`pairs` lines "The code of NAME is NUMBER.", then `asked` of them again, in random order, the numbers to be
    predicted. Moments: `blind`, after the list; `stream`."""

    name: ClassVar[str] = "pairs"
    recipe: ClassVar[str] = "smollm2-135m"
    overrides: ClassVar[tuple[str, ...]] = ("calibration=text",)
    headline: ClassVar[str] = "accuracy"
    moments: ClassVar[Mapping[str, int | None]] = {"blind": 0, STREAM: None}
    sizes: ClassVar[Mapping[str, int]] = {"pairs": 24, "asked": 6}

    def streams(self, engine: Engine, count: int, seed: int) -> list[Stream]:
        """See `Task.streams`."""
        result = []
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            names = [str(name) for name in rng.permutation(_WORDS.split())[: self.size["pairs"]]]
            codes = [str(code) for code in rng.integers(100, 1000, size=len(names))]
            writer = StreamWriter()
            for name, code in zip(names, codes, strict=True):
                writer.text(engine.encode(f"The code of {name} is {code}.\n"))
            writer.mark_break()
            for which in rng.permutation(len(names))[: self.size["asked"]]:
                writer.text(engine.encode(f"The code of {names[which]} is "))
                writer.text(engine.encode(codes[which]), kind="pair")
                writer.text(engine.encode(".\n"))
            result.append(writer.finish())
        return result
