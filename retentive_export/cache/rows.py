"""Row storage: exact rows, int8 codes and packed int4 codes, read as float32 and written in place of other rows.

Coarse keys share one scale per channel (`key_scale` [Hkv, D], a constant of the model, from calibration); coarse values
have one scale per row (`value_scale` [B, Hkv, rows], part of the state). Codes are symmetric: int8 in [-127, 127];
int4 in [-7, 7], stored as code + 8, channel d in the low and channel d + D/2 in the high four bits of byte d.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "LEVELS",
    "LIMIT",
    "dequantize",
    "gather_rows",
    "pack_int4",
    "quantize",
    "sanitize",
    "saturate",
    "scatter_rows",
    "unpack_int4",
    "value_scale_of",
]

LIMIT = 1e9  # products of three sanitised numbers summed over any head size and run stay finite in float32
FLOAT16_MAX = 65504.0
LEVELS = {"int8": 127, "int4": 7}


def sanitize(x: Tensor) -> Tensor:
    """float32 copy of `x` in which NaN is 0 and magnitudes are at most 1e9, so that no later step can overflow."""
    x = x.float()
    return torch.where(torch.isnan(x), 0.0, x).clamp(-LIMIT, LIMIT)


def saturate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x, finite float32, as `dtype`: what float16 cannot hold becomes its largest number, not infinity."""
    return (x.clamp(-FLOAT16_MAX, FLOAT16_MAX) if dtype == torch.float16 else x).to(dtype)


def pack_int4(codes: Tensor) -> Tensor:
    """Codes in [-7, 7], [..., D] float32 -> [..., D/2] uint8."""
    half = codes.shape[-1] // 2
    shifted = (codes + 8).to(torch.int32)
    return (shifted[..., :half] + shifted[..., half:] * 16).to(torch.uint8)


def unpack_int4(packed: Tensor) -> Tensor:
    """[..., D/2] uint8 -> codes in [-8, 7], [..., D] float32."""
    whole = packed.float()
    high = torch.floor(whole / 16.0)
    return torch.cat([whole - 16.0 * high, high], dim=-1) - 8.0


def value_scale_of(values: Tensor, dtype: str) -> Tensor:
    """Scale per row of values [..., D] float32: the largest magnitude over the code range; [...] float32."""
    return values.abs().amax(dim=-1) / LEVELS[dtype]


def quantize(x: Tensor, scale: Tensor, dtype: str) -> Tensor:
    """x [..., D] float32, scale broadcastable to x -> codes (int8 [..., D] or uint8 [..., D/2]).

    A zero scale gives zero codes; values beyond the range saturate.
    """
    level = float(LEVELS[dtype])
    safe = torch.where(scale > 0, scale, 1.0)
    codes = torch.where(scale > 0, torch.round(x / safe), 0.0).clamp(-level, level)
    return pack_int4(codes) if dtype == "int4" else codes.to(torch.int8)


def dequantize(codes: Tensor, scale: Tensor) -> Tensor:
    """Inverse of `quantize`: codes int8 [..., D] or uint8 [..., D/2] -> [..., D] float32."""
    raw = unpack_int4(codes) if codes.dtype == torch.uint8 else codes.float()
    return raw * scale


def gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    """rows [B, H, R, ...], index [B, H or 1, T] int64 -> [B, H, T, ...] (trailing dims at most one)."""
    index = _for_heads(rows, index)
    if rows.dim() == 4:
        index = index.unsqueeze(-1).expand(-1, -1, -1, rows.shape[-1])
    return torch.gather(rows, 2, index)


def scatter_rows(rows: Tensor, index: Tensor, updates: Tensor) -> Tensor:
    """Copy of rows [B, H, R, ...] in which row index[t] is updates[t]; index [B, H or 1, T], none twice in a head."""
    index = _for_heads(rows, index)
    if rows.dim() == 4:
        index = index.unsqueeze(-1).expand(-1, -1, -1, rows.shape[-1])
    return torch.scatter(rows, 2, index, saturate(updates, rows.dtype))


def _for_heads(rows: Tensor, index: Tensor) -> Tensor:
    """The index for every head of `rows`, where it holds one for all."""
    return index if index.shape[1] == rows.shape[1] else index.expand(-1, rows.shape[1], -1)
