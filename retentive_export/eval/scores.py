"""Selections that only an evaluation has: they are scores like a policy's, and nothing that could be deployed."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.policies import policy
from retentive_export.cache.policies.base import Policy
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.layout import CELL_STRIDE
from retentive_export.spec.policies import POLICIES

__all__ = ["LayerScore", "Oracle", "PolicyScore", "Remembered", "Uniform", "selection"]

GOLDEN = 0.6180339887498949
PLASTIC = (0.7548776662466927, 0.5698402909980532)  # the two-dimensional golden ratio: an even lattice at any share
STAGGER = 0.3819660112501051


class LayerScore:
    """A score that may depend on the layer; the loop says which one is at work. See `cache.policies.base.Policy`."""

    layer: int = 0

    def __call__(self, statistics: RowStatistics) -> Tensor:
        """Scores [B, Hkv, C] float32 of the local rows: higher stays."""
        raise NotImplementedError


class PolicyScore(LayerScore):
    """A policy's own."""

    def __init__(self, chosen: Policy) -> None:
        self.chosen = chosen

    def __call__(self, statistics: RowStatistics) -> Tensor:
        """The policy's score."""
        return self.chosen.score(statistics)


class Uniform(LayerScore):
    """Even coverage: what stays is spread evenly over the frame and over the text, and heads keep different rows.

    A priority in [0, 1) by place: the fractional part of a golden-ratio lattice, over (y, x) for a visual row and over
    the position for a text row, shifted from head to head. The rows above any threshold are spread evenly.
    """

    def __call__(self, statistics: RowStatistics) -> Tensor:
        """The priority; it does not change as rows leave."""
        position, cell = statistics.position.double(), statistics.cell.double()
        y = torch.floor(cell / CELL_STRIDE)
        x = cell - CELL_STRIDE * y
        visual = y * PLASTIC[0] + x * PLASTIC[1]
        place = torch.where(cell >= 0, visual, position * GOLDEN)
        heads = torch.arange(position.shape[1], device=position.device, dtype=torch.float64).view(1, -1, 1)
        return torch.frac(place + STAGGER * (heads + self.layer * position.shape[1])).float()


class Remembered(LayerScore):
    """Scores given by layer and position: what a one-time compression decided over all rows at once.

    tables: per layer [B, Hkv, P] float32, indexed by position.
    """

    def __init__(self, tables: list[Tensor]) -> None:
        self.tables = tables

    def __call__(self, statistics: RowStatistics) -> Tensor:
        """The table's entries at the rows' positions."""
        table = self.tables[self.layer]
        index = statistics.position.clamp(0, table.shape[-1] - 1).to(torch.int64)
        return torch.gather(table, 2, index)


class Oracle(LayerScore):
    """The attention that a row will receive from now on, read off the full cache's run: a ceiling for selection.

    future: per layer [S, B, Hkv, P] float32: what each position receives from step s of the full run on.
    ends: [B, S] last position + 1 of each step of that run, ascending. peak: whether heads that must keep the same rows
    go by the largest of their values instead of the mean.
    """

    def __init__(self, future: list[Tensor], ends: Tensor, *, peak: bool = False) -> None:
        self.future, self.ends, self.peak = future, ends, peak

    def __call__(self, statistics: RowStatistics) -> Tensor:
        """The mass from the first step on that ends after the newest token."""
        future = self.future[self.layer]
        step = (self.ends <= statistics.end[:, None]).sum(dim=1)  # [B]
        step = step.clamp(max=future.shape[0] - 1)
        table = future[step, torch.arange(future.shape[1], device=future.device)]  # [B, Hkv, P]
        if statistics.position.shape[1] < table.shape[1]:
            table = table.amax(dim=1, keepdim=True) if self.peak else table.mean(dim=1, keepdim=True)
        index = statistics.position.clamp(0, table.shape[-1] - 1).to(torch.int64)
        return torch.gather(table, 2, index)


def selection(name: str, gate: GateConfig, oracles: Mapping[str, Oracle] | None = None) -> LayerScore:
    """The score called `name`: a policy's, with its constants on top of `gate`, or one of this module."""
    if name in POLICIES:
        return PolicyScore(policy(name, gate))
    if name.startswith("oracle"):
        assert oracles is not None
        return oracles[name]
    return Uniform()
