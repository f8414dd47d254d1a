"""Token streams of dialogues and texts, and batches of them with padding only at the breaks.

A *break* is a place where a cache may be compressed: right after the picture, after the first questions. Streams of a
batch differ in length between breaks, so every part between two breaks is padded to the longest: a break is then one
column of the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from retentive_export.models.base import ModelAdapter
from retentive_export.spec.arrays import Array
from retentive_export.spec.layout import VisionLayout

__all__ = ["Batch", "Stream", "StreamWriter", "collate"]


@dataclass(frozen=True, kw_only=True)
class Stream:
    """One dialogue or text as the decoder takes it.

    input_ids: [n] int64. token_meta: [n, 2] int32, (position, cell). position_ids: [axes, n] int64. visual_rows: [n]
    int64, row of the pictures' embeddings, -1 at a text token. unit: [n] int64, the question (or text) whose answer a
    token belongs to and is predicted for; -1 elsewhere. breaks: offsets, ascending. kinds: of each unit. pictures:
    uint8 [H, W, 3] each, in order.
    """

    input_ids: Array
    token_meta: Array
    position_ids: Array
    visual_rows: Array
    unit: Array
    breaks: tuple[int, ...]
    kinds: tuple[str, ...]
    pictures: tuple[Array, ...] = ()


@dataclass
class StreamWriter:
    """Puts a stream together, piece by piece."""

    axes: int = 1
    layout: VisionLayout | None = None
    _ids: list[int] = field(default_factory=list)
    _cells: list[int] = field(default_factory=list)
    _rows: list[int] = field(default_factory=list)
    _units: list[int] = field(default_factory=list)
    _positions: list[Array] = field(default_factory=list)
    _breaks: list[int] = field(default_factory=list)
    _kinds: list[str] = field(default_factory=list)
    _pictures: list[Array] = field(default_factory=list)
    _base: int = 0

    def text(self, ids: Sequence[int], *, kind: str | None = None) -> None:
        """Text tokens; with a kind they are an answer, a unit of its own, and each of them is to be predicted."""
        if kind is not None:
            self._kinds.append(kind)
        self._add(ids, [-1] * len(ids), [-1] * len(ids), -1 if kind is None else len(self._kinds) - 1)
        self._positions.append(np.broadcast_to(self._base + np.arange(len(ids)), (self.axes, len(ids))))
        self._base += len(ids)

    def frame(self, picture: Array) -> None:
        """The block of a picture, uint8 [H, W, 3]."""
        layout = self.layout
        assert layout is not None
        visual = iter(range(len(self._pictures) * layout.tokens, (len(self._pictures) + 1) * layout.tokens))
        rows = [-1 if cell is None else next(visual) for cell in layout.block_cells]
        self._add(layout.block_ids, layout.cell_codes, rows, -1)
        self._positions.append(self._base + np.asarray(layout.position_offsets, np.int64))
        self._base += layout.position_advance
        self._pictures.append(picture)

    def mark_break(self) -> None:
        """A cache may be compressed here."""
        self._breaks.append(len(self._ids))

    def finish(self) -> Stream:
        """The stream so far."""
        return Stream(
            input_ids=np.asarray(self._ids, np.int64),
            token_meta=np.stack([np.arange(len(self._ids)), self._cells], axis=-1).astype(np.int32),
            position_ids=np.concatenate(self._positions, axis=1).astype(np.int64),
            visual_rows=np.asarray(self._rows, np.int64),
            unit=np.asarray(self._units, np.int64),
            breaks=tuple(self._breaks),
            kinds=tuple(self._kinds),
            pictures=tuple(self._pictures),
        )

    def _add(self, ids: Sequence[int], cells: Sequence[int], rows: Sequence[int], unit: int) -> None:
        self._ids += ids
        self._cells += cells
        self._rows += rows
        self._units += [unit] * len(ids)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Streams side by side on one device; padding has token_meta (-1, -1).

    input_ids, visual_rows: [B, N] int64. token_meta: [B, N, 2] int32. position_ids: [axes, B, N] int64.
    predicts: [B, N] int64, the token that the logits here should give, -1 where nothing is scored. unit: [B, N] int64
    of that token. breaks: columns. longest: tokens of the longest stream, without padding. visual: [B, rows, hidden]
    and deep: [B, layers, rows, hidden], of the pictures; None for a text.
    """

    input_ids: Tensor
    token_meta: Tensor
    position_ids: Tensor
    visual_rows: Tensor
    predicts: Tensor
    unit: Tensor
    breaks: tuple[int, ...]
    longest: int
    kinds: tuple[tuple[str, ...], ...]
    visual: Tensor | None = None
    deep: Tensor | None = None

    @property
    def columns(self) -> int:
        """N, padding included."""
        return self.input_ids.shape[1]

    def chunks(self, start: int, chunk: int) -> Iterator[slice]:
        """Slices of at most `chunk` columns from `start` on; none crosses a break."""
        edges = [start, *(edge for edge in self.breaks if edge > start), self.columns]
        for first, last in pairwise(edges):
            yield from (slice(at, min(at + chunk, last)) for at in range(first, last, chunk))


def collate(
    streams: Sequence[Stream], adapter: ModelAdapter, layout: VisionLayout | None, device: torch.device
) -> Batch:
    """A batch of streams that have the same number of breaks; pictures are encoded on the device."""
    edges = [[0, *one.breaks, len(one.input_ids)] for one in streams]
    widths = [max(row[i + 1] - row[i] for row in edges) for i in range(len(edges[0]) - 1)]
    starts = np.concatenate([[0], np.cumsum(widths)])
    batch, columns = len(streams), int(starts[-1])
    axes = len(streams[0].position_ids)
    ids = np.zeros((batch, columns), np.int64)
    meta = np.full((batch, columns, 2), -1, np.int32)
    positions = np.zeros((axes, batch, columns), np.int64)
    rows, predicts, unit = (np.full((batch, columns), -1, np.int64) for _ in range(3))
    for index, one in enumerate(streams):
        place = np.concatenate(
            [starts[part] + np.arange(edges[index][part + 1] - edges[index][part]) for part in range(len(widths))]
        )
        ids[index, place], meta[index, place] = one.input_ids, one.token_meta
        positions[:, index, place], rows[index, place] = one.position_ids, one.visual_rows
        scored = np.flatnonzero(np.greater_equal(one.unit, 0))
        predicts[index, place[scored - 1]] = one.input_ids[scored]
        unit[index, place[scored - 1]] = one.unit[scored]
    visual, deep = _features(streams, adapter, layout, device)
    tensors = (torch.from_numpy(x).to(device) for x in (ids, meta, positions, rows, predicts, unit))
    names = ("input_ids", "token_meta", "position_ids", "visual_rows", "predicts", "unit")
    return Batch(
        **dict(zip(names, tensors, strict=True)),
        breaks=tuple(int(x) for x in starts[1:-1]),
        longest=max(len(one.input_ids) for one in streams),
        kinds=tuple(one.kinds for one in streams),
        visual=visual,
        deep=deep,
    )


FRAMES_AT_ONCE = 64


def _features(
    streams: Sequence[Stream], adapter: ModelAdapter, layout: VisionLayout | None, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """visual [B, rows, hidden] and deep [B, layers, rows, hidden] of every stream's pictures."""
    if layout is None or not streams[0].pictures:
        return None, None
    module = adapter.vision_module(layout.frame)
    assert module is not None
    module = module.to(device)
    pictures = np.stack([picture for one in streams for picture in one.pictures])
    parts = []
    with torch.inference_mode():
        for start in range(0, len(pictures), FRAMES_AT_ONCE):
            part = module(torch.from_numpy(pictures[start : start + FRAMES_AT_ONCE]).to(device))
            parts.append(part if isinstance(part, tuple) else (part, None))
    batch = len(streams)
    visual = torch.cat([part[0] for part in parts])
    visual = visual.reshape(batch, -1, visual.shape[-1])
    if parts[0][1] is None:
        return visual, None
    deep = torch.cat([part[1] for part in parts])  # [B * frames, layers, tokens, hidden]
    layers, hidden = deep.shape[1], deep.shape[-1]
    deep = deep.reshape(batch, -1, layers, deep.shape[2], hidden).transpose(1, 2)
    return visual, deep.reshape(batch, layers, -1, hidden)
