"""The bounded cache under evaluation: the decode loop of `cache/`, compressed once or from the first token on, watched
by an exact shadow of its own keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from retentive_export.cache.attention import AttentionResult, retentive_attention
from retentive_export.cache.gate import RowStatistics, entropy_gate
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.step import empty_state
from retentive_export.cache.transition import state_transition
from retentive_export.eval.reference import MASKED, causal, grouped_logits
from retentive_export.eval.scores import LayerScore, Remembered
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["Compressor", "Constants", "Shadow", "WatchedLoop", "compress", "roomy"]

Constants = tuple[Sequence[Tensor] | None, Sequence[LatentBasis] | None]
"""Key scales [Hkv, D] and latent bases of every layer, where the geometry needs them."""

PROBE = 64.0
"""Added to the new tokens' values to read off their share of the softmax; large against rounding."""


class Shadow:
    """All keys and values that a loop has seen, for a few streams, and how far its output is from attention over them.

    Args:
        streams: how many streams of the batch are watched.

    `errors` and `masses` hold, per step, [streams, T, layers]: relative error of the output (over all heads) and
    absolute error of the log-sum-exp of the logits (mean over heads).
    """

    def __init__(self, streams: int, layers: int) -> None:
        self.streams = streams
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.errors: list[Tensor] = []
        self.masses: list[Tensor] = []
        self._valid: Tensor | None = None

    def seed(self, states: Sequence[dict[str, Tensor]]) -> None:
        """Start from the exact rows of a roomy cache."""
        for layer, state in enumerate(states):
            self.keys[layer] = state["key_rows"][: self.streams].float()
            self.values[layer] = state["value_rows"][: self.streams].float()
        self._valid = states[0]["row_meta"][: self.streams, 0, :, 0] >= 0

    def begin(self, valid: Tensor) -> None:
        """A step with valid tokens [B, T] begins."""
        valid = valid[: self.streams]
        self._valid = valid if self._valid is None else torch.cat([self._valid, valid], dim=1)

    def add(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values with the step's."""
        before, values = self.keys[layer], self.values[layer]
        key, value = key[: self.streams].float(), value[: self.streams].float()
        self.keys[layer] = keys = key if before is None else torch.cat([before, key], dim=2)
        self.values[layer] = values = value if values is None else torch.cat([values, value], dim=2)
        return keys, values

    def compare(
        self, layer: int, query: Tensor, output: Tensor, share: Tensor, kept: tuple[Tensor, Tensor], scale: float
    ) -> None:
        """Note one layer's errors. share [b, Hq, T]: of the new tokens in the loop's softmax."""
        assert self._valid is not None
        keys, values = kept
        batch, heads, steps, _ = query.shape
        mask = causal(self._valid, steps)[:, None, None]
        logits = grouped_logits(query, keys, scale).masked_fill(~mask, MASKED)  # [b, Hkv, G, T, N]
        exact = torch.matmul(torch.softmax(logits, dim=-1), values.unsqueeze(2)).reshape(query.shape)
        difference = (output - exact).square().sum(dim=(1, 3)).sqrt()
        error = difference / exact.square().sum(dim=(1, 3)).sqrt().clamp(min=1e-12)  # [b, T]
        fresh = torch.logsumexp(logits[..., -steps:], dim=-1).reshape(batch, heads, steps)
        ours = fresh - torch.log(share.clamp(min=1e-12))
        full = torch.logsumexp(logits, dim=-1).reshape(batch, heads, steps)
        mass = (ours - full).abs().mean(dim=1)  # [b, T]
        if layer == 0:
            self.errors.append(error.unsqueeze(-1))
            self.masses.append(mass.unsqueeze(-1))
        else:
            self.errors[-1] = torch.cat([self.errors[-1], error.unsqueeze(-1)], dim=-1)
            self.masses[-1] = torch.cat([self.masses[-1], mass.unsqueeze(-1)], dim=-1)


class WatchedLoop(CacheLoop):
    """The reference decode loop, with a selection that may depend on the layer and an optional shadow."""

    def __init__(
        self,
        geometry: CacheGeometry,
        gate: GateConfig,
        layers: int,
        *,
        chosen: LayerScore,
        constants: Constants | None = None,
        shadow: Shadow | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        scales, bases = constants or (None, None)
        super().__init__(geometry, gate, layers, key_scales=scales, bases=bases, score=chosen, device=device)
        self.chosen, self.shadow = chosen, shadow

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `CacheLoop.attend`."""
        self.chosen.layer = layer_index
        if self.shadow is None:
            return super().attend(layer_index, query, key, value, scale)
        assert self.token_meta is not None
        if layer_index == 0:
            self.shadow.begin(self.token_meta[..., 0] >= 0)
        count = self.shadow.streams
        few = {name: tensor[:count] for name, tensor in self.state[layer_index].items()}
        scales = None if self.key_scales is None else self.key_scales[layer_index]
        first, shifted = (
            retentive_attention(
                query[:count].float(),
                key[:count].float(),
                value[:count].float() + shift,
                self.token_meta[:count],
                few,
                scales,
                geometry=self.geometry,
                gate=self.gate,
                scale=scale,
                basis=None if self.bases is None else self.bases[layer_index],
            ).output
            for shift in (0.0, PROBE)
        )
        share = (shifted - first).mean(dim=-1) / PROBE  # attention is linear in the values
        kept = self.shadow.add(layer_index, key, value)
        self.shadow.compare(layer_index, query[:count].float(), first, share, kept, scale)
        return super().attend(layer_index, query, key, value, scale)


def roomy(geometry: CacheGeometry, rows: int) -> CacheGeometry:
    """Room for everything in exact rows, with the statistics of `geometry`: the cache before a compression."""
    return CacheGeometry(
        batch=geometry.batch,
        kv_heads=geometry.kv_heads,
        q_heads=geometry.q_heads,
        head_dim=geometry.head_dim,
        dtype=geometry.dtype,
        frame_grid=geometry.frame_grid,
        exact_rows=rows,
        window=rows,
        chunk=rows,
        readout=geometry.readout if geometry.readout == "moments" else "none",
        track_importance=geometry.track_importance,
        track_entropy=geometry.track_entropy,
    )


@dataclass(frozen=True, kw_only=True)
class Compressor:
    """What `compress` needs besides the states."""

    geometry: CacheGeometry
    gate: GateConfig
    chosen: LayerScore
    constants: Constants | None = None


def compress(
    states: Sequence[dict[str, Tensor]], room: CacheGeometry, target: Compressor
) -> tuple[list[dict[str, Tensor]], Remembered]:
    """Reduce the states of a roomy cache to another geometry's, once, over all rows together.

    Every row is scored once, as if all were to be chosen from at this moment. Then the tokens enter an empty state of
    the target's geometry in the order of their positions, with the statistics that they have, and the gate lets the
    lowest scores go: what stays is the best of all (besides sinks and window), and every tier and memory is filled by
    the transition that a step uses.

    Returns:
        The states, and the scores by position that were used.
    """
    geometry = target.geometry
    states = [_shared(state, geometry) for state in states]
    scales, bases = target.constants or (None, None)
    tables = []
    for layer, state in enumerate(states):
        target.chosen.layer = layer
        table = target.chosen(_statistics(state, room))
        tables.append(table.mean(dim=1, keepdim=True) if table.shape[1] > geometry.row_heads else table)
    remembered = Remembered(tables)
    gate = replace(target.gate, importance_decay=1.0, entropy_decay=1.0)
    compressed = []
    for layer, state in enumerate(states):
        remembered.layer = layer
        known = (None if scales is None else scales[layer], None if bases is None else bases[layer])
        after = empty_state(geometry, state["row_meta"].device)
        for start in range(0, room.exact_rows, geometry.chunk):
            part = slice(start, min(start + geometry.chunk, room.exact_rows))
            after = _enter(state, part, after, known, geometry, gate, remembered)
        compressed.append(after)
    return compressed, remembered


def _shared(state: dict[str, Tensor], geometry: CacheGeometry) -> dict[str, Tensor]:
    """The state with one set of statistics where all heads must keep the same rows: the mean over heads."""
    if geometry.row_heads == geometry.kv_heads:
        return state
    means: dict[str, Tensor] = {
        name: state[name].mean(dim=1, keepdim=True) for name in ("importance", "entropy") if name in state
    }
    return {**state, **means, "row_meta": state["row_meta"][:, :1]}


def _statistics(state: dict[str, Tensor], room: CacheGeometry) -> RowStatistics:
    position = state["row_meta"][..., 0]
    blank = torch.zeros(position.shape, device=position.device)
    return RowStatistics(
        importance=state.get("importance", blank),
        entropy=state.get("entropy", blank),
        position=position,
        cell=state["row_meta"][..., 1],
        end=position[:, 0].amax(dim=1) + 1,
        state=state,
        key_scale=None,
        geometry=room,
    )


def _enter(
    state: dict[str, Tensor],
    part: slice,
    after: dict[str, Tensor],
    constants: tuple[Tensor | None, LatentBasis | None],
    geometry: CacheGeometry,
    gate: GateConfig,
    remembered: Remembered,
) -> dict[str, Tensor]:
    """The rows `part` of a roomy state enter another state, as a step's tokens would, but with old statistics."""
    meta = state["row_meta"][:, 0, part]  # rows were filled in the order of arrival, the same in all heads
    batch, heads = after["row_meta"].shape[:2]
    scales, basis = constants
    known = torch.zeros(batch, heads, geometry.rows, device=meta.device)
    blank = torch.zeros(batch, heads, meta.shape[1], device=meta.device)
    received, surprise = (
        torch.cat([known, state[name][:, :, part] if name in state else blank], dim=-1)
        for name in ("importance", "entropy")
    )
    attention = AttentionResult(
        output=blank, received=received, surprise=surprise, visual_entropy=torch.zeros(batch, heads, device=meta.device)
    )
    decision = entropy_gate(attention, meta, after, scales, geometry=geometry, gate=gate, score=remembered)
    key, value = state["key_rows"][:, :, part], state["value_rows"][:, :, part]
    return state_transition(decision, key, value, meta, after, scales, geometry=geometry, basis=basis)
