"""Token omission via attention."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics, retention_score
from retentive_export.cache.policies.base import Policy

__all__ = ["TOVA"]


class TOVA(Policy):
    """TOVA, token omission via attention, arXiv 2401.06104.

    Idea: a decoder is a multi-state RNN; drop the state that the newest query attends to least.

    Score [B, Hkv, C]: the attention of the newest query to a row (decay 0, gain 1), mean over the query heads of the
    group.

    Parameters: none; the paper protects neither sinks nor a window, which the geometry asks for here (`sinks` 0 and
    `window` = `chunk` come closest).

    Caveats: the paper averages over all heads of a layer, so that heads keep the same tokens; here each KV head keeps
    its own. In a chunk only its last query counts.
    """

    name = "tova"

    def score(self, statistics: RowStatistics) -> Tensor:
        return retention_score(statistics, self.constants.lambda_)
