"""A uniform sample of everything seen."""

from __future__ import annotations

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.policies.base import Policy

__all__ = ["Random"]

MASK = 0xFFFFFFFF


class Random(Policy):
    """Random eviction, the floor for every policy that claims to choose.

    Idea: each (token, KV head) has a fixed pseudo-random priority, and the lowest leave. The survivors are then a
    uniform sample of all tokens seen so far, old ones included (as in reservoir sampling), and heads keep different
    tokens.

    Score [B, Hkv, C]: a hash of position, head and `seed`, uniform in [0, 1).

    Parameters: `seed`.

    Caveats: no generator state, so that a run is reproducible whatever the chunking and the batch: the entries of a
    batch share their priorities. Drawing anew at every step would instead keep mostly recent tokens.
    """

    name = "random"
    seed = 0

    def score(self, statistics: RowStatistics) -> Tensor:
        position = statistics.position.to(torch.int64)
        heads = torch.arange(position.shape[1], device=position.device).view(1, -1, 1)
        x = _mix(position & MASK)
        x = _mix(x ^ _mix(heads + self.seed * 0x10001 + 1))
        return (x >> 8).float() / 2.0**24


def _mix(x: Tensor) -> Tensor:
    """A bijection of 32-bit numbers (held in int64) that leaves no visible order."""
    for _ in range(2):
        x = (((x >> 16) ^ x) * 0x45D9F3B) & MASK
    return (x >> 16) ^ x
