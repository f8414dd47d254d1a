"""The eager twin of an exported model: the same modules, the same steps, in PyTorch. Golden runs and key scales use
it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from retentive_export.cache.loop import CacheLoop
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.prompts import Sample, TokenStream
from retentive_export.models.attention import AttentionLoop
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.arrays import Array
from retentive_export.spec.layout import VisionLayout

__all__ = ["KeyRecorder", "ReferenceRun", "calibrate_key_scales", "visual_features"]

HEADROOM = 1.1
"""Factor on the largest key seen; keys beyond it saturate."""


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
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=True
        )


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


def calibrate_key_scales(
    graph: DecoderGraph, runs: list[tuple[TokenStream, Tensor | None, Tensor | None]], levels: int
) -> list[Tensor]:
    """One [Hkv, D] float32 scale per layer: the largest |key| seen, with headroom, over the code range."""
    recorder = KeyRecorder()
    for stream, visual, deep in runs:
        ReferenceRun(graph, recorder, visual, deep).step(stream, slice(0, len(stream.input_ids)))
    return [(recorder.largest[layer] * HEADROOM / levels).clamp(min=1e-8).contiguous() for layer in range(graph.layers)]
