"""Running text: how far the next-token distribution moves from the full cache's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from retentive_export.errors import InputError
from retentive_export.eval.engine import Engine
from retentive_export.eval.streams import Stream, StreamWriter
from retentive_export.eval.tasks.base import STREAM, Task
from retentive_export.eval.texts import held_out_texts, text_hashes

__all__ = ["Text"]


class Text(Task):
    """Teacher-forced text: KL divergence from the full cache, and the text's own loss in nats per token.

    Passages of `tokens` tokens of real text (`texts`), none of it in the calibration set. Moments: `blind`, after the
    first `context` tokens; `stream`. Scored are the tokens behind the context, in both.
    """

    name: ClassVar[str] = "text"
    recipe: ClassVar[str] = "smollm2-135m"
    overrides: ClassVar[tuple[str, ...]] = ("calibration=text",)
    headline: ClassVar[str] = "kl"
    moments: ClassVar[Mapping[str, int | None]] = {"blind": 0, STREAM: None}
    sizes: ClassVar[Mapping[str, int]] = {"tokens": 1024, "context": 768}

    def streams(self, engine: Engine, count: int, seed: int) -> list[Stream]:
        """See `Task.streams`; texts take turns, so that few passages are of many texts. The seed moves their start."""
        tokens, context = self.size["tokens"], self.size["context"]
        if context >= tokens:
            raise InputError(f"task text: context is {context}, and must be less than tokens, {tokens}")
        passages = []
        for number, (_, text) in enumerate(held_out_texts()):
            ids = engine.encode(text)
            start = (seed * 37) % 64
            passages += [(at, number, ids[at : at + tokens]) for at in range(start, len(ids) - tokens + 1, tokens)]
        passages.sort(key=lambda passage: passage[:2])
        if len(passages) < count:
            raise InputError(
                f"task text: {count} passages of {tokens} tokens were asked for, and there are {len(passages)}",
                hint="ask for fewer or shorter ones",
            )
        result = []
        for _, _, ids in passages[:count]:
            writer = StreamWriter()
            writer.text(ids[:context])
            writer.mark_break()
            writer.text(ids[context:], kind="text")
            result.append(writer.finish())
        return result

    def facts(self) -> dict[str, object]:
        """See `Task.facts`; with the texts' hashes."""
        return {**self.size, "texts": text_hashes()}
