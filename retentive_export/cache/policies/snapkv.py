"""Attention of a recent observation window, pooled over neighbours."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.policies.base import Policy
from retentive_export.cache.rows import gather_rows

__all__ = ["SnapKV"]


class SnapKV(Policy):
    """SnapKV, arXiv 2404.14469.

    Idea: what the last queries of a prompt attend to is what the answer will attend to; smooth their attention over
    neighbouring positions, so that the tokens around a hit stay with it.

    Score [B, Hkv, C]: attention received with weights `(1 - 1/w)^age / w` (mean age w - 1: an observation window of
    about w queries), then the largest value within `kernel` rows in the order of positions.

    Parameters: w = SNAPKV_OBSERVATION (32); `kernel`, an odd number of rows.

    Caveats: the paper selects once, after prefill, from the prompt's last queries. Under a fixed budget rows leave at
    every step, before those queries exist, so the hard window becomes an exponential one. Rows are scattered: they
    are sorted by position, pooled and put back; a gap left by evicted tokens does not count as distance.
    """

    name = "snapkv"
    kernel = 7

    def score(self, statistics: RowStatistics) -> Tensor:
        position = statistics.position
        importance = torch.where(position >= 0, statistics.importance, 0.0)
        order = torch.argsort(position, dim=-1)  # [B, Hkv, C]; empty rows come first, and all alike
        ordered = gather_rows(importance, order)
        pooled = functional.max_pool1d(ordered, self.kernel, stride=1, padding=self.kernel // 2)
        return gather_rows(pooled, torch.argsort(order, dim=-1))
