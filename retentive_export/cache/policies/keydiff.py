"""Distinct keys stay."""

from __future__ import annotations

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.policies.base import Policy, local_keys

__all__ = ["KeyDiff"]

TINY = 1e-12


class KeyDiff(Policy):
    """KeyDiff, arXiv 2504.15364.

    Idea: keys that point away from the others are the ones that attract attention; keep the most diverse set of keys
    without computing any attention.

    Score [B, Hkv, C]: minus the cosine of the key with the anchor, the mean of the cached keys' directions.

    Parameters: none.

    Caveats: keys are compared after RoPE, as in the paper, so distance in position counts as diversity. The anchor is
    taken over the occupied local rows only; new tokens join it once they are in.
    """

    name = "keydiff"

    def score(self, statistics: RowStatistics) -> Tensor:
        keys = local_keys(statistics)
        occupied = (statistics.position >= 0).float().unsqueeze(-1)
        direction = keys / keys.norm(dim=-1, keepdim=True).clamp(min=TINY) * occupied
        anchor = direction.sum(dim=2, keepdim=True)
        anchor = anchor / anchor.norm(dim=-1, keepdim=True).clamp(min=TINY)
        return -torch.matmul(direction, anchor.transpose(-1, -2)).squeeze(-1)
