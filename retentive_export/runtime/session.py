"""A session: one dialogue, or one robot's run, on one bounded state.

session = Session.open("out/")
session.observe(frame)                 # uint8 [H, W, 3]; read into the state at once
print(session.ask("What is ahead?"))   # answers; the state remembers
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.backends import Backend, DecoderInputs, default_backend, open_backend
from retentive_export.errors import ArtifactError, CapacityError, InputError
from retentive_export.runtime.detokenize import TextStream
from retentive_export.runtime.sampling import Sampler
from retentive_export.runtime.snapshot import Place, read_snapshot, write_snapshot
from retentive_export.spec.arrays import Array

__all__ = ["Generation", "Session"]


@dataclass
class Generation:
    """What one answer cost: token ids, and seconds of prefill and of decode.

    finish: why it ended: "stop" (a stop token), "length" (max_new_tokens), "capacity" (a full cache is full), or ""
    while it goes on.
    """

    token_ids: list[int] = field(default_factory=list)
    finish: str = ""
    prefill_tokens: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0


class Session:
    """One state and the dialogue on it. Memory does not grow with the length of the run.

    Args:
        backend: an opened artifact.
        tokenizer: a `tokenizers.Tokenizer`.
    """

    def __init__(self, backend: Backend, tokenizer: Any) -> None:
        self.backend, self.tokenizer = backend, tokenizer
        self.manifest = backend.manifest
        self.dialogue, self.vision = self.manifest.dialogue, self.manifest.vision
        plan = self.manifest.plan()
        self.chunk, self.capacity = plan.geometry.chunk, plan.capacity
        self.last = Generation()
        self._forget()

    @classmethod
    def open(cls, directory: str | Path, *, backend: str | None = None, **options: Any) -> Session:
        """Open an artifact with a backend, None for the one that it was built for; options go to the backend
        (`threads`, `verify`, `provider="cuda"`).

        Raises:
            ArtifactError: a file is missing, altered, or of another version.
        """
        from tokenizers import Tokenizer

        directory = Path(directory)
        opened = open_backend(backend or default_backend(directory), directory, **options)
        try:
            tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        except Exception as error:
            raise ArtifactError(f"tokenizer.json is not readable: {error}") from None
        return cls(opened, tokenizer)

    def _forget(self) -> None:
        self.tokens_seen = 0
        self._rope = 0
        self._frames_in_turn = 0
        self._started = False
        self._unfed: list[int] = []  # tokens that belong to the past and were not fed yet

    def reset(self) -> None:
        """Forget everything; no memory is freed or taken."""
        self.backend.reset()
        self._forget()

    @property
    def state_bytes(self) -> int:
        """Bytes of the state; the same from the first token to the last."""
        return self.backend.state_bytes

    def observe(self, frame: Array) -> None:
        """Read one frame, uint8 [H, W, 3] RGB of the artifact's size, into the state, as part of the coming turn.

        Raises:
            InputError: another size or dtype, or a text-only model. CapacityError: a full cache has no room; nothing
            was fed.
        """
        if self.vision is None:
            raise InputError(f"{self.manifest.name} is a text-only model: it takes no frames")
        visual, deep = self.backend.encode(np.asarray(frame)[None])
        lead = self._opening()
        lead += self.dialogue.frame_separator if self._frames_in_turn else self.dialogue.frame_open
        self._reserve(len(lead) + len(self.vision.block_ids))
        self._begin()
        if lead:
            self._feed_text(lead)
        self._feed_block(visual[0], None if deep is None else deep[0])
        self._frames_in_turn += 1

    def ask(self, text: str, **options: Any) -> str:
        """Answer `text` (and the frames observed since the last answer). Options as in `stream`."""
        return "".join(self.stream(text, **options))

    def stream(
        self,
        text: str,
        *,
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        seed: int | None = None,
    ) -> Iterator[str]:
        """Yield the answer piece by piece; defaults are the recipe's `generation` section. `last` has the costs.

        Raises:
            InputError: a sampling option is out of range. CapacityError: a full cache has no room for the question.
        """
        defaults = self.manifest.generation
        sampler = Sampler(
            temperature=defaults.temperature if temperature is None else temperature,
            top_p=defaults.top_p if top_p is None else top_p,
            seed=defaults.seed if seed is None else seed,
        )
        limit = defaults.max_new_tokens if max_new_tokens is None else max_new_tokens
        if limit < 1:
            raise InputError(f"max_new_tokens is {limit}, and must be at least 1")
        logits = self._prefill(text)
        return self._decode(logits, sampler, limit)

    def _prefill(self, text: str) -> Array:
        started = time.perf_counter()
        pieces = self.dialogue.user_turn(self._encode, text, frames=self._frames_in_turn)
        words = pieces[-1] or []
        tokens = self._opening() + words
        if not tokens:
            raise InputError("the text is empty, and the model's template adds nothing to it")
        self._reserve(len(tokens))
        self._begin()
        logits = self._feed_text(tokens)
        self._frames_in_turn = 0
        self.last = Generation(prefill_tokens=len(tokens), prefill_seconds=time.perf_counter() - started)
        return logits

    def _decode(self, logits: Array, sampler: Sampler, limit: int) -> Iterator[str]:
        stream, record, close = TextStream(self.tokenizer), self.last, self.dialogue.assistant_close
        started = time.perf_counter()
        while True:
            token = sampler(logits[0, -1])
            record.token_ids.append(token)
            stopped = token in self.dialogue.stop_ids
            # The newest token is not in the state yet: the next turn feeds it, then what closes this answer, whose own
            # stop token must not come twice.
            self._unfed = [token, *close[self.dialogue.assistant_stop_length if stopped else 0 :]]
            piece = stream.flush() if stopped else stream.push(token)
            record.decode_seconds = time.perf_counter() - started
            if piece:
                yield piece
            record.finish = "stop" if stopped else self._end(len(record.token_ids), limit)
            if record.finish:
                break
            logits = self._feed_text([token])
            self._unfed = list(close)
        if rest := stream.flush():
            yield rest
        record.decode_seconds = time.perf_counter() - started

    def _end(self, generated: int, limit: int) -> str:
        """Why an answer cannot go on, or "" if it can."""
        if generated >= limit:
            return "length"
        return "capacity" if self.capacity is not None and self.tokens_seen >= self.capacity else ""

    def generate(self, prompt_ids: list[int], sampler: Sampler, max_new_tokens: int) -> Iterator[int]:
        """Feed raw token ids, with no template, and yield the ids that follow, the stop token included."""
        self._reserve(len(prompt_ids))
        self._started, self._unfed = True, []
        logits = self._feed_text(prompt_ids)
        for count in range(max_new_tokens):
            token = sampler(logits[0, -1])
            yield token
            if token in self.dialogue.stop_ids or count + 1 == max_new_tokens:
                return
            self._reserve(1)
            logits = self._feed_text([token])

    def save(self, path: str | Path) -> None:
        """Write the state and the dialogue's place to one file, whole or not at all."""
        place = Place(
            tokens_seen=self.tokens_seen,
            rope=self._rope,
            frames_in_turn=self._frames_in_turn,
            started=self._started,
            unfed=self._unfed,
        )
        write_snapshot(Path(path), self.manifest, self.backend.state(), place)

    def restore(self, path: str | Path) -> None:
        """Continue from a saved state of the same artifact.

        Raises:
            InputError: the file is not a snapshot, or of another artifact; the session stays as it was.
        """
        tensors, place = read_snapshot(Path(path), self.manifest)
        self.backend.load_state(tensors)
        self.tokens_seen, self._rope = place.tokens_seen, place.rope
        self._frames_in_turn, self._started, self._unfed = place.frames_in_turn, place.started, list(place.unfed)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def _opening(self) -> list[int]:
        """Tokens that come before anything new: the dialogue's prefix, or what closes the last answer."""
        return list(self._unfed) if self._started else list(self.dialogue.prefix)

    def _begin(self) -> None:
        self._started, self._unfed = True, []

    def _reserve(self, tokens: int) -> None:
        if self.capacity is not None and self.tokens_seen + tokens > self.capacity:
            raise CapacityError(
                f"{self.tokens_seen} tokens are held and {tokens} more were asked for: "
                f"this full cache holds {self.capacity}",
                hint="raise cache.context, call reset(), or build with a bounded policy",
            )

    def _feed_text(self, ids: list[int]) -> Array:
        count = len(ids)
        offsets = np.arange(count, dtype=np.int64)
        axes = self.vision.position_axes if self.vision else 1
        positions = np.broadcast_to(self._rope + offsets, (axes, count))
        logits = self._feed(np.asarray(ids, np.int64), np.full(count, -1, np.int32), positions, None, None)
        self._rope += count
        return logits

    def _feed_block(self, visual: Array, deep: Array | None) -> Array:
        """Feed one frame's block: visual [tokens, hidden], deep [deep_layers, tokens, hidden]."""
        layout = self.vision
        assert layout is not None
        cells = np.array(layout.cell_codes, np.int32)
        positions = self._rope + np.asarray(layout.position_offsets, np.int64)
        where = np.flatnonzero(cells >= 0)
        embeds = np.zeros((len(cells), visual.shape[-1]), visual.dtype)
        embeds[where] = visual
        features = None
        if deep is not None:
            features = np.zeros((deep.shape[0], len(cells), deep.shape[-1]), deep.dtype)
            features[:, where] = deep
        logits = self._feed(np.asarray(layout.block_ids, np.int64), cells, positions, embeds, features)
        self._rope += layout.position_advance
        return logits

    def _feed(self, ids: Array, cells: Array, positions: Array, embeds: Array | None, features: Array | None) -> Array:
        """Feed tokens in chunks. ids, cells [n]; positions [axes, n]; embeds [n, hidden]; features [layers, n,
        hidden]."""
        logits: Array | None = None
        for start in range(0, len(ids), self.chunk):
            part = slice(start, min(start + self.chunk, len(ids)))
            sequence = self.tokens_seen + np.arange(part.stop - part.start)
            axes = positions[:, None, part]
            logits = self.backend.step(
                DecoderInputs(
                    input_ids=ids[None, part],
                    token_meta=np.stack([sequence, cells[part]], axis=-1)[None].astype(np.int32),
                    position_ids=axes if len(positions) > 1 else axes[0],
                    visual_embeds=None if embeds is None else embeds[None, part],
                    deep=None if features is None else features[None, :, part],
                )
            )
            self.tokens_seen += part.stop - part.start
        assert logits is not None
        return logits
