"""Fitting the key scales of quantised rows: one number per layer, KV head and channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from retentive_export.cache.rows import LEVELS
from retentive_export.export.along import Along
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.reference import Run

__all__ = ["LargestKeys", "calibrate_key_scales"]

SMALLEST = 1e-8
"""Of a scale: a channel that is always 0 has one too."""
HEADROOM = 1.1
"""Range of 8-bit codes over the largest key seen; keys beyond it saturate."""
CLIPS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Ranges to try for codes of fewer bits, over the largest key seen."""


class LargestKeys:
    """An `Observer` of the largest |key| of every channel: `largest[layer]` is [Hkv, D] float32."""

    def __init__(self) -> None:
        self.largest: dict[int, Tensor] = {}

    def see(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """See `Observer`."""
        peak = key.float().abs().amax(dim=(0, 2))
        known = self.largest.get(layer_index)
        self.largest[layer_index] = peak if known is None else torch.maximum(known, peak)


class _Clips:
    """An `Observer` of the squared error of codes under every range of `CLIPS`: `errors[layer]` [clips, Hkv, D]."""

    def __init__(self, largest: dict[int, Tensor], levels: int) -> None:
        self.largest, self.levels = largest, levels
        self.errors: dict[int, Tensor] = {}

    def see(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """See `Observer`."""
        peak, errors = self.largest[layer_index].clamp(min=SMALLEST).unsqueeze(1), []
        for clip in CLIPS:
            step = peak * clip / self.levels
            codes = torch.round(key.float() / step).clamp(-self.levels, self.levels)
            errors.append((codes * step - key.float()).square().sum(dim=(0, 2)))
        self.errors[layer_index] = self.errors.get(layer_index, 0.0) + torch.stack(errors)  # type: ignore[operator]


def calibrate_key_scales(graph: DecoderGraph, runs: Sequence[Run], levels: int, context: int) -> list[Tensor]:
    """One [Hkv, D] float32 scale per layer, for codes up to `levels` and sessions of `context` tokens.

    8 bits: the largest |key| seen, with headroom, is the largest code. Fewer: the range of least squared error per
    channel, which cuts the largest keys off: codes in between would be too far apart.
    """
    along = Along(graph, runs, context)
    largest = along.observe(LargestKeys()).largest
    if levels == LEVELS["int8"]:
        ranges = {layer: HEADROOM * peak for layer, peak in largest.items()}
    else:
        errors = along.observe(_Clips(largest, levels)).errors
        clips = torch.tensor(CLIPS)
        ranges = {layer: clips[errors[layer].argmin(dim=0)] * peak for layer, peak in largest.items()}
    return [(ranges[layer] / levels).clamp(min=SMALLEST).contiguous() for layer in range(graph.layers)]
