"""RetentiveAttention: T new tokens attend to the rows, the memory and, causally, to each other, in one softmax.

Besides the output it yields what the entropy gate needs: how much attention every row received and how much of the
visual entropy it carries. arXiv 2605.04075, section 3; the memory's mass enters as a log-bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache import latent, moments
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.rows import sanitize, saturate, unpack_int4
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["AttentionResult", "retentive_attention"]

MASKED = -1e30
LOGIT_LIMIT = 1e29
TINY = 1e-30


class AttentionResult(NamedTuple):
    """What one layer's attention yields.

    output: [B, Hq, T, D], the query's dtype.
    received: [B, H, R + T] float32, attention received by each row and new token: mean over the group's heads, sum
        over the queries with weights gain * decay ** (valid queries after this one). H is Hkv, or with latent rows 1:
        the mean over all heads.
    surprise: [B, H, R + T] float32, the same sum of -p log p, p = share of the attention to visual rows, over text
        queries.
    visual_entropy: [B, H] float32 in [0, 1], mean over text queries of the visual entropy over its maximum.
    """

    output: Tensor
    received: Tensor
    surprise: Tensor
    visual_entropy: Tensor


def retentive_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Mapping[str, Tensor],
    key_scale: Tensor | None,
    *,
    geometry: CacheGeometry,
    gate: GateConfig,
    scale: float,
    basis: LatentBasis | None = None,
) -> AttentionResult:
    """Attention over the state before this step and the new tokens.

    Args:
        query: [B, Hq, T, D]. key, value: [B, Hkv, T, D], the model's dtype, keys after RoPE.
        token_meta: [B, T, 2] int32, (position, cell): position < 0 marks padding, cell < 0 a text token, else
            y * 65536 + x on the frame's grid.
        state: the tensors of `geometry.state()`.
        key_scale: [Hkv, D] float32, only with coarse rows.
        scale: factor on q k^T. basis: only with latent rows.
    """
    batch, _, steps, dim = query.shape
    q = sanitize(query).reshape(batch, geometry.kv_heads, geometry.groups * steps, dim) * scale  # [B, Hkv, GT, D]
    k, v = (saturate(sanitize(x), x.dtype).float() for x in (key, value))  # as they will be stored
    latents = _latents(state, geometry)
    logits = _logits(q, k, token_meta, state, key_scale, latents, basis, geometry, gate)  # [B, Hkv, GT, R + T (+ 1)]
    probabilities = torch.softmax(logits, dim=-1)
    output = _weighted_values(probabilities, q, v, state, latents, basis, geometry)  # [B, Hkv, GT, D]
    columns = geometry.rows + steps
    statistics = _statistics(probabilities[..., :columns], token_meta, state["row_meta"], geometry, gate)
    received, surprise, visual_entropy, query_entropy = statistics
    if geometry.readout == "residual":
        memory = torch.matmul(q, state["recall_state"] + state["visual_state"])
        memory = memory * torch.rsqrt(memory.square().mean(dim=-1, keepdim=True) + 1e-6)
        if gate.readout.enabled:
            memory = memory * torch.sigmoid(gate.readout.weight * query_entropy + gate.readout.bias)
        output = output + memory
    output = saturate(output.reshape(batch, geometry.q_heads, steps, dim), query.dtype)
    return AttentionResult(output, received, surprise, visual_entropy)


def _logits(
    q: Tensor,
    k: Tensor,
    token_meta: Tensor,
    state: Mapping[str, Tensor],
    key_scale: Tensor | None,
    latents: Tensor | None,
    basis: LatentBasis | None,
    geometry: CacheGeometry,
    gate: GateConfig,
) -> Tensor:
    """Masked logits [B, Hkv, GT, R + T], and one more column for the moments' virtual row."""
    local: list[Tensor] = []
    memory: list[Tensor] = []
    if geometry.exact_store_rows:
        part = torch.matmul(q, state["key_rows"].float().transpose(-1, -2))
        local.append(part[..., : geometry.exact_rows])
        memory.append(part[..., geometry.exact_rows :])
    if geometry.coarse_store_rows:
        assert key_scale is not None
        codes = state["key_codes"]
        raw = unpack_int4(codes) if codes.dtype == torch.uint8 else codes.float()
        part = torch.matmul(q * key_scale[:, None, :], raw.transpose(-1, -2))
        local.append(part[..., : geometry.coarse_rows])
        memory.append(part[..., geometry.coarse_rows :])
    if latents is not None:
        assert basis is not None
        part = latent.logits(q, latents, basis)
        local.append(part[..., : geometry.latent_rows])
        memory.append(part[..., geometry.latent_rows :])
    rows = torch.cat([*local, *memory], dim=-1).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)  # [B, Hkv, GT, R]
    rows = rows + _row_bias(state, geometry, gate).unsqueeze(2)
    fresh = torch.matmul(q, k.transpose(-1, -2)).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)  # [B, Hkv, GT, T]
    fresh = fresh + _causal_bias(token_meta, geometry.groups)
    parts = [rows, fresh]
    if geometry.readout == "moments":
        parts.append(moments.logit(q, state).clamp(-LOGIT_LIMIT, LOGIT_LIMIT))
    return torch.cat(parts, dim=-1)


def _latents(state: Mapping[str, Tensor], geometry: CacheGeometry) -> Tensor | None:
    """Latents of the local rows, then of the memory's: [B, 1, Z (+ M), r] float32; None where there are none."""
    if not geometry.latent_rows:
        return None
    local = latent.latents_of(state["latent_codes"], geometry)
    return torch.cat([local, state["memory_latents"].float()], dim=2) if geometry.memory_rows else local


def _row_bias(state: Mapping[str, Tensor], geometry: CacheGeometry, gate: GateConfig) -> Tensor:
    """[B, H, R], H as in the result: 0 for a local row, log-mass + beta for a memory row, -1e30 for an empty row."""
    empty = state["row_meta"][..., 0] < 0
    if not geometry.memory_rows:
        return torch.where(empty, MASKED, 0.0)
    mass = state["memory_mass"]
    log_mass = torch.where(mass > 0, torch.log(mass.clamp(min=TINY)) + gate.beta, MASKED)
    bias = torch.cat([torch.zeros_like(empty[..., : geometry.local_rows], dtype=torch.float32), log_mass], dim=-1)
    return torch.where(empty, MASKED, bias)


def _causal_bias(token_meta: Tensor, groups: int) -> Tensor:
    """[B, 1, GT, T]: 0 where a query may see a new token, else -1e30; padding is seen by nobody."""
    steps = token_meta.shape[1]
    order = torch.arange(steps, device=token_meta.device)
    visible = (order[None, :] <= order[:, None]).unsqueeze(0) & (token_meta[..., 0] >= 0).unsqueeze(1)  # [B, T, T]
    bias = torch.where(visible, 0.0, MASKED)
    return bias.unsqueeze(1).expand(-1, groups, -1, -1).reshape(token_meta.shape[0], 1, groups * steps, steps)


def _weighted_values(
    probabilities: Tensor,
    q: Tensor,
    v: Tensor,
    state: Mapping[str, Tensor],
    latents: Tensor | None,
    basis: LatentBasis | None,
    geometry: CacheGeometry,
) -> Tensor:
    """Sum of values by probability, [B, Hkv, GT, D] float32."""
    x, y = geometry.exact_rows, geometry.exact_rows + geometry.coarse_rows
    c, r = geometry.local_rows, geometry.rows
    steps = v.shape[2]
    output = torch.matmul(probabilities[..., r : r + steps], v)
    memory = dict.fromkeys(("exact", "coarse", "latent"), (0, 0)) | {geometry.memory_store: (c, r)}
    if geometry.exact_store_rows:
        part = _columns(probabilities, (0, x), memory["exact"])
        output = output + torch.matmul(part, state["value_rows"].float())
    if geometry.coarse_store_rows:
        part = _columns(probabilities, (x, y), memory["coarse"])
        codes = state["value_codes"]
        raw = unpack_int4(codes) if codes.dtype == torch.uint8 else codes.float()
        output = output + torch.matmul(part * state["value_scale"].unsqueeze(2), raw)
    if latents is not None:
        assert basis is not None
        part = _columns(probabilities, (y, c), memory["latent"])
        output = output + latent.weighted_values(part, latents, basis)
    if geometry.readout == "moments":
        output = output + probabilities[..., -1:] * moments.value(q, state)
    return output


def _columns(x: Tensor, first: tuple[int, int], second: tuple[int, int]) -> Tensor:
    """x[..., first] and x[..., second], side by side."""
    parts = [x[..., start:stop] for start, stop in (first, second) if stop > start]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


def _statistics(
    probabilities: Tensor, token_meta: Tensor, row_meta: Tensor, geometry: CacheGeometry, gate: GateConfig
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """received, surprise [B, H, R + T], visual entropy [B, H] and per query [B, Hkv, GT, 1]."""
    valid = (token_meta[..., 0] >= 0).float()  # [B, T]
    text = valid * (token_meta[..., 1] < 0).float()
    later = valid.sum(dim=1, keepdim=True) - valid.cumsum(dim=1)  # valid queries after this one
    received = _over_queries(probabilities, valid * _power(gate.importance_decay, later), geometry.groups)

    fresh_cells = token_meta[..., 1].unsqueeze(1).expand(-1, geometry.row_heads, -1)
    fresh_positions = token_meta[..., 0].unsqueeze(1).expand(-1, geometry.row_heads, -1)
    cells = torch.cat([row_meta[..., 1], fresh_cells], dim=-1)
    positions = torch.cat([row_meta[..., 0], fresh_positions], dim=-1)
    visual = ((cells >= 0) & (positions >= 0)).float().unsqueeze(2)  # [B, H, 1, R + T]
    share = probabilities * visual
    share = share / share.sum(dim=-1, keepdim=True).clamp(min=TINY)
    terms = -share * torch.log(share.clamp(min=TINY))
    surprise = _over_queries(terms, text * _power(gate.entropy_decay, later), geometry.groups)

    seen = (
        (valid - text).cumsum(dim=1).unsqueeze(1).expand(-1, geometry.groups, -1)
    )  # new visual tokens a query may see
    seen = seen.reshape(seen.shape[0], 1, -1, 1) + visual[..., : geometry.rows].sum(dim=-1, keepdim=True)
    largest = torch.log(seen.clamp(min=2.0))  # [B, Hkv, GT, 1]
    query_entropy = terms.sum(dim=-1, keepdim=True) / largest  # [B, Hkv, GT, 1]
    count = text.sum(dim=1)[:, None, None].clamp(min=1.0)
    visual_entropy = (_over_queries(query_entropy, text, geometry.groups) / count).squeeze(-1)
    if geometry.row_heads < geometry.kv_heads:
        received, surprise, visual_entropy = (x.mean(dim=1, keepdim=True) for x in (received, surprise, visual_entropy))
    return received * gate.importance_gain, surprise * gate.entropy_gain, visual_entropy, query_entropy


def _power(base: float, exponent: Tensor) -> Tensor:
    return torch.pow(torch.full_like(exponent, base), exponent)


def _over_queries(x: Tensor, weights: Tensor, groups: int) -> Tensor:
    """Mean over the group's heads of the weighted sum over queries: [B, Hkv, GT, N], [B, T] -> [B, Hkv, N]."""
    batch, steps = weights.shape
    spread = (weights / groups).unsqueeze(1).expand(-1, groups, -1).reshape(batch, 1, 1, groups * steps)
    return torch.matmul(spread, x).squeeze(2)
