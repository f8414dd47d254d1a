"""Idefics3 and SmolVLM: a frame is cut into tiles, and seen as a whole once more."""

from __future__ import annotations

import math

from retentive_export.errors import ModelError
from retentive_export.planner.families.base import Family, Fields, encoder_layer
from retentive_export.planner.frames import FrameTokens

__all__ = ["FAMILY", "tiles"]

_LARGEST_SIDE = 4096
"""Pixels of a side after the first resize, whatever the processor asks for."""


def _vision_parameters(config: Fields) -> int:
    vision, hidden = config["vision_config"], config["text_config"]["hidden_size"]
    width, patch = vision["hidden_size"], vision["patch_size"]
    embeddings = vision["num_channels"] * patch**2 * width + width + (vision["image_size"] // patch) ** 2 * width
    layers = vision["num_hidden_layers"] * encoder_layer(width, vision["intermediate_size"])
    connector = width * config["scale_factor"] ** 2 * hidden
    total: int = embeddings + layers + 2 * width + connector
    return total


def tiles(frame: tuple[int, int], processor: Fields) -> tuple[int, int]:
    """Rows and columns of tiles; (0, 0) where the whole frame is one picture."""
    if not processor["do_image_splitting"]:
        return 0, 0
    side, size = int(processor["max_image_size"]["longest_edge"]), frame
    if processor["do_resize"]:
        wanted = processor["size"]
        longest = wanted.get("longest_edge")
        size = (wanted["height"], wanted["width"]) if longest is None else _longest(frame, longest)
    height, width = size
    ratio = width / height
    if width >= height:
        width = math.ceil(width / side) * side
        height = math.ceil(int(width / ratio) / side) * side
    else:
        height = math.ceil(height / side) * side
        width = math.ceil(int(height * ratio) / side) * side
    if not height or not width:
        raise ModelError(f"model.frame is {list(frame)}: a side has no pixel left after resizing")
    rows, columns = height // side, width // side
    return (0, 0) if rows * columns == 1 else (rows, columns)


def _longest(frame: tuple[int, int], side: int) -> tuple[int, int]:
    """(height, width) with `side` as the longer one and an even shorter one, the ratio kept."""
    height, width = frame
    ratio = width / height
    if width >= height:
        height, width = int(side / ratio), side
        height += height % 2
    else:
        height, width = side, int(side * ratio)
        width += width % 2
    height, width = max(height, 1), max(width, 1)
    ratio = width / height
    if width >= height and width > _LARGEST_SIDE:
        height, width = int(_LARGEST_SIDE / ratio), _LARGEST_SIDE
    elif height > width and height > _LARGEST_SIDE:
        height, width = _LARGEST_SIDE, int(_LARGEST_SIDE * ratio)
    return max(height, 1), max(width, 1)


def _frame(config: Fields, processor: Fields, frame: tuple[int, int]) -> FrameTokens:
    vision = config["vision_config"]
    rows, columns = tiles(frame, processor)
    across = vision["image_size"] // vision["patch_size"]
    side = across // config["scale_factor"]
    pictures = rows * columns + 1
    grid = (max(rows, 1) * side, max(columns, 1) * side)
    return FrameTokens(frame=frame, pictures=pictures, patches=across**2, tokens=pictures * side**2, grid=grid)


FAMILY = Family(
    name="idefics3",
    model_types=("idefics3", "smolvlm"),
    vision_parameters=_vision_parameters,
    frame=_frame,
)
