"""EntropyGate: update the statistics, score the rows, choose who leaves.

Retention score of arXiv 2605.04075: R_i = lambda * alpha_i + (1 - lambda) * H_i, both normalised over the local rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache.attention import TINY, AttentionResult
from retentive_export.cache.rows import gather_rows
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import CELL_STRIDE

__all__ = [
    "GateDecision",
    "RowStatistics",
    "coverage_score",
    "entropy_gate",
    "lowest",
    "recency_score",
    "retention_score",
]

ONE = 65536
GOLDEN = 40503  # golden ratio - 1, in units of 1 / ONE
PLASTIC = (49472, 37345)  # the two-dimensional golden ratio's lattice: 1 / p and 1 / p^2, p^3 = p + 1
STAGGER = 25033
PROTECTED = 1e30
EMPTY = -1e30


class GateDecision(NamedTuple):
    """What the gate decides.

    victims: [B, H, L, T] int64, per local tier the row that each new token replaces, in the layer's row index space:
        of the T worst rows the real tokens take the worst ones, worst first, and padding is given the others.
    importance, entropy: [B, H, C + T] float32, updated statistics of the local rows and of the new tokens; zeros
        where the geometry does not track them.
    absorption: [B, H, T] float32, a_i of the last tier's victims. retention: [B, H] float32, h.

    H is Hkv, or with latent rows 1 (`CacheGeometry.row_heads`).
    """

    victims: Tensor
    importance: Tensor
    entropy: Tensor
    absorption: Tensor
    retention: Tensor


@dataclass(frozen=True, kw_only=True)
class RowStatistics:
    """What a policy may base its score on; all over the C local rows.

    importance, entropy: [B, Hkv, C] float32. position, cell: [B, Hkv, C] int32 (-1: empty, text). end: [B] int32,
    position after the newest token. state: the layer's tensors before this step. key_scale: as in
    `retentive_attention`.
    """

    importance: Tensor
    entropy: Tensor
    position: Tensor
    cell: Tensor
    end: Tensor
    state: Mapping[str, Tensor]
    key_scale: Tensor | None
    geometry: CacheGeometry


def entropy_gate(
    attention: AttentionResult,
    token_meta: Tensor,
    state: Mapping[str, Tensor],
    key_scale: Tensor | None,
    *,
    geometry: CacheGeometry,
    gate: GateConfig,
    score: Callable[[RowStatistics], Tensor] | None = None,
) -> GateDecision:
    """Choose T victims in every local tier.

    Args:
        attention: the step's statistics. token_meta: [B, T, 2] int32. state: before the step.
        score: rows with a higher score stay; the default is `gate.score`.
    """
    local, rows = geometry.local_rows, geometry.rows
    valid = token_meta[..., 0] >= 0
    count = valid.sum(dim=1).float()[:, None, None]  # [B, 1, 1]
    steps = token_meta.shape[1]
    importance = _update(state.get("importance"), attention.received, gate.importance_decay, count, local, rows, steps)
    entropy = _update(state.get("entropy"), attention.surprise, gate.entropy_decay, count, local, rows, steps)
    meta = state["row_meta"][:, :, :local]
    statistics = RowStatistics(
        importance=importance[..., :local],
        entropy=entropy[..., :local],
        position=meta[..., 0],
        cell=meta[..., 1],
        end=token_meta[..., 0].amax(dim=1) + 1,
        state=state,
        key_scale=key_scale,
        geometry=geometry,
    )
    scores = (score or _default_score(gate))(statistics)
    order = _protect(scores, statistics)
    victims = torch.stack([lowest(order[..., a : a + n], steps) + a for a, n in geometry.tiers], dim=2)
    victims = torch.gather(victims, 3, _turn(valid)[:, None, None, :].expand_as(victims))
    alpha = _share(statistics.importance, statistics.position) * (statistics.position >= 0).float().sum(
        -1, keepdim=True
    )
    absorption = _sigmoid(gate.absorption, gather_rows(alpha, victims[:, :, -1]))
    return GateDecision(victims, importance, entropy, absorption, _sigmoid(gate.retention, attention.visual_entropy))


def _default_score(gate: GateConfig) -> Callable[[RowStatistics], Tensor]:
    if gate.score != "retention":
        return recency_score if gate.score == "recency" else coverage_score
    return lambda statistics: retention_score(statistics, gate.lambda_)


def recency_score(statistics: RowStatistics) -> Tensor:
    """The position [B, Hkv, C], counted from the newest token so that float32 stays exact however long the run."""
    return (statistics.position - statistics.end[:, None, None]).float()


def coverage_score(statistics: RowStatistics) -> Tensor:
    """A fixed priority [B, Hkv, C] in [0, 1) by cell, or for text by position: those above any threshold lie evenly.

    Lattices of fractional parts in 16-bit integers: exact at any position, on every device.
    """
    position, cell = (x.to(torch.int64).clamp(min=0) for x in (statistics.position, statistics.cell))
    y = torch.div(cell, CELL_STRIDE, rounding_mode="floor")
    visual = y * PLASTIC[0] + torch.remainder(cell, CELL_STRIDE) * PLASTIC[1]
    place = torch.where(statistics.cell >= 0, visual, torch.remainder(position, ONE) * GOLDEN)
    heads = torch.arange(position.shape[1], device=position.device).view(1, -1, 1)
    return torch.remainder(place + heads * STAGGER, ONE).float() / ONE


def retention_score(statistics: RowStatistics, lambda_: float) -> Tensor:
    """R = lambda * alpha + (1 - lambda) * H over the occupied local rows, [B, Hkv, C]; the paper's equation."""
    alpha = _share(statistics.importance, statistics.position)
    if lambda_ == 1.0:
        return alpha
    surprise = _share(statistics.entropy, statistics.position)
    return lambda_ * alpha + (1.0 - lambda_) * surprise


def _share(x: Tensor, position: Tensor) -> Tensor:
    """x over its sum over the occupied rows; zeros where there is nothing to share."""
    x = torch.where(position >= 0, x, 0.0)
    return x / x.sum(dim=-1, keepdim=True).clamp(min=TINY)


def _update(
    old: Tensor | None, fresh: Tensor, decay: float, count: Tensor, local: int, rows: int, steps: int
) -> Tensor:
    """Decay the local rows' statistic by the number of new tokens and add the fresh part: [B, Hkv, C + T]."""
    if old is None:
        # Not from fresh's own shape: a traced graph would compute what nobody reads.
        return torch.zeros((*fresh.shape[:2], local + steps), dtype=torch.float32, device=fresh.device)
    kept = old * torch.pow(torch.full_like(count, decay), count) + fresh[..., :local]
    return torch.cat([kept, fresh[..., rows:]], dim=-1)


def _turn(valid: Tensor) -> Tensor:
    """[B, T] bool -> [B, T] int64: real tokens take the places 0, 1, ... in turn, padding the ones behind."""
    real = valid.to(torch.int64)
    return torch.where(valid, real.cumsum(dim=1), real.sum(dim=1, keepdim=True) + (1 - real).cumsum(dim=1)) - 1


def _protect(scores: Tensor, statistics: RowStatistics) -> Tensor:
    """Ascending order of leaving: empty rows first, sinks and the recent window last."""
    position = statistics.position
    newest = statistics.end[:, None, None] - statistics.geometry.window
    protected = (position < statistics.geometry.sinks) | (position >= newest)
    finite = torch.where(torch.isnan(scores), 0.0, scores).clamp(-1e29, 1e29)
    return torch.where(position < 0, EMPTY, torch.where(protected, PROTECTED, finite))


def lowest(order: Tensor, count: int) -> Tensor:
    """Indices of the `count` smallest entries along the last dim, smallest first; the lower index wins a tie.

    torch.topk leaves ties open, ONNX TopK does not: the traced graph uses TopK, eager mode a stable sort.
    """
    if torch.compiler.is_exporting():
        return torch.topk(order, count, dim=-1, largest=False, sorted=True).indices
    return torch.sort(order, dim=-1, stable=True).indices[..., :count]


def _sigmoid(gate: SigmoidGate, x: Tensor) -> Tensor:
    return torch.sigmoid(gate.weight * x + gate.bias) if gate.enabled else torch.ones_like(x)
