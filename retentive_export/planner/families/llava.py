"""LLaVA-1.5: one square crop of a fixed size, whatever the frame."""

from __future__ import annotations

from retentive_export.planner.families.base import Family, Fields, encoder_layer, linear
from retentive_export.planner.frames import FrameTokens

__all__ = ["FAMILY"]


def _patches(vision: Fields) -> int:
    side: int = vision["image_size"] // vision["patch_size"]
    return side * side


def _vision_parameters(config: Fields) -> int:
    vision, hidden = config["vision_config"], config["text_config"]["hidden_size"]
    width, patch = vision["hidden_size"], vision["num_channels"] * vision["patch_size"] ** 2
    embeddings = width + patch * width + (_patches(vision) + 1) * width
    layers = vision["num_hidden_layers"] * encoder_layer(width, vision["intermediate_size"])
    features = config["vision_feature_layer"]
    inputs = width * (1 if isinstance(features, int) else len(features))
    bias = config["multimodal_projector_bias"]
    projector = linear(inputs, hidden, bias=bias) + linear(hidden, hidden, bias=bias)
    norms = 2 * 2 * width  # before and behind the layers
    total: int = embeddings + layers + norms + projector
    return total


def _frame(config: Fields, processor: Fields, frame: tuple[int, int]) -> FrameTokens:
    vision = config["vision_config"]
    side = vision["image_size"] // vision["patch_size"]
    whole = config["vision_feature_select_strategy"] == "full"  # then the class token is kept
    patches = _patches(vision) + 1
    tokens = patches if whole else patches - 1
    return FrameTokens(frame=frame, pictures=1, patches=patches, tokens=tokens, grid=(side, side))


FAMILY = Family(
    name="llava",
    model_types=("llava",),
    vision_parameters=_vision_parameters,
    frame=_frame,
)
