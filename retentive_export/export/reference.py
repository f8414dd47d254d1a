"""The eager twin of an exported model: the same modules, the same steps, in PyTorch. Golden runs and key scales use
it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.rows import LEVELS
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.prompts import Sample, TokenStream, token_stream
from retentive_export.models.attention import AttentionLoop
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.arrays import Array
from retentive_export.spec.layout import VisionLayout

__all__ = [
    "KeyRecorder",
    "ReferenceRun",
    "Run",
    "calibrate_key_scales",
    "causal_attention",
    "chunks",
    "record",
    "sample_run",
    "seen_along",
    "shifted",
    "visual_features",
]

Recorder = TypeVar("Recorder", bound=AttentionLoop)
SMALLEST = 1e-8
"""Of a scale: a channel that is always 0 has one too."""

HEADROOM = 1.1
"""Range of 8-bit codes over the largest key seen; keys beyond it saturate."""
CLIPS = (1.0, 0.85, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Ranges to try for codes of fewer bits, over the largest key seen."""
SHIFTS = (0.0, 0.25, 0.5, 0.75)
"""Positions at which a sample is seen, over the recipe's context: slow pairs of RoPE's channels turn far only late."""


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """[B, Hq, T, D]: attention within the pass, of a loop that keeps no cache."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )


class KeyRecorder:
    """A loop that keeps no cache: causal attention within the pass, and the largest |key| of every channel.

    Implements `AttentionLoop`. `largest[layer]` is [Hkv, D] float32.
    """

    def __init__(self) -> None:
        self.largest: dict[int, Tensor] = {}

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        peak = key.float().abs().amax(dim=(0, 2))
        known = self.largest.get(layer_index)
        self.largest[layer_index] = peak if known is None else torch.maximum(known, peak)
        return causal_attention(query, key, value, scale)


class _ClipRecorder(KeyRecorder):
    """Also the squared error of codes under every range of `CLIPS`: `errors[layer]` is [clips, Hkv, D] float32."""

    def __init__(self, largest: dict[int, Tensor], levels: int) -> None:
        self.largest, self.levels = largest, levels
        self.errors: dict[int, Tensor] = {}

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        peak, errors = self.largest[layer_index].clamp(min=SMALLEST).unsqueeze(1), []
        for clip in CLIPS:
            step = peak * clip / self.levels
            codes = torch.round(key.float() / step).clamp(-self.levels, self.levels)
            errors.append((codes * step - key.float()).square().sum(dim=(0, 2)))
        self.errors[layer_index] = self.errors.get(layer_index, 0.0) + torch.stack(errors)  # type: ignore[operator]
        return super().attend(layer_index, query, key, value, scale)


def visual_features(
    adapter: ModelAdapter, layout: VisionLayout | None, sample: Sample
) -> tuple[Tensor | None, Tensor | None]:
    """visual_embeds [1, tokens, hidden] and deep [1, layers, tokens, hidden] of a sample's picture."""
    if layout is None or sample.picture is None:
        return None, None
    module = adapter.vision_module(layout.frame)
    assert module is not None
    with torch.no_grad():
        output = module(torch.from_numpy(sample.picture.copy())[None])
    return output if isinstance(output, tuple) else (output, None)


Run = tuple[TokenStream, Tensor | None, Tensor | None]
"""A sample's tokens and the features of its picture: visual_embeds and deep, as `ReferenceRun` takes them."""


def sample_run(adapter: ModelAdapter, layout: VisionLayout | None, sample: Sample, *, closed: bool = False) -> Run:
    """All turns of a sample, the last one's answer left open unless `closed`."""
    stream = token_stream(adapter, layout, sample, turns=len(sample.turns), closed=closed)
    return stream, *visual_features(adapter, layout, sample)


class ReferenceRun:
    """Feeds a token stream through the eager decoder.

    Args:
        graph: what was (or will be) exported. loop: `CacheLoop`, or any other `AttentionLoop`.
        visual, deep: features of the sample's picture.
    """

    def __init__(
        self, graph: DecoderGraph, loop: AttentionLoop, visual: Tensor | None = None, deep: Tensor | None = None
    ) -> None:
        self.graph, self.loop, self.visual, self.deep = graph, loop, visual, deep

    def step(self, stream: TokenStream, part: slice, *, last_only: bool = True) -> Tensor:
        """Logits [1, 1, vocab] float32 after the tokens `stream[part]`, or after each of them [1, T, vocab]."""
        inputs = self.inputs(stream, part)
        if isinstance(self.loop, CacheLoop):
            self.loop.token_meta = torch.from_numpy(inputs["token_meta"])
        named = {
            name: torch.from_numpy(array) for name, array in inputs.items() if name not in ("visual_embeds", "deep")
        }
        visual, deep = self._features(stream, part)
        with torch.no_grad():
            logits = self.graph.decoder(
                named["input_ids"],
                visual_embeds=visual,
                deep=deep,
                is_visual=None if visual is None else named["token_meta"][..., 1] >= 0,
                position_ids=named["position_ids"],
                last_only=last_only,
                loop=self.loop,  # type: ignore[arg-type]
            )
        return logits.float()

    def inputs(self, stream: TokenStream, part: slice) -> dict[str, Array]:
        """input_ids [1, T], token_meta [1, T, 2], position_ids [1, T] or [3, 1, T]."""
        positions = stream.position_ids[:, None, part]
        return {
            "input_ids": stream.input_ids[None, part],
            "token_meta": stream.token_meta[None, part],
            "position_ids": np.ascontiguousarray(positions if self.graph.inputs.position_axes > 1 else positions[0]),
        }

    def _features(self, stream: TokenStream, part: slice) -> tuple[Tensor | None, Tensor | None]:
        """visual_embeds [1, T, hidden] and deep [1, layers, T, hidden] of the part, zeros at text tokens."""
        if self.visual is None:
            return None, None
        rows = torch.from_numpy(stream.visual_rows[part])
        present = (rows >= 0).unsqueeze(-1)
        index = rows.clamp(min=0)
        visual = torch.where(present, self.visual[:, index], 0.0)
        return visual, None if self.deep is None else torch.where(present, self.deep[:, :, index], 0.0)


def chunks(tokens: int, chunk: int) -> Iterator[slice]:
    """Slices of at most `chunk` that cover `tokens`."""
    return (slice(start, min(start + chunk, tokens)) for start in range(0, tokens, chunk))


def shifted(run: Run, positions: int) -> Run:
    """The run with its RoPE positions moved."""
    stream, *features = run
    return replace(stream, position_ids=stream.position_ids + positions), *features  # type: ignore[return-value]


def seen_along(runs: Sequence[Run], context: int) -> list[Run]:
    """Every run at all of `SHIFTS`, parts of a session's `context` tokens."""
    return [shifted(run, round(part * context)) for run in runs for part in SHIFTS]


def record(graph: DecoderGraph, runs: Sequence[Run], loop: Recorder) -> Recorder:
    """The loop after all tokens of the runs, each run in one pass."""
    for stream, visual, deep in runs:
        ReferenceRun(graph, loop, visual, deep).step(stream, slice(0, len(stream.input_ids)))
    return loop


def calibrate_key_scales(graph: DecoderGraph, runs: Sequence[Run], levels: int, context: int) -> list[Tensor]:
    """One [Hkv, D] float32 scale per layer, for codes up to `levels` and sessions of `context` tokens.

    8 bits: the largest |key| seen, with headroom, is the largest code. Fewer: the range of least squared error per
    channel, which cuts the largest keys off: codes in between would be too far apart.
    """
    moved = seen_along(runs, context)
    largest = record(graph, moved, KeyRecorder()).largest
    if levels == LEVELS["int8"]:
        ranges = {layer: HEADROOM * peak for layer, peak in largest.items()}
    else:
        errors = record(graph, moved, _ClipRecorder(largest, levels)).errors
        clips = torch.tensor(CLIPS)
        ranges = {layer: clips[errors[layer].argmin(dim=0)] * peak for layer, peak in largest.items()}
    return [(ranges[layer] / levels).clamp(min=SMALLEST).contiguous() for layer in range(graph.layers)]
