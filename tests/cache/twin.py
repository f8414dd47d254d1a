"""A slow second implementation of attention, statistics and eviction: lists of tokens, float64, one query at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from cache_helpers import Tokens

from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry


@dataclass
class Row:
    position: int
    cell: int
    key: np.ndarray
    importance: float = 0.0
    entropy: float = 0.0


class Twin:
    """One KV head of one batch entry, exact rows only, no memory."""

    def __init__(self, geometry: CacheGeometry, gate: GateConfig) -> None:
        self.geometry, self.gate = geometry, gate
        self.rows: list[Row | None] = [None] * geometry.local_rows

    def step(self, queries: np.ndarray, tokens: list[Row]) -> None:
        """queries [T, G, D]; `tokens` are the T new ones."""
        for t in range(len(tokens)):
            self.observe(queries[t], [r for r in self.rows if r] + tokens[: t + 1], tokens[t].cell < 0)
        end = tokens[-1].position + 1
        shares = self.shares()
        order = sorted(range(len(self.rows)), key=lambda i: (*self.rank(i, end, shares), i))
        for victim, token in zip(order, tokens, strict=False):
            self.rows[victim] = token

    def observe(self, group: np.ndarray, visible: list[Row], text: bool) -> None:
        """One query's attention: decay everybody, add what each received."""
        for row in visible:
            row.importance *= self.gate.importance_decay
            row.entropy *= self.gate.entropy_decay
        for query in group:
            weights = np.array([query @ row.key / math.sqrt(len(query)) for row in visible])
            weights = np.exp(weights - weights.max())
            weights /= weights.sum()
            seen = sum(w for w, row in zip(weights, visible, strict=True) if row.cell >= 0)
            for w, row in zip(weights, visible, strict=True):
                row.importance += self.gate.importance_gain * w / len(group)
                if text and row.cell >= 0 and w > 0:
                    row.entropy += self.gate.entropy_gain * -(w / seen) * math.log(w / seen) / len(group)

    def shares(self) -> tuple[float, float]:
        held = [row for row in self.rows if row]
        return max(sum(r.importance for r in held), 1e-30), max(sum(r.entropy for r in held), 1e-30)

    def rank(self, index: int, end: int, shares: tuple[float, float]) -> tuple[int, float]:
        """(class, score): empty rows, then rows that may leave, then protected ones."""
        row = self.rows[index]
        if row is None:
            return 0, 0.0
        if row.position < self.geometry.sinks or row.position >= end - self.geometry.window:
            return 2, 0.0
        if self.gate.score == "recency":
            return 1, float(row.position)
        lam = self.gate.lambda_
        return 1, lam * row.importance / shares[0] + (1 - lam) * row.entropy / shares[1]


def simulate(
    geometry: CacheGeometry, gate: GateConfig, tokens: Tokens, chunks: list[int]
) -> tuple[list[list[Twin]], list[list[list[list[int]]]]]:
    """Twins [B][Hkv] after all steps, and a snapshot of the positions after each step."""
    groups = geometry.groups
    twins = [[Twin(geometry, gate) for _ in range(geometry.kv_heads)] for _ in range(geometry.batch)]
    history = []
    for start, stop in zip(np.cumsum([0, *chunks]), np.cumsum(chunks), strict=False):
        for b, line in enumerate(twins):
            for h, twin in enumerate(line):
                q = tokens.q[b, h * groups : (h + 1) * groups, start:stop].double().numpy().transpose(1, 0, 2)
                fresh = [
                    Row(int(tokens.meta[b, t, 0]), int(tokens.meta[b, t, 1]), tokens.k[b, h, t].double().numpy())
                    for t in range(start, stop)
                ]
                twin.step(q, fresh)
        history.append([[[r.position if r else -1 for r in twin.rows] for twin in line] for line in twins])
    return twins, history
