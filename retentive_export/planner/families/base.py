"""What the planner asks of a model family, and the parameters of layers that several families share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from retentive_export.planner.frames import FrameTokens

__all__ = ["Family", "Fields", "encoder_layer", "linear"]

Fields = Mapping[str, Any]
"""A configuration's fields, complete."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family.

    vision_parameters: parameters of vision tower and connector, from the whole config; None for a text-only family.
    frame: what a frame of (height, width) pixels becomes, from config and processor.
    """

    name: str
    model_types: tuple[str, ...]
    vision_parameters: Callable[[Fields], int] | None = None
    frame: Callable[[Fields, Fields, tuple[int, int]], FrameTokens] | None = None


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Parameters of a linear layer."""
    return inputs * outputs + (outputs if bias else 0)


def encoder_layer(hidden: int, intermediate: int) -> int:
    """Parameters of a vision transformer's layer: two layer norms, attention and a two-layer MLP, all with biases."""
    attention = 4 * linear(hidden, hidden)
    mlp = linear(hidden, intermediate) + linear(intermediate, hidden)
    return attention + mlp + 2 * 2 * hidden
