"""Attention sinks and a sliding window."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics, recency_score
from retentive_export.cache.policies.base import Policy

__all__ = ["StreamingLLM"]


class StreamingLLM(Policy):
    """StreamingLLM, arXiv 2309.17453.

    Idea: the first tokens collect attention that has nowhere else to go; keep them, and slide a window over the rest.

    Score [B, Hkv, C]: the position, so the oldest row behind the sinks leaves.

    Parameters: `sinks` of the geometry (the paper: 4); the window is whatever the budget leaves.

    Caveats: the paper re-numbers positions inside the cache; here keys keep the RoPE of their true position, so the
    model sees distances beyond its training length once the dialogue is that long.
    """

    name = "streaming_llm"

    def score(self, statistics: RowStatistics) -> Tensor:
        return recency_score(statistics)
