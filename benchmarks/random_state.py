"""States as a long run leaves them, without the run: every row occupied, text and visual tokens mixed."""

from __future__ import annotations

import torch
from torch import Tensor

from retentive_export.cache.memory import anchors
from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import CELL_STRIDE

__all__ = ["KEY_PEAK", "fill", "key_scale", "random_state", "random_tokens"]

VISUAL_SHARE = 0.7
KEY_PEAK = 4.0
"""Largest magnitude of the random coarse keys and values; a standard normal's over a few thousand."""


def random_state(geometry: CacheGeometry, end: int, device: torch.device | str, seed: int = 0) -> dict[str, Tensor]:
    """One layer's state after `end` tokens."""
    state = {
        spec.name: torch.empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype], device=device) for spec in geometry.state()
    }
    fill(state, geometry, end, torch.Generator(device).manual_seed(seed))
    return state


def fill(state: dict[str, Tensor], geometry: CacheGeometry, end: int, generator: torch.Generator) -> None:
    """Fill a state's tensors in place."""
    level = 7 if geometry.coarse_dtype == "int4" else 127
    for name, tensor in state.items():
        if name in ("key_rows", "value_rows"):
            tensor.normal_(generator=generator)
        elif name in ("key_codes", "value_codes"):
            _fill_codes(tensor, generator)
        elif name == "value_scale":
            tensor.uniform_(0.5 * KEY_PEAK / level, KEY_PEAK / level, generator=generator)
        elif name == "memory_mass":
            tensor.uniform_(1.0, 20.0, generator=generator)
        elif name == "row_meta":
            _fill_meta(tensor, geometry, end, generator)
        elif name in ("importance", "entropy"):
            tensor.uniform_(0.0, 1e-3, generator=generator)
        else:
            tensor.normal_(std=0.1, generator=generator)


def _fill_codes(tensor: Tensor, generator: torch.Generator) -> None:
    if tensor.dtype == torch.int8:
        tensor.random_(-127, 128, generator=generator)
        return
    tensor.random_(1, 16, generator=generator)  # the low four bits: codes -7 .. 7, stored with 8 added
    tensor.add_(torch.empty_like(tensor).random_(1, 16, generator=generator).mul_(16))


def _fill_meta(meta: Tensor, geometry: CacheGeometry, end: int, generator: torch.Generator) -> None:
    """Sinks, the window and tokens spread over what lies between, in an order of each head's own."""
    device, local = meta.device, geometry.local_rows
    lead = (geometry.batch, geometry.kv_heads)
    between = local - geometry.sinks - geometry.window
    positions = torch.cat(
        [
            torch.arange(geometry.sinks, device=device),
            torch.linspace(geometry.sinks, end - geometry.window - 1, max(between, 0), device=device).long(),
            torch.arange(end - geometry.window, end, device=device),
        ]
    )
    order = torch.rand((*lead, local), generator=generator, device=device).argsort(dim=-1)
    meta[:, :, :local, 0] = positions[order].to(torch.int32)
    meta[:, :, :local, 1] = _cells((*lead, local), geometry, generator, device)
    if geometry.memory_rows:
        meta[:, :, local:, 0] = end - geometry.window - 1
        meta[:, :, local:, 1] = anchors(geometry, device)


def _cells(shape: tuple[int, ...], geometry: CacheGeometry, generator: torch.Generator, device: torch.device) -> Tensor:
    def whole(limit: int) -> Tensor:
        return torch.randint(0, limit, shape, generator=generator, device=device)

    visual = torch.rand(shape, generator=generator, device=device) < VISUAL_SHARE
    height, width = geometry.frame_grid
    return torch.where(visual, whole(height) * CELL_STRIDE + whole(width), -1).to(torch.int32)


def key_scale(geometry: CacheGeometry, device: torch.device | str) -> Tensor | None:
    """[Hkv, D] float32, with coarse rows."""
    if not geometry.coarse_rows:
        return None
    level = 7 if geometry.coarse_dtype == "int4" else 127
    return torch.full((geometry.kv_heads, geometry.head_dim), KEY_PEAK / level, device=device)


def random_tokens(
    geometry: CacheGeometry, steps: int, start: int, device: torch.device | str, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """query, key, value, token_meta of `steps` tokens from position `start` on."""
    generator = torch.Generator(device).manual_seed(seed)
    dtype = TORCH_DTYPES[geometry.dtype]

    def normal(heads: int) -> Tensor:
        shape = (geometry.batch, heads, steps, geometry.head_dim)
        return torch.randn(shape, generator=generator, device=device).to(dtype)

    positions = torch.arange(start, start + steps, device=device, dtype=torch.int32).expand(geometry.batch, -1)
    cells = _cells((geometry.batch, steps), geometry, generator, torch.device(device))
    meta = torch.stack([positions, cells], dim=-1)
    return normal(geometry.q_heads), normal(geometry.kv_heads), normal(geometry.kv_heads), meta
