"""The memory that evicted tokens enter: merged rows with mass, or the paper's matrix states.

`absorb` is a selective state-space update written with its normaliser: n' = h n + sum a_i, k' = k + sum a_i (k_i - k)
/ n'. `absorb_residual` is the form of arXiv 2605.04075: S = h S + a_i k_i^T v_i, visual tokens in row and column scan
order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache import latent
from retentive_export.cache.gate import GateDecision
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.rows import dequantize
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import CELL_STRIDE

__all__ = ["MergedMemory", "absorb", "absorb_residual", "memory_rows", "route"]

TINY = 1e-30


class MergedMemory(NamedTuple):
    """Memory after absorption: rows [B, H, M] int64 of its store; content: key and value [B, Hkv, M, D] float32, or
    latents [B, 1, M, r]; mass [B, H, M] float32; meta [B, H, M, 2] int32. H is Hkv, or with latents 1."""

    rows: Tensor
    content: tuple[Tensor, ...]
    mass: Tensor
    meta: Tensor


def absorb(
    state: Mapping[str, Tensor],
    key_scale: Tensor | None,
    content: tuple[Tensor, ...],
    meta: Tensor,
    decision: GateDecision,
    geometry: CacheGeometry,
    basis: LatentBasis | None = None,
) -> MergedMemory:
    """Merge T tokens into M rows.

    content: key and value [B, Hkv, T, D] float32, or latents [B, 1, T, r]. meta: [B, H, T, 2] int32, position < 0
    where there is none. basis: with latents.
    """
    old = (state["memory_latents"].float(),) if basis else memory_rows(state, key_scale, geometry)
    old_mass = state["memory_mass"]
    old_meta = state["row_meta"][:, :, geometry.local_rows :]
    occupied = (old_meta[..., 0] >= 0) & (old_mass > 0)
    target, taken = route(_routed_keys(content, basis), meta, _routed_keys(old, basis), occupied, geometry)
    slots = torch.arange(geometry.memory_rows, device=meta.device)
    hit = (target.unsqueeze(-1) == slots) & taken.unsqueeze(-1)  # [B, H, T, M]
    weight = hit.float() * decision.absorption.unsqueeze(-1)
    added = weight.sum(dim=2)  # [B, H, M]
    kept = torch.where(occupied, old_mass, 0.0) * decision.retention.unsqueeze(-1)
    touched = added > 0
    mass = torch.where(touched, kept + added, old_mass)
    mix = weight.transpose(-1, -2)  # [B, H, M, T]
    total = (kept + added).clamp(min=TINY).unsqueeze(-1)
    merged = tuple(
        torch.where(touched.unsqueeze(-1), (had * kept.unsqueeze(-1) + torch.matmul(mix, new)) / total, had)
        for had, new in zip(old, content, strict=True)
    )
    newest = torch.where(hit, meta[..., 0].unsqueeze(-1), -1).amax(dim=2)  # [B, H, M]
    position = torch.where(touched, torch.maximum(newest, old_meta[..., 0]), old_meta[..., 0])
    cell = torch.where(touched, anchors(geometry, meta.device), old_meta[..., 1])
    offset = {"exact": geometry.exact_rows, "coarse": geometry.coarse_rows, "latent": 0}[geometry.memory_store]
    rows = (slots + offset).expand(*old_mass.shape)
    return MergedMemory(rows, merged, mass, torch.stack([position, cell], dim=-1).to(torch.int32))


def _routed_keys(content: tuple[Tensor, ...], basis: LatentBasis | None) -> Tensor:
    """The keys by which text finds its row: [B, Hkv, N, D], or of all heads side by side [B, 1, N, Hkv * D]."""
    if basis is None:
        return content[0]
    keys, _ = latent.decode(content[0], basis)
    return keys.transpose(1, 2).flatten(2).unsqueeze(1)


def memory_rows(
    state: Mapping[str, Tensor], key_scale: Tensor | None, geometry: CacheGeometry
) -> tuple[Tensor, Tensor]:
    """Keys and values of the memory rows in the exact or the coarse store, [B, Hkv, M, D] float32."""
    if geometry.memory_store == "exact":
        first = geometry.exact_rows
        return state["key_rows"][:, :, first:].float(), state["value_rows"][:, :, first:].float()
    assert key_scale is not None
    first = geometry.coarse_rows
    scale = state["value_scale"][:, :, first:].unsqueeze(-1)
    return (
        dequantize(state["key_codes"][:, :, first:], key_scale[:, None, :]),
        dequantize(state["value_codes"][:, :, first:], scale),
    )


def anchors(geometry: CacheGeometry, device: torch.device) -> Tensor:
    """Cell of every memory row's anchor, [M] int32: the middle of its patch of the frame's grid; -1 for recall rows."""
    (anchor_rows, anchor_columns), (height, width) = geometry.memory_grid, geometry.frame_grid
    cells = [
        ((2 * i + 1) * height // (2 * anchor_rows)) * CELL_STRIDE + (2 * j + 1) * width // (2 * anchor_columns)
        for i in range(anchor_rows)
        for j in range(anchor_columns)
    ]
    return torch.tensor(cells + [-1] * geometry.recall_rows, dtype=torch.int32, device=device)


def route(
    keys: Tensor, meta: Tensor, old_keys: Tensor, occupied: Tensor, geometry: CacheGeometry
) -> tuple[Tensor, Tensor]:
    """Memory row of each token: [B, Hkv, T] int64, and whether it is taken in: [B, Hkv, T] bool.

    Visual tokens go to the root patch nearest in Manhattan distance, which on a regular grid of anchors is the patch
    that contains the cell's middle. Text tokens, and visual ones where there is no visual memory, go to the first
    unused recall row, in turn, and once all are used to the one whose key was nearest before the step. With no such
    row a token is dropped.
    """
    present = meta[..., 0] >= 0
    visual = present & (meta[..., 1] >= 0)
    target = torch.zeros_like(meta[..., 0], dtype=torch.int64)
    taken = torch.zeros_like(present)
    if geometry.visual_rows:
        (anchor_rows, anchor_columns), (height, width) = geometry.memory_grid, geometry.frame_grid
        cell = meta[..., 1].clamp(min=0).to(torch.int64)
        row = _patch(torch.div(cell, CELL_STRIDE, rounding_mode="floor"), anchor_rows, height)
        patch = row * anchor_columns + _patch(torch.remainder(cell, CELL_STRIDE), anchor_columns, width)
        target = torch.where(visual, patch, target)
        taken = taken | visual
    if geometry.recall_rows:
        recalled = present & ~visual if geometry.visual_rows else present
        slot = _recall_slot(keys, recalled, old_keys, occupied, geometry)
        target = torch.where(recalled, slot + geometry.visual_rows, target)
        taken = taken | recalled
    return target, taken


def _patch(place: Tensor, patches: int, size: int) -> Tensor:
    """Which of `patches` equal parts of 0 .. size holds the middle of cell `place`: (place + 1/2) * patches / size."""
    return torch.div((2 * place + 1) * patches, 2 * size, rounding_mode="floor").clamp(max=patches - 1)


def _recall_slot(keys: Tensor, recalled: Tensor, old_keys: Tensor, occupied: Tensor, geometry: CacheGeometry) -> Tensor:
    """Recall row of each token, [B, Hkv, T] int64 in 0 .. recall_rows-1."""
    used = occupied[..., geometry.visual_rows :]
    rows = old_keys[:, :, geometry.visual_rows :]
    distance = rows.square().sum(dim=-1).unsqueeze(2) - 2.0 * torch.matmul(keys, rows.transpose(-1, -2))
    distance = torch.where(used.unsqueeze(2), distance, 1e30)
    nearest = distance.argmin(dim=-1)
    filled = used.to(torch.int64).sum(dim=-1, keepdim=True)
    turn = filled + recalled.to(torch.int64).cumsum(dim=-1) - 1
    return torch.where(turn < geometry.recall_rows, turn, nearest).clamp(0, geometry.recall_rows - 1)


def absorb_residual(
    state: Mapping[str, Tensor], keys: Tensor, values: Tensor, meta: Tensor, decision: GateDecision
) -> dict[str, Tensor]:
    """The paper's matrix states after T tokens; recall_state scans text in order of position, visual_state scans visual
    tokens in row order and in column order and takes the mean of both. The i-th of n tokens weighs h^(n-1-i) a_i."""
    present = meta[..., 0] >= 0
    visual = present & (meta[..., 1] >= 0)
    cell = meta[..., 1].to(torch.int64)
    by_row = cell
    by_column = torch.remainder(cell, CELL_STRIDE) * CELL_STRIDE + torch.div(cell, CELL_STRIDE, rounding_mode="floor")
    h = decision.retention.unsqueeze(-1)  # [B, Hkv, 1]
    text_weight = _scan(meta[..., 0].to(torch.int64), present & ~visual, h)
    visual_weight = 0.5 * (_scan(by_row, visual, h) + _scan(by_column, visual, h))

    def updated(name: str, weight: Tensor, chosen: Tensor) -> Tensor:
        kept = torch.pow(h, chosen.float().sum(dim=-1, keepdim=True)).unsqueeze(-1)
        weighted = keys * (weight * decision.absorption).unsqueeze(-1)
        return state[name] * kept + torch.matmul(weighted.transpose(-1, -2), values)

    return {
        "recall_state": updated("recall_state", text_weight, present & ~visual),
        "visual_state": updated("visual_state", visual_weight, visual),
    }


def _scan(order: Tensor, chosen: Tensor, h: Tensor) -> Tensor:
    """Weight h^(number of chosen tokens after this one in `order`, ties by index) of the chosen ones, else 0."""
    steps = torch.arange(order.shape[-1], device=order.device)
    mine, other = order.unsqueeze(-1), order.unsqueeze(-2)
    after = (other > mine) | ((other == mine) & (steps[None, :] > steps[:, None]))
    later = (after & chosen.unsqueeze(-2)).float().sum(dim=-1)
    return torch.pow(h.expand_as(later), later) * chosen.float()
