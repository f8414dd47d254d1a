"""Latent rows: r numbers per token for the keys and values of all heads of a layer, read without decoding them.

The basis is fitted offline (`export.latents`), on keys after RoPE. With x = [k_1 v_1 .. k_H v_H] a token's keys and
values,

    c = (x - mean) @ encode,  rounded to codes;     x' = c @ decode + mean

The scales of the codes are folded into encode and decode, so a latent is its codes: no scale is stored. Components
that matter less may have fewer bits (`latent_dtype` "mixed": 8, then 4, then 2), as in transform coding. Attention over
latents is that of DeepSeek-V2's MLA (arXiv 2405.04434): the query is absorbed into the basis once a step, after which
all heads read the same r numbers of a row.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache.rows import LEVELS, LIMIT, pack_int4, unpack_int4
from retentive_export.spec.geometry import CacheGeometry

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


def codes_of(latents: Tensor, geometry: CacheGeometry) -> Tensor:
    """Latents [..., r] float32 as they are stored: int8 [..., r], packed uint8 [..., r / 2], float32 for "model".

    "mixed": bytes [..., w] in which every part of `geometry.latent_parts` has its own; codes of b bits are packed 8 / b
    to a byte in two's complement, the first of them in the lowest bits. Those of two bits are -2, -1, 0, 1.
    """
    dtype = geometry.latent_dtype
    if dtype == "model":
        return latents
    if dtype == "mixed":
        parts = torch.split(latents, [count for _, count in geometry.latent_parts], dim=-1)
        packed = [_pack(part, bits) for part, (bits, _) in zip(parts, geometry.latent_parts, strict=True)]
        return torch.cat(packed, dim=-1).to(torch.int32).to(torch.uint8)
    level = float(LEVELS[dtype])
    codes = torch.round(latents).clamp(-level, level)
    return pack_int4(codes) if dtype == "int4" else codes.to(torch.int8)


def latents_of(codes: Tensor, geometry: CacheGeometry) -> Tensor:
    """Inverse of `codes_of`: float32 [..., r]."""
    if geometry.latent_dtype == "mixed":
        widths = [bits * count // 8 for bits, count in geometry.latent_parts]
        parts = torch.split(codes.float(), widths, dim=-1)
        return torch.cat(
            [_unpack(part, bits) for part, (bits, _) in zip(parts, geometry.latent_parts, strict=True)], dim=-1
        )
    return unpack_int4(codes) if codes.dtype == torch.uint8 else codes.float()


def _pack(latents: Tensor, bits: int) -> Tensor:
    """[..., n] -> bytes [..., n bits / 8] as float32."""
    base, levels = 2**bits, 2 ** (bits - 1)
    lowest = -2 if bits == 2 else 1 - levels
    codes = torch.round(latents).clamp(lowest, levels - 1)
    digits = torch.where(codes < 0, codes + base, codes).chunk(8 // bits, dim=-1)
    packed = digits[-1]
    for digit in reversed(digits[:-1]):
        packed = packed * base + digit
    return packed


def _unpack(packed: Tensor, bits: int) -> Tensor:
    """Inverse of `_pack`."""
    base, digits = 2**bits, []
    for _ in range(8 // bits - 1):
        rest = torch.floor(packed / base)
        digits.append(packed - rest * base)
        packed = rest
    codes = torch.cat([*digits, packed], dim=-1)
    return torch.where(codes >= base / 2, codes - base, codes)


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
