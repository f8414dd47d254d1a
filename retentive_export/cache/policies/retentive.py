"""The entropy gate of RetentiveKV."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics, retention_score
from retentive_export.cache.policies.base import Policy

__all__ = ["Retentive"]


class Retentive(Policy):
    """RetentiveKV, arXiv 2605.04075.

    Idea: a visual token that gets little attention now may still matter to a later question; the entropy of the
    attention over the visual tokens says how undecided the model is, so a token's share of that entropy counts beside
    the attention that it received.

    Score [B, Hkv, C]: `lambda * alpha + (1 - lambda) * H`, alpha = decayed attention received and H = decayed sum of
    `-p log p` over text queries (p = share of the attention to visual rows), each as a share of its sum over the
    occupied rows.

    Parameters: `lambda_`, the decays and the gains of the gate.

    Caveats: the paper gives no value of lambda and no decay; the defaults are ours. For text rows H is 0, so lambda
    also sets the balance between the modalities.
    """

    name = "retentive"

    def score(self, statistics: RowStatistics) -> Tensor:
        return retention_score(statistics, self.constants.lambda_)
