"""No eviction: the baseline that every other policy is measured against."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics, recency_score
from retentive_export.cache.policies.base import Policy

__all__ = ["Full"]


class Full(Policy):
    """The whole cache, in rows allotted once.

    Idea: as many rows as tokens; no score is ever needed.

    Score [B, Hkv, C]: the position, as for a sliding window.

    Parameters: none; the budget must hold the longest dialogue.

    Caveats: the step itself would slide the window when the rows run out; a session must refuse such tokens before
    (CapacityError).
    """

    name = "full"

    def score(self, statistics: RowStatistics) -> Tensor:
        return recency_score(statistics)
