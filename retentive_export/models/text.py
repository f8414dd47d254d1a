"""Text-only language models whose Hugging Face modules honour the attention interface and the given positions."""

from __future__ import annotations

from typing import Any, ClassVar

from retentive_export.models.base import TEXT_MODEL_TYPES, ModelAdapter

__all__ = ["TextAdapter"]


class TextAdapter(ModelAdapter):
    """Llama, Mistral (without sliding window), Qwen2, Qwen3, SmolLM3: `<Model>ForCausalLM`."""

    family: ClassVar[str] = "text"
    model_types: ClassVar[tuple[str, ...]] = TEXT_MODEL_TYPES
    takes_frames: ClassVar[bool] = False

    @property
    def text_model(self) -> Any:
        return self.model.model
