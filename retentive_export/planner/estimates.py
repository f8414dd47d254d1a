"""Formulas for what is not exact: activations, workspace, speed. docs/targets.md has them in words."""

from __future__ import annotations

from retentive_export.planner.shape import ModelShape
from retentive_export.spec.geometry import BYTES

__all__ = ["decoder_activations", "tokens_per_second", "vision_activations", "workspace"]

_FLOAT = 4
_BLOCKS = 396
_MOST_SPLITS = 132
_QUERIES_PER_BLOCK = 32
"""How the kernels cut attention: blocks in flight, parts of the rows at most, queries of a block."""
_SCORE_TENSORS = 3
"""Tensors of [heads, queries, rows] that operators of standard nodes hold at once: logits, shares, statistics."""


def decoder_activations(shape: ModelShape, dtype: str, rows: int, chunk: int, *, fused: bool) -> int:
    """Bytes of the decoder's intermediate tensors in a step of `chunk` tokens.

    The residual stream twice, the widest place of a layer (attention's heads or the MLP), the logits of one token; and,
    where attention is not one kernel (`fused`), its scores over `rows` rows and the chunk.
    """
    text, size = shape.text, BYTES[dtype]
    attention = 2 * (text.q_heads + text.kv_heads) * text.head_dim
    widest = max(attention, 3 * shape.intermediate)
    per_token = (2 * text.hidden + widest) * size
    scores = 0 if fused else _SCORE_TENSORS * text.q_heads * chunk * (rows + chunk) * _FLOAT
    return chunk * per_token + scores + text.vocab * _FLOAT


def vision_activations(shape: ModelShape, dtype: str, *, fused: bool) -> int:
    """Bytes of the vision graph's intermediate tensors for one frame; 0 for a text-only model.

    The frame and its resized pictures in float32, the residual stream twice, the widest place of a layer, the visual
    tokens; and the scores of one layer where attention is not fused.
    """
    if shape.vision is None or shape.frame is None:
        return 0
    hidden, intermediate, heads = shape.vision
    frame, size = shape.frame, BYTES[dtype]
    patches = frame.pictures * frame.patches
    widest = max(4 * hidden, 2 * intermediate)
    scores = 0 if fused else 2 * heads * frame.pictures * frame.patches**2 * size
    pixels = 2 * 3 * frame.frame[0] * frame.frame[1] * _FLOAT
    return pixels + patches * (2 * hidden + widest) * size + frame.tokens * shape.text.hidden * size + scores


def workspace(shape: ModelShape, rows: int, chunk: int, *, fused: bool) -> int:
    """Bytes of the operators' scratch memory: partial results of attention, and statistics per row; one layer's, since
    layers run one after the other. 0 where the operators run as standard nodes."""
    if not fused:
        return 0
    text = shape.text
    queries = text.q_heads * chunk
    blocks = text.kv_heads * -(-queries // text.kv_heads // _QUERIES_PER_BLOCK)
    splits = min(_MOST_SPLITS, max(1, _BLOCKS // max(1, blocks)))
    partial = queries * splits * (text.head_dim + 8) * _FLOAT
    statistics = text.kv_heads * (rows + chunk) * 4 * _FLOAT
    return partial + statistics


def tokens_per_second(moved: int, bandwidth: float, efficiency: float) -> float:
    """Decode speed where memory is the limit: the reached share of the bandwidth (GB/s) over the bytes of a step."""
    return efficiency * bandwidth * 1e9 / moved
