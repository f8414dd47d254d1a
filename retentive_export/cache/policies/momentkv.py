"""Tokens that the moments of the evicted ones already describe leave first."""

from __future__ import annotations

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.policies.base import Policy, local_keys, local_values

__all__ = ["MomentKV"]


class MomentKV(Policy):
    """MomentKV, arXiv 2606.01563.

    Idea: what hurts is not the attention mass on evicted tokens but its direction, nearly orthogonal to what stays.
    Keep count, mean key, mean value and value-key covariance of the evicted tokens; evict those whose value these
    moments predict; read the moments as one more row of the softmax (`readout: moments`, `cache/moments.py`).

    Score [B, Hkv, C]: `alpha_j * |r_j|` with the residual `r_j = v_j - mean_v - Cov_vk k_j / sqrt(D)`, alpha = decayed
    attention received. Before anything is evicted it is `alpha_j * |v_j|`.

    Parameters: decay and gain of the gate's importance.

    Caveats: the paper takes alpha from SnapKV's observation window, merges tokens in blocks of four and allots
    budgets per head; here alpha is the gate's decayed mean and the budget is one for all heads. Its `1/sqrt(D)` is
    used even where a model scales its logits otherwise.
    """

    name = "momentkv"

    def score(self, statistics: RowStatistics) -> Tensor:
        state = statistics.state
        keys, values = local_keys(statistics), local_values(statistics)
        scaled = keys * statistics.geometry.head_dim**-0.5
        predicted = state["moment_value"].unsqueeze(2) + torch.matmul(
            scaled, state["moment_covariance"].transpose(-1, -2)
        )
        return statistics.importance * (values - predicted).square().sum(dim=-1).sqrt()
