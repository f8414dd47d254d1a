"""A needle in a haystack: one sentence with a number in a long text, asked for at its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from retentive_export.eval.engine import Engine
from retentive_export.eval.streams import Stream, StreamWriter
from retentive_export.eval.tasks.base import STREAM, Task
from retentive_export.eval.texts import held_out_texts, text_hashes

__all__ = ["Needle"]


class Needle(Task):
    """`tokens` tokens of real text with a sentence about a secret number in it, at a depth drawn evenly; then the
    question. Moments: `blind`, after the text; `stream`."""

    name: ClassVar[str] = "needle"
    recipe: ClassVar[str] = "smollm2-135m"
    overrides: ClassVar[tuple[str, ...]] = ("calibration=text",)
    headline: ClassVar[str] = "accuracy"
    moments: ClassVar[Mapping[str, int | None]] = {"blind": 0, STREAM: None}
    sizes: ClassVar[Mapping[str, int]] = {"tokens": 768}

    def streams(self, engine: Engine, count: int, seed: int) -> list[Stream]:
        """See `Task.streams`."""
        texts = [engine.encode(text) for _, text in held_out_texts()]
        tokens = self.size["tokens"]
        texts = [ids for ids in texts if len(ids) > tokens]
        result = []
        for index in range(count):
            rng = np.random.default_rng([seed, index])
            ids = texts[index % len(texts)]
            start = int(rng.integers(len(ids) - tokens))
            depth = int(rng.integers(tokens // 16, tokens))
            code = str(rng.integers(100, 1000))
            hay = ids[start : start + tokens]
            writer = StreamWriter()
            writer.text(hay[:depth])
            writer.text(engine.encode(f"\n\nThe secret number of the castle is {code}. Remember it.\n\n"))
            writer.text(hay[depth:])
            writer.mark_break()
            writer.text(engine.encode("\n\nThe secret number of the castle is "))
            writer.text(engine.encode(code), kind="needle")
            result.append(writer.finish())
        return result

    def facts(self) -> dict[str, object]:
        """See `Task.facts`; with the texts' hashes."""
        return {**self.size, "texts": text_hashes()}
