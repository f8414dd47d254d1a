"""The eager twin of an exported model: the same modules, the same steps, in PyTorch. Golden runs and fits use it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from retentive_export.cache.loop import CacheLoop
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.prompts import Sample, TokenStream, token_stream
from retentive_export.models.attention import AttentionLoop
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.arrays import Array
from retentive_export.spec.layout import VisionLayout

__all__ = [
    "Pass",
    "ReferenceRun",
    "Run",
    "causal_attention",
    "chunks",
    "sample_run",
    "visual_features",
]


def causal_attention(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """[B, Hq, T, D]: attention within the pass, of a loop that keeps no cache."""
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scale, enable_gqa=True
    )


class Pass:
    """An `AttentionLoop` that keeps no cache: causal attention within the pass."""

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        return causal_attention(query, key, value, scale)


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
