"""StateTransition: new tokens take the victims' rows; victims are demoted to the next tier, or absorbed by the memory.

Tiers in the order of demotion: exact rows, coarse rows, latent rows, memory. Nothing is shifted or compacted: a step
writes T rows per tier and the memory, all in place on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache import latent, memory, moments
from retentive_export.cache.gate import GateDecision
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.rows import (
    dequantize,
    gather_rows,
    quantize,
    sanitize,
    saturate,
    scatter_rows,
    value_scale_of,
)
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["Tokens", "state_transition"]


class Tokens(NamedTuple):
    """T tokens on their way between tiers.

    content: key and value [B, Hkv, T, D] float32, or latents [B, 1, T, r]. meta: [B, H, T, 2] int32. importance,
    entropy: [B, H, T] float32. H is Hkv, or with latent rows 1.
    """

    content: tuple[Tensor, ...]
    meta: Tensor
    importance: Tensor
    entropy: Tensor

    @property
    def present(self) -> Tensor:
        """[B, H, T] bool: neither padding nor an empty row."""
        return self.meta[..., 0] >= 0


def state_transition(
    decision: GateDecision,
    key: Tensor,
    value: Tensor,
    token_meta: Tensor,
    state: Mapping[str, Tensor],
    key_scale: Tensor | None,
    *,
    geometry: CacheGeometry,
    basis: LatentBasis | None = None,
) -> dict[str, Tensor]:
    """The layer's state after the step, with the names, shapes and dtypes of `geometry.state()`.

    Args:
        decision: the gate's. key, value: [B, Hkv, T, D] of the new tokens. token_meta: [B, T, 2] int32, padding marked
            by a negative position: padding replaces nobody. key_scale: [Hkv, D] float32, only with coarse rows. basis:
            only with latent rows.
    """
    local = geometry.local_rows
    after = dict(state)
    after["importance"], after["entropy"] = decision.importance[..., :local], decision.entropy[..., :local]
    moving = Tokens(
        (sanitize(key), sanitize(value)),
        token_meta.unsqueeze(1).expand(-1, geometry.row_heads, -1, -1),
        decision.importance[..., local:],
        decision.entropy[..., local:],
    )
    writes: dict[str, _Writes] = {"exact": _Writes([], []), "coarse": _Writes([], []), "latent": _Writes([], [])}
    for tier, ((first, _), store) in enumerate(zip(geometry.tiers, geometry.tier_stores, strict=True)):
        index = decision.victims[:, :, tier]  # [B, H, T]
        if store == "latent":
            assert basis is not None
            moving = moving._replace(content=(latent.encode(moving.content[0], moving.content[1], basis),))
        leaving = _read(after, key_scale, index, (first, store), geometry)
        settled = _settle(moving, leaving)
        for name, rows in (
            ("row_meta", settled.meta),
            ("importance", settled.importance),
            ("entropy", settled.entropy),
        ):
            after[name] = scatter_rows(after[name], index, rows)
        writes[store].append(index - first, settled.content)
        gone = torch.where(moving.present, leaving.meta[..., 0], -1)  # behind padding nobody left
        moving = leaving._replace(meta=torch.stack([gone, leaving.meta[..., 1]], dim=-1))
    if geometry.readout == "mass":
        merged = memory.absorb(state, key_scale, moving.content, moving.meta, decision, geometry, basis)
        after["memory_mass"] = merged.mass
        after["row_meta"] = torch.cat([after["row_meta"][:, :, :local], merged.meta], dim=2)
        if geometry.memory_store == "latent":
            after["memory_latents"] = saturate(merged.content[0], state["memory_latents"].dtype)
        else:
            writes[geometry.memory_store].append(merged.rows, merged.content)
    elif geometry.readout == "residual":
        after |= memory.absorb_residual(state, moving.content[0], moving.content[1], moving.meta, decision)
    elif geometry.readout == "moments":
        weight = moving.present.float() * decision.absorption
        after |= moments.absorb(state, moving.content[0], moving.content[1], weight)
    after |= _write(state, key_scale, writes, geometry)
    return {spec.name: after[spec.name] for spec in geometry.state()}


class _Writes(NamedTuple):
    """What to write into one store: row numbers [B, H, n] and what goes there (`Tokens.content`), to be joined."""

    rows: list[Tensor]
    contents: list[tuple[Tensor, ...]]

    def append(self, rows: Tensor, content: tuple[Tensor, ...]) -> None:
        self.rows.append(rows)
        self.contents.append(content)

    def joined(self) -> tuple[Tensor, ...]:
        """Row numbers, then each part of the content."""
        return tuple(torch.cat(list(part), dim=2) for part in (self.rows, *zip(*self.contents, strict=True)))


def _read(
    state: Mapping[str, Tensor],
    key_scale: Tensor | None,
    index: Tensor,
    tier: tuple[int, str],
    geometry: CacheGeometry,
) -> Tokens:
    """The tokens in the rows `index` (of the layer's row index space) of a tier: its first row, and its store."""
    first, store = tier
    content: tuple[Tensor, ...]
    if store == "latent":
        content = (latent.latents_of(gather_rows(state["latent_codes"], index - first), geometry),)
    elif store == "coarse":
        assert key_scale is not None
        key = dequantize(gather_rows(state["key_codes"], index - first), key_scale[:, None, :])
        scale = gather_rows(state["value_scale"], index - first).unsqueeze(-1)
        content = (key, dequantize(gather_rows(state["value_codes"], index - first), scale))
    else:
        content = tuple(gather_rows(state[name], index - first).float() for name in ("key_rows", "value_rows"))
    statistics = (gather_rows(state[name], index) for name in ("importance", "entropy"))
    return Tokens(content, gather_rows(state["row_meta"], index), *statistics)


def _settle(moving: Tokens, leaving: Tokens) -> Tokens:
    """What stands in the victims' rows afterwards: the incoming tokens, or the old row where none came in."""
    present = moving.present
    row = present.unsqueeze(-1)
    return Tokens(
        tuple(torch.where(row, new, old) for new, old in zip(moving.content, leaving.content, strict=True)),
        torch.where(row, moving.meta, leaving.meta),
        torch.where(present, moving.importance, leaving.importance),
        torch.where(present, moving.entropy, leaving.entropy),
    )


def _write(
    state: Mapping[str, Tensor], key_scale: Tensor | None, writes: Mapping[str, _Writes], geometry: CacheGeometry
) -> dict[str, Tensor]:
    """Every store after one scatter each."""
    after: dict[str, Tensor] = {}
    if writes["exact"].rows:
        index, keys, values = writes["exact"].joined()
        after["key_rows"] = scatter_rows(state["key_rows"], index, keys)
        after["value_rows"] = scatter_rows(state["value_rows"], index, values)
    if writes["coarse"].rows:
        assert key_scale is not None
        index, keys, values = writes["coarse"].joined()
        dtype = geometry.coarse_dtype
        scale = value_scale_of(values, dtype)
        after["key_codes"] = scatter_rows(state["key_codes"], index, quantize(keys, key_scale[:, None, :], dtype))
        after["value_codes"] = scatter_rows(state["value_codes"], index, quantize(values, scale.unsqueeze(-1), dtype))
        after["value_scale"] = scatter_rows(state["value_scale"], index, scale)
    if writes["latent"].rows:
        index, latents = writes["latent"].joined()
        codes = latent.codes_of(latents, geometry)
        after["latent_codes"] = scatter_rows(state["latent_codes"], index, codes)
    return after
