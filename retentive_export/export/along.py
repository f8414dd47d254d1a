"""What a layer's queries, keys and values are along a whole session, from samples that were run once.

RoPE turns keys and queries as a dialogue goes on, and constants must hold where it may stand. Attention sees relative
positions alone, so a sample that begins later has the same hidden states, and its keys are those of the start times one
matrix: the turn. It is measured on one sample, which needs nothing of a family's RoPE; where the measurement does not
hold (too few tokens, a RoPE that is no rotation), every sample is run at every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.reference import ReferenceRun, Run, causal_attention

__all__ = ["SHIFTS", "Along", "Observer", "shifted", "turns_along"]

SHIFTS = (0.0, 0.25, 0.5, 0.75)
"""Positions at which a sample is seen, over the recipe's context: slow pairs of RoPE's channels turn far only late."""
ENOUGH = 8
"""Keys that a turn is measured on, over its rows."""
TOLERANCE = 2e-3
"""Largest relative error of a turn in float32, whose angles of thousands of radians are known to 4e-4."""
RIDGE = 1e-9


class Observer(Protocol):
    """Sees every layer's tensors of one pass: query [B, Hq, T, D], key and value [B, Hkv, T, D]."""

    def see(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None: ...


Seeing = TypeVar("Seeing", bound=Observer)


class _Turning:
    """An `AttentionLoop` without a cache that shows its tensors to an observer, at every turn."""

    def __init__(self, observer: Observer, turns: Sequence[Tensor | None]) -> None:
        self.observer, self.turns = observer, turns

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        for turn in self.turns:
            q, k = (query, key) if turn is None else (query.float() @ turn, key.float() @ turn)
            self.observer.see(layer_index, q, k, value, scale)
        return causal_attention(query, key, value, scale)


class _Keys:
    """All keys of all layers."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []
        self.dtype = torch.float32

    def see(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """See `Observer`."""
        self.dtype = key.dtype
        self.rows.append(key.double().flatten(0, 2))


def shifted(run: Run, positions: int) -> Run:
    """The run with its RoPE positions moved."""
    stream, *features = run
    return replace(stream, position_ids=stream.position_ids + positions), *features  # type: ignore[return-value]


class Along:
    """Samples as they are at all of `SHIFTS`, parts of a session's `context` tokens; the turns are measured once."""

    def __init__(self, graph: DecoderGraph, runs: Sequence[Run], context: int) -> None:
        turns = turns_along(graph, runs, context)
        self._graph = graph
        self._turns: Sequence[Tensor | None] = [None] if turns is None else turns
        moved = (shifted(run, round(part * context)) for run in runs for part in SHIFTS)
        self._runs = runs if turns is not None else list(moved)

    def observe(self, observer: Seeing) -> Seeing:
        """The observer after all samples."""
        return _observe(self._graph, self._runs, observer, self._turns)


def turns_along(graph: DecoderGraph, runs: Sequence[Run], context: int) -> list[Tensor] | None:
    """For each of `SHIFTS` the matrix [D, D] float32 that a key at the start is multiplied with; None: they do not do.

    Measured by least squares on the shortest run that has `ENOUGH` keys.
    """
    size = graph.geometry.head_dim
    per_token = graph.layers * graph.geometry.kv_heads
    long = [run for run in runs if len(run[0].input_ids) * per_token >= ENOUGH * size]
    if not long:
        return None
    run = min(long, key=lambda one: len(one[0].input_ids))
    start = _observe(graph, [run], _Keys(), [None])
    base = torch.cat(start.rows)
    gram, eye = base.T @ base, torch.eye(size, dtype=torch.float64)
    ridge = RIDGE * gram.trace() / size
    tolerance = max(TOLERANCE, 4 * torch.finfo(start.dtype).eps)
    turns = []
    for part in SHIFTS:
        positions = round(part * context)
        moved = torch.cat(_observe(graph, [shifted(run, positions)], _Keys(), [None]).rows) if positions else base
        turn = torch.linalg.solve(gram + ridge * eye, base.T @ moved + ridge * eye)
        if (base @ turn - moved).norm() > tolerance * moved.norm():
            return None
        turns.append(turn.float())
    return turns


def _observe(graph: DecoderGraph, runs: Sequence[Run], observer: Seeing, turns: Sequence[Tensor | None]) -> Seeing:
    """Each run in one pass."""
    loop = _Turning(observer, turns)
    for stream, visual, deep in runs:
        ReferenceRun(graph, loop, visual, deep).step(stream, slice(0, len(stream.input_ids)))
    return observer
