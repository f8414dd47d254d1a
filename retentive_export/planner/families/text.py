"""Text-only models, and the parameters of every family's language model."""

from __future__ import annotations

from retentive_export.planner.families.base import Family, Fields, linear

__all__ = ["FAMILY", "head_dim", "layer_matrices", "layer_parameters"]

FAMILY = Family(name="text", model_types=("llama", "mistral", "qwen2", "qwen3", "smollm3"))

_QK_NORM = ("qwen3", "qwen3_vl_text")


def head_dim(text: Fields) -> int:
    """Size of a head."""
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


def layer_matrices(text: Fields) -> tuple[tuple[int, int], ...]:
    """(inputs, outputs) of the seven matrices of one decoder layer."""
    hidden, inner, size = text["hidden_size"], text["intermediate_size"], head_dim(text)
    queries, keys = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    attention = ((hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden))
    return (*attention, (hidden, inner), (hidden, inner), (inner, hidden))


def layer_parameters(text: Fields) -> int:
    """Parameters of one decoder layer: attention, gated MLP, two RMS norms."""
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    size, kind = head_dim(text), text["model_type"]
    queries, keys = text["num_attention_heads"] * size, text["num_key_value_heads"] * size
    bias = bool(text.get("attention_bias", False))
    qkv_bias = True if kind == "qwen2" else bias
    attention = linear(hidden, queries, bias=qkv_bias) + 2 * linear(hidden, keys, bias=qkv_bias)
    attention += linear(queries, hidden, bias=bias)
    mlp_bias = bool(text.get("mlp_bias", False))
    mlp = 2 * linear(hidden, inner, bias=mlp_bias) + linear(inner, hidden, bias=mlp_bias)
    norms = 2 * hidden + (2 * size if kind in _QK_NORM else 0)
    return attention + mlp + norms
