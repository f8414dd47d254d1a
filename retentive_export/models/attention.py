"""The hook into transformers: an attention function that hands queries, keys and values to the decode loop.

`register()` adds two functions to transformers' `AttentionInterface`; importing this module changes nothing.

* "retentive": the text model's attention. The object passed to the model's forward as keyword `loop` receives each
  layer's query, key and value after RoPE, and owns the cache.
* "retentive_flash_frames": a vision model's attention over a packed batch of frames of equal length. Its name says
  "flash" because transformers then passes the packed sequence whole, with its lengths as Python integers, where it
  would otherwise split it by runtime values, which `torch.export` refuses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from retentive_export.errors import ModelNotSupportedError

__all__ = [
    "FRAME_ATTENTION",
    "TEXT_ATTENTION",
    "AttentionLoop",
    "attention_implementation",
    "check_attention_supported",
    "register",
    "retentive_attention_forward",
]

TEXT_ATTENTION = "retentive"
FRAME_ATTENTION = "retentive_flash_frames"

_UNSUPPORTED_FLAGS = {
    "attn_logit_softcapping": "soft-capped attention logits",
    "attention_chunk_size": "chunked attention",
    "num_attention_sinks": "learned attention sinks",
}


class AttentionLoop(Protocol):
    """Owner of the key-value cache of all layers during one forward pass."""

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Attention of one layer over the cache and, causally, the new tokens; updates the cache.

        Args:
            layer_index: 0-based decoder layer.
            query: [B, Hq, T, D] after RoPE.
            key, value: [B, Hkv, T, D] of the new tokens, key after RoPE.
            scale: factor on the logits.

        Returns:
            [B, Hq, T, D].
        """
        ...


def retentive_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    loop: AttentionLoop,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention function of the text model: [B, Hq, T, D] in, ([B, T, Hq, D], None) out.

    Raises:
        ModelNotSupportedError: the layer asks for something `loop.attend` does not compute.
    """
    if attention_mask is not None:
        raise ModelNotSupportedError("attention_mask was given, but the decode loop masks by itself")
    if kwargs.get("is_causal") is False or getattr(module, "is_causal", True) is False:
        raise ModelNotSupportedError(f"{type(module).__name__} is not causal; only causal attention is supported")
    for name in ("s_aux", "softcap"):
        if kwargs.get(name) is not None:
            raise ModelNotSupportedError(f"{type(module).__name__} uses {name}, which is not supported")
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer_index = int(module.layer_idx)  # type: ignore[arg-type]
    output = loop.attend(layer_index, query, key, value, scale)
    return output.transpose(1, 2).contiguous(), None


def _frame_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    *,
    max_length_q: int,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Full attention within each frame of a packed batch: [1, H, N * S, D] with S = `max_length_q`."""

    def per_frame(packed: Tensor) -> Tensor:
        heads, head_dim = packed.shape[1], packed.shape[3]
        return packed[0].reshape(heads, -1, max_length_q, head_dim).transpose(0, 1)  # [N, H, S, D]

    frames = nn.functional.scaled_dot_product_attention(
        per_frame(query), per_frame(key), per_frame(value), scale=scaling
    )
    heads, head_dim = query.shape[1], query.shape[3]
    return frames.transpose(1, 2).reshape(1, -1, heads, head_dim), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Mask function of both: the mask is the loop's own affair."""
    return


def register() -> None:
    """Make the two attention functions known to transformers; may be called any number of times."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(TEXT_ATTENTION, retentive_attention_forward)
    AttentionInterface.register(FRAME_ATTENTION, _frame_attention_forward)
    AttentionMaskInterface.register(TEXT_ATTENTION, _no_mask)
    AttentionMaskInterface.register(FRAME_ATTENTION, _no_mask)


@contextmanager
def attention_implementation(model: nn.Module, name: str) -> Iterator[None]:
    """Let `model` use the named attention function inside the block; the model is unchanged afterwards."""
    register()
    configs: dict[int, Any] = {
        id(module.config): module.config for module in model.modules() if hasattr(module, "config")
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    for config in configs.values():
        config._attn_implementation = name
    try:
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]


def check_attention_supported(config: Any, layers: torch.nn.Module | None = None) -> None:
    """Refuse a text configuration whose attention is not plain causal attention over all earlier tokens.

    Raises:
        ModelNotSupportedError: names the field, its value, and what would be accepted.
    """
    model_type = config.model_type
    for name, what in _UNSUPPORTED_FLAGS.items():
        if getattr(config, name, None) is not None:
            raise ModelNotSupportedError(
                f"{model_type}: {name}={getattr(config, name)!r} ({what}) is not supported",
                hint=f"use a model whose {name} is None",
            )
    if getattr(config, "is_causal", True) is False:
        raise ModelNotSupportedError(f"{model_type}: is_causal=False; only causal decoders are supported")
    window = getattr(config, "sliding_window", None)
    layer_types = getattr(config, "layer_types", None) or []
    other = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if other:
        raise ModelNotSupportedError(f"{model_type}: layer_types has {other}, expected 'full_attention' only")
    slides = "sliding_attention" in layer_types if layer_types else window is not None
    if slides and (window is None or window < config.max_position_embeddings):
        raise ModelNotSupportedError(
            f"{model_type}: sliding_window={window} is active (max_position_embeddings="
            f"{config.max_position_embeddings}); the bounded cache needs full attention in every layer",
            hint="use a model with sliding_window=None",
        )
    if layers is not None and any(hasattr(module, "sinks") for module in layers.modules()):
        raise ModelNotSupportedError(f"{model_type}: learned attention sinks are not supported")
