"""MomentKV's memory (arXiv 2606.01563): count, mean key, mean value and value-key covariance of what was evicted.

It is read as one more row of the same softmax, whose value depends linearly on the query: the closed-form first-order
approximation of the evicted tokens' attention output.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["absorb", "logit", "value"]


def logit(q: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Logit of the virtual row: q . mean key + log count; q [B, Hkv, N, D] already scaled -> [B, Hkv, N, 1]."""
    count = state["moment_count"].unsqueeze(2)  # [B, Hkv, 1, 1]
    mean = torch.matmul(q, state["moment_key"].unsqueeze(-1))
    return torch.where(count > 0, mean + torch.log(count.clamp(min=1e-30)), -1e30)


def value(q: Tensor, state: Mapping[str, Tensor]) -> Tensor:
    """Value of the virtual row: mean value + covariance q; q [B, Hkv, N, D] scaled -> [B, Hkv, N, D]."""
    shift = torch.matmul(q, state["moment_covariance"].transpose(-1, -2))
    return state["moment_value"].unsqueeze(2) + shift


def absorb(state: Mapping[str, Tensor], keys: Tensor, values: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """State after absorbing tokens: keys, values [B, Hkv, T, D] float32, weight [B, Hkv, T] (0 leaves a token out).

    The means and the covariance are merged exactly (the parallel form of Welford's update).
    """
    count = state["moment_count"]  # [B, Hkv, 1]
    added = weight.sum(dim=-1, keepdim=True)
    total = count + added
    share = weight / added.clamp(min=1e-30)
    key_mean = torch.matmul(share.unsqueeze(2), keys).squeeze(2)  # [B, Hkv, D]
    value_mean = torch.matmul(share.unsqueeze(2), values).squeeze(2)
    centred_keys, centred_values = keys - key_mean.unsqueeze(2), values - value_mean.unsqueeze(2)
    spread = torch.matmul((centred_values * weight.unsqueeze(-1)).transpose(-1, -2), centred_keys)  # [B, Hkv, Dv, Dk]
    ratio = added / total.clamp(min=1e-30)
    key_shift, value_shift = key_mean - state["moment_key"], value_mean - state["moment_value"]
    between = (count * ratio).unsqueeze(-1) * value_shift.unsqueeze(-1) * key_shift.unsqueeze(2)
    sums = state["moment_covariance"] * count.unsqueeze(-1) + spread + between
    return {
        "moment_count": total,
        "moment_key": state["moment_key"] + ratio * key_shift,
        "moment_value": state["moment_value"] + ratio * value_shift,
        "moment_covariance": sums / total.clamp(min=1e-30).unsqueeze(-1),
    }
