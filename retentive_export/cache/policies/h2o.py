"""Heavy hitters."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics, retention_score
from retentive_export.cache.policies.base import Policy

__all__ = ["H2O"]


class H2O(Policy):
    """H2O, heavy-hitter oracle, arXiv 2306.14048.

    Idea: a few tokens receive most of the attention and go on receiving it; keep those, and the recent ones.

    Score [B, Hkv, C]: the sum of the attention that a row received since it came (decay 1, gain 1), mean over the
    query heads of the group.

    Parameters: `window` of the geometry is the paper's budget for recent tokens (the paper: half the rows).

    Caveats: a sum favours old tokens, which had more queries to be seen by. The paper predates grouped queries: the
    mean over the group is the usual reading.
    """

    name = "h2o"

    def score(self, statistics: RowStatistics) -> Tensor:
        return retention_score(statistics, self.constants.lambda_)
