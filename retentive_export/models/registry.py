"""From a Hugging Face model to its adapter."""

from __future__ import annotations

from typing import Any

from retentive_export.errors import ModelNotSupportedError
from retentive_export.models.base import ModelAdapter
from retentive_export.models.idefics3 import Idefics3Adapter
from retentive_export.models.llava import LlavaAdapter
from retentive_export.models.qwen3_vl import Qwen3VLAdapter
from retentive_export.models.text import TextAdapter

__all__ = ["ADAPTERS", "adapter_class", "adapter_for", "supported"]

ADAPTERS: tuple[type[ModelAdapter], ...] = (Qwen3VLAdapter, LlavaAdapter, Idefics3Adapter, TextAdapter)


def supported() -> dict[str, tuple[str, ...]]:
    """Family name -> the `model_type` values (of a model's config.json) that it handles."""
    return {adapter.family: adapter.model_types for adapter in ADAPTERS}


def adapter_class(config: Any) -> type[ModelAdapter]:
    """The adapter class for a model configuration.

    Raises:
        ModelNotSupportedError: names the model type seen and lists the supported ones.
    """
    for adapter in ADAPTERS:
        if adapter.matches(config):
            return adapter
    listed = "; ".join(f"{family}: {', '.join(types)}" for family, types in supported().items())
    raise ModelNotSupportedError(
        f"model_type={getattr(config, 'model_type', None)!r} is not supported",
        hint=f"supported model types are {listed}",
    )


def adapter_for(model: Any, tokenizer: Any, image_processor: Any = None) -> ModelAdapter:
    """Wrap an instantiated Hugging Face model.

    Args:
        model: a `PreTrainedModel` with language modelling head.
        tokenizer: its tokenizer.
        image_processor: its image processor; None for a text-only model.

    Raises:
        ModelNotSupportedError: the family, or an option of its configuration, is not supported.
    """
    return adapter_class(model.config)(model, tokenizer, image_processor)
