"""StateTransition: new tokens take the victims' rows; victims are demoted to the next tier, or absorbed by the memory.

Tiers in the order of demotion: exact rows, coarse rows, memory. Nothing is shifted or compacted: a step writes T rows
per tier and the memory, all in place on a device.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from retentive_export.cache import memory, moments
from retentive_export.cache.gate import GateDecision
from retentive_export.cache.rows import dequantize, gather_rows, quantize, sanitize, scatter_rows, value_scale_of
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["Tokens", "state_transition"]


class Tokens(NamedTuple):
    """T tokens on their way between tiers.

    key, value: [B, Hkv, T, D] float32. meta: [B, Hkv, T, 2] int32. importance, entropy: [B, Hkv, T] float32.
    """

    key: Tensor
    value: Tensor
    meta: Tensor
    importance: Tensor
    entropy: Tensor

    @property
    def present(self) -> Tensor:
        """[B, Hkv, T] bool: neither padding nor an empty row."""
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
) -> dict[str, Tensor]:
    """The layer's state after the step, with the names, shapes and dtypes of `geometry.state()`.

    Args:
        decision: the gate's. key, value: [B, Hkv, T, D] of the new tokens. token_meta: [B, T, 2] int32, padding marked
            by a negative position: padding replaces nobody. key_scale: [Hkv, D] float32, only with coarse rows.
    """
    local = geometry.local_rows
    after = dict(state)
    after["importance"], after["entropy"] = decision.importance[..., :local], decision.entropy[..., :local]
    moving = Tokens(
        sanitize(key),
        sanitize(value),
        token_meta.unsqueeze(1).expand(-1, geometry.kv_heads, -1, -1),
        decision.importance[..., local:],
        decision.entropy[..., local:],
    )
    writes = {"exact": _Writes([], [], []), "coarse": _Writes([], [], [])}
    for tier, (first, _) in enumerate(geometry.tiers):
        store = "coarse" if geometry.coarse_rows and first == geometry.exact_rows else "exact"
        index = decision.victims[:, :, tier]  # [B, Hkv, T]
        leaving = _read(after, key_scale, index, first, store)
        settled = _settle(moving, leaving)
        for name, rows in (
            ("row_meta", settled.meta),
            ("importance", settled.importance),
            ("entropy", settled.entropy),
        ):
            after[name] = scatter_rows(after[name], index, rows)
        writes[store].append(index - first, settled.key, settled.value)
        gone = torch.where(moving.present, leaving.meta[..., 0], -1)  # behind padding nobody left
        moving = leaving._replace(meta=torch.stack([gone, leaving.meta[..., 1]], dim=-1))
    if geometry.readout == "mass":
        merged = memory.absorb(state, key_scale, moving.key, moving.value, moving.meta, decision, geometry)
        after["memory_mass"] = merged.mass
        after["row_meta"] = torch.cat([after["row_meta"][:, :, :local], merged.meta], dim=2)
        writes[geometry.memory_store].append(merged.rows, merged.key, merged.value)
    elif geometry.readout == "residual":
        after |= memory.absorb_residual(state, moving.key, moving.value, moving.meta, decision)
    elif geometry.readout == "moments":
        after |= moments.absorb(state, moving.key, moving.value, moving.present.float() * decision.absorption)
    after |= _write(state, key_scale, writes, geometry)
    return {spec.name: after[spec.name] for spec in geometry.state()}


class _Writes(NamedTuple):
    """What to write into one store: row numbers [B, Hkv, n] and rows [B, Hkv, n, D], lists to be joined."""

    rows: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]

    def append(self, rows: Tensor, keys: Tensor, values: Tensor) -> None:
        self.rows.append(rows)
        self.keys.append(keys)
        self.values.append(values)


def _read(state: Mapping[str, Tensor], key_scale: Tensor | None, index: Tensor, first: int, store: str) -> Tokens:
    """The tokens in the rows `index` (of the layer's row index space) of a tier that begins at `first`."""
    if store == "coarse":
        assert key_scale is not None
        key = dequantize(gather_rows(state["key_codes"], index - first), key_scale[:, None, :])
        scale = gather_rows(state["value_scale"], index - first).unsqueeze(-1)
        value = dequantize(gather_rows(state["value_codes"], index - first), scale)
    else:
        key = gather_rows(state["key_rows"], index - first).float()
        value = gather_rows(state["value_rows"], index - first).float()
    statistics = (gather_rows(state[name], index) for name in ("importance", "entropy"))
    return Tokens(key, value, gather_rows(state["row_meta"], index), *statistics)


def _settle(moving: Tokens, leaving: Tokens) -> Tokens:
    """What stands in the victims' rows afterwards: the incoming tokens, or the old row where none came in."""
    present = moving.present
    return Tokens(
        *(torch.where(present.unsqueeze(-1), moving[i], leaving[i]) for i in range(3)),
        *(torch.where(present, moving[i], leaving[i]) for i in (3, 4)),
    )


def _write(
    state: Mapping[str, Tensor], key_scale: Tensor | None, writes: Mapping[str, _Writes], geometry: CacheGeometry
) -> dict[str, Tensor]:
    """Both stores after one scatter each."""
    after: dict[str, Tensor] = {}
    if writes["exact"].rows:
        index, keys, values = (torch.cat(part, dim=2) for part in writes["exact"])
        after["key_rows"] = scatter_rows(state["key_rows"], index, keys)
        after["value_rows"] = scatter_rows(state["value_rows"], index, values)
    if writes["coarse"].rows:
        assert key_scale is not None
        index, keys, values = (torch.cat(part, dim=2) for part in writes["coarse"])
        dtype = geometry.coarse_dtype
        scale = value_scale_of(values, dtype)
        after["key_codes"] = scatter_rows(state["key_codes"], index, quantize(keys, key_scale[:, None, :], dtype))
        after["value_codes"] = scatter_rows(state["value_codes"], index, quantize(values, scale.unsqueeze(-1), dtype))
        after["value_scale"] = scatter_rows(state["value_scale"], index, scale)
    return after
