"""Checks that a model's rotary positions depend on the given position ids alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from retentive_export.errors import ModelError, ModelNotSupportedError

__all__ = ["STATIC_ROPE_TYPES", "check_rope"]

STATIC_ROPE_TYPES = ("default", "linear", "llama3", "yarn")


def check_rope(config: Any, text_model: nn.Module) -> None:
    """Refuse RoPE whose angles depend on the length of the sequence, or whose frequencies lost precision.

    A stream has no total length, and its keys are cached after RoPE: a scaling that changes with the length ("dynamic",
    "longrope") would make earlier keys wrong.

    Raises:
        ModelNotSupportedError: the rope type is not one of `STATIC_ROPE_TYPES`.
        ModelError: the inverse frequencies are not float32.
    """
    parameters = getattr(config, "rope_parameters", None) or {}
    rope_type = parameters.get("rope_type", "default")
    if rope_type not in STATIC_ROPE_TYPES:
        raise ModelNotSupportedError(
            f"{config.model_type}: rope_type={rope_type!r} makes the angles depend on the sequence length",
            hint=f"use a model with one of {', '.join(STATIC_ROPE_TYPES)}",
        )
    for name, buffer in text_model.named_buffers():
        if name.endswith("inv_freq") and buffer.dtype != torch.float32:
            raise ModelError(
                f"rotary frequencies {name} are {buffer.dtype}, expected float32",
                hint="load the model with dtype=... instead of calling .half() or .to(dtype) on it",
            )
