"""Latent rows: r numbers per token for the keys and values of all heads of a layer, read without decoding them.

The basis is fitted offline (`export.latents`), on keys after RoPE. With x = [k_1 v_1 .. k_H v_H] a token's keys and
values,

    c = (x - mean) @ encode,  rounded to codes;     x' = c @ decode + mean

The scales of the codes are folded into encode and decode, so a latent is its codes: no scale is stored. Attention over
latents is that of DeepSeek-V2's MLA (arXiv 2405.04434): the query is absorbed into the basis once a step, after which
all heads read the same r numbers of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache.rows import LEVELS, LIMIT, pack_int4, unpack_int4

__all__ = ["LatentBasis", "codes_of", "decode", "encode", "latents_of", "logits", "weighted_values"]


class LatentBasis(NamedTuple):
    """Constants of one layer: encode, decode [Hkv, 2D, r], mean [Hkv, 2D]; per head D numbers of the key, then D of
    the value. Their dtype is the model's; the maths is float32."""

    encode: Tensor
    decode: Tensor
    mean: Tensor


def encode(key: Tensor, value: Tensor, basis: LatentBasis) -> Tensor:
    """key, value [B, Hkv, N, D] float32, finite -> latents [B, 1, N, r] float32, not rounded."""
    both = torch.cat([key, value], dim=-1) - basis.mean.float().unsqueeze(1)
    return torch.matmul(both, basis.encode.float()).sum(dim=1, keepdim=True).clamp(-LIMIT, LIMIT)


def decode(latents: Tensor, basis: LatentBasis) -> tuple[Tensor, Tensor]:
    """latents [B, 1, N, r] float32 -> key, value [B, Hkv, N, D] float32."""
    both = torch.matmul(latents, basis.decode.float().transpose(-1, -2)) + basis.mean.float().unsqueeze(1)
    size = both.shape[-1] // 2
    return both[..., :size], both[..., size:]


def codes_of(latents: Tensor, dtype: str) -> Tensor:
    """Latents [..., r] float32 as they are stored: int8 [..., r], packed uint8 [..., r / 2], or float32 for "model"."""
    if dtype == "model":
        return latents
    level = float(LEVELS[dtype])
    codes = torch.round(latents).clamp(-level, level)
    return pack_int4(codes) if dtype == "int4" else codes.to(torch.int8)


def latents_of(codes: Tensor) -> Tensor:
    """Inverse of `codes_of`: float32 [..., r]."""
    return unpack_int4(codes) if codes.dtype == torch.uint8 else codes.float()


def logits(q: Tensor, latents: Tensor, basis: LatentBasis) -> Tensor:
    """q . k' of every head with every row: q [B, Hkv, N, D], latents [B, 1, R, r] -> [B, Hkv, N, R]."""
    batch, heads, count, size = q.shape
    absorbed = torch.matmul(q, basis.decode[:, :size].float())  # [B, Hkv, N, r]
    flat = absorbed.reshape(batch, 1, heads * count, -1)
    part = torch.matmul(flat, latents.transpose(-1, -2)).reshape(batch, heads, count, -1)
    return part + torch.matmul(q, basis.mean[:, :size].float().unsqueeze(-1))


def weighted_values(probabilities: Tensor, latents: Tensor, basis: LatentBasis) -> Tensor:
    """Sum of v' by probability: [B, Hkv, N, R], latents [B, 1, R, r] -> [B, Hkv, N, D]."""
    batch, heads, count, rows = probabilities.shape
    size = basis.mean.shape[-1] // 2
    mixed = torch.matmul(probabilities.reshape(batch, 1, heads * count, rows), latents)
    mixed = mixed.reshape(batch, heads, count, -1)
    values = torch.matmul(mixed, basis.decode[:, size:].float().transpose(-1, -2))
    return values + probabilities.sum(dim=-1, keepdim=True) * basis.mean[:, size:].float().unsqueeze(1)
