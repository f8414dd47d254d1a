"""Sample inputs of a model: they set the key scales and drive the golden run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from retentive_export.errors import RecipeError
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.arrays import Array
from retentive_export.spec.layout import VisionLayout

__all__ = ["Sample", "TokenStream", "load_samples", "read_picture", "token_stream"]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A picture (uint8 [H, W, 3], or None) and what is said about it: question and answer in turn."""

    picture: Array | None
    turns: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class TokenStream:
    """Tokens as the decoder takes them. input_ids [n] int64; token_meta [n, 2] int32; position_ids [axes, n] int64;
    visual_rows [n] int64: row of the frame's visual embeddings, -1 for a text token; answers [n] bool: part of an
    answer or of what closes it, None where that is not known."""

    input_ids: Array
    token_meta: Array
    position_ids: Array
    visual_rows: Array
    answers: Array | None = None

    def extended(self, token: int) -> TokenStream:
        """The stream with one more text token."""
        position = int(self.token_meta[-1, 0]) + 1
        rope = self.position_ids[:, -1:].max(axis=0, keepdims=True) + 1
        axes = len(self.position_ids)
        return TokenStream(
            input_ids=np.append(self.input_ids, token),
            token_meta=np.concatenate([self.token_meta, np.array([[position, -1]], np.int32)]),
            position_ids=np.concatenate([self.position_ids, np.broadcast_to(rope, (axes, 1))], axis=1),
            visual_rows=np.append(self.visual_rows, -1),
        )

    def cut(self, tokens: int) -> TokenStream:
        """The first `tokens` tokens."""
        return TokenStream(
            input_ids=self.input_ids[:tokens],
            token_meta=self.token_meta[:tokens],
            position_ids=self.position_ids[:, :tokens],
            visual_rows=self.visual_rows[:tokens],
        )


def load_samples(directory: Path, frame: tuple[int, int] | None) -> list[Sample]:
    """Read `dialogues.jsonl`: one {"picture": FILE or null, "dialogue": [{"question": .., "answer": ..}, ..]} a line.

    Pictures are resized to `frame` (height, width); without a frame they are left out.

    Raises:
        RecipeError: the directory or a line is not of that form.
    """
    path = directory / "dialogues.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        samples = [
            Sample(
                picture=read_picture(directory / line["picture"], frame) if frame and line.get("picture") else None,
                turns=tuple((str(turn["question"]), str(turn["answer"])) for turn in line["dialogue"]),
            )
            for line in lines
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RecipeError(f"calibration {directory} is not readable: {error}") from None
    if not samples:
        raise RecipeError(f"calibration {path} holds no dialogue")
    return samples


def read_picture(path: Path, frame: tuple[int, int]) -> Array:
    """A picture file as uint8 [H, W, 3], resized to `frame` (height, width)."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((frame[1], frame[0])), np.uint8)


def token_stream(
    adapter: ModelAdapter, layout: VisionLayout | None, sample: Sample, turns: int, *, closed: bool = False
) -> TokenStream:
    """Tokens of a sample's first `turns` turns, the last one's answer left open unless `closed`."""
    pieces = list(_pieces(adapter, sample, turns, closed))
    axes = layout.position_axes if layout else 1
    ids: list[int] = []
    cells: list[int] = []
    rows: list[int] = []
    positions: list[Array] = []
    base = 0
    answers: list[bool] = []
    for piece, is_answer in pieces:
        if piece is None:
            assert layout is not None
            ids += layout.block_ids
            visual = iter(range(layout.tokens))
            cells += layout.cell_codes
            rows += [-1 if c is None else next(visual) for c in layout.block_cells]
            positions.append(base + np.asarray(layout.position_offsets, np.int64))
            base += layout.position_advance
            answers += [False] * len(layout.block_ids)
        else:
            answers += [is_answer] * len(piece)
            ids += piece
            cells += [-1] * len(piece)
            rows += [-1] * len(piece)
            positions.append(np.broadcast_to(base + np.arange(len(piece)), (axes, len(piece))))
            base += len(piece)
    return TokenStream(
        input_ids=np.asarray(ids, np.int64),
        token_meta=np.stack([np.arange(len(ids)), cells], axis=-1).astype(np.int32),
        position_ids=np.concatenate(positions, axis=1).astype(np.int64),
        visual_rows=np.asarray(rows, np.int64),
        answers=np.asarray(answers, bool),
    )


def _pieces(adapter: ModelAdapter, sample: Sample, turns: int, closed: bool) -> Iterator[tuple[list[int] | None, bool]]:
    """Token ids, None for a frame's block, and whether they are an answer."""
    dialogue = adapter.dialogue_layout()

    def encode(text: str) -> list[int]:
        ids: list[int] = adapter.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    if dialogue.prefix:
        yield dialogue.prefix, False
    for index, (question, answer) in enumerate(sample.turns[:turns]):
        frames = int(index == 0 and sample.picture is not None)
        yield from ((piece, False) for piece in dialogue.user_turn(encode, question, frames=frames))
        if closed or index + 1 < min(turns, len(sample.turns)):
            yield encode(answer) + dialogue.assistant_close, True
