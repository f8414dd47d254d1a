"""The decoder graph: token ids and visual rows in, logits out, the family's own language model in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from retentive_export.models.attention import TEXT_ATTENTION, attention_implementation

__all__ = ["DecoderModule"]


class DecoderModule(nn.Module):
    """Hugging Face's language model, fed with a mix of text tokens and visual rows, its attention left to `loop`.

    Args:
        text_model: the decoder without head; called with `inputs_embeds`, `position_ids`, `use_cache=False`.
        lm_head: [.., hidden] -> [.., vocab].
        layers: the decoder layers, in order.

    The wrapped modules are shared, not copied, and unchanged after every call.
    """

    def __init__(self, text_model: nn.Module, lm_head: nn.Module, layers: nn.ModuleList) -> None:
        super().__init__()
        self.text_model = text_model
        self.lm_head = lm_head
        self.embedding: nn.Module = text_model.get_input_embeddings()  # type: ignore[operator]
        self._layers = list(layers)

    def forward(
        self,
        input_ids: Tensor,
        visual_embeds: Tensor | None = None,
        deep: Tensor | None = None,
        is_visual: Tensor | None = None,
        position_ids: Tensor | None = None,
        *,
        last_only: bool = False,
        **kwargs: Any,
    ) -> Tensor:
        """One chunk of T tokens.

        Args:
            input_ids: [B, T] int64; the ids at visual positions are ignored if `is_visual` is given.
            visual_embeds: [B, T, hidden], read where `is_visual`.
            deep: [B, deep_layers, T, hidden], added to the output of decoder layer i; zero at text positions.
            is_visual: [B, T] bool; None is the same as all False.
            position_ids: [B, T] int64, or [3, B, T] for M-RoPE.
            last_only: compute the logits of the last position only.
            **kwargs: reach every attention layer; `loop` (an `AttentionLoop`) is required there.

        Returns:
            [B, T, vocab], or [B, 1, vocab] with `last_only`.
        """
        hidden = self.embedding(input_ids)
        if visual_embeds is not None and is_visual is not None:
            hidden = torch.where(is_visual[..., None], visual_embeds.to(hidden.dtype), hidden)
        with attention_implementation(self.text_model, TEXT_ATTENTION), self._deepstack(deep):
            output = self.text_model(
                inputs_embeds=hidden, position_ids=position_ids, attention_mask=None, use_cache=False, **kwargs
            )
        hidden = output.last_hidden_state
        if last_only:
            hidden = hidden[:, -1:]
        logits: Tensor = self.lm_head(hidden)
        return logits

    @contextmanager
    def _deepstack(self, deep: Tensor | None) -> Iterator[None]:
        """Add `deep[:, i]` to the output of decoder layer i inside the block."""
        if deep is None:
            yield
            return
        handles = [
            layer.register_forward_hook(_adder(deep[:, index]))
            for index, layer in enumerate(self._layers[: deep.shape[1]])
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _adder(feature: Tensor) -> Callable[[nn.Module, Any, Any], Any]:
    def add(module: nn.Module, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + feature.to(output[0].dtype), *output[1:])
        return output + feature.to(output.dtype)

    return add
