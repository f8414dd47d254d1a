"""Small keys stay."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.policies.base import Policy, local_keys

__all__ = ["KeyNorm"]


class KeyNorm(Policy):
    """K-norm, arXiv 2406.11430.

    Idea: in trained decoders a key with a small L2 norm tends to receive much attention, so the norm stands in for
    attention that was never computed.

    Score [B, Hkv, C]: minus the L2 norm of the key.

    Parameters: none.

    Caveats: an observation, not a law: the paper finds it absent in the first layers, and leaves those uncompressed.
    RoPE keeps norms, so it does not matter that keys are cached after it.
    """

    name = "key_norm"

    def score(self, statistics: RowStatistics) -> Tensor:
        return -local_keys(statistics).square().sum(dim=-1).sqrt()
