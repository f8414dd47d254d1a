"""Qwen3-VL: frames of native aspect ratio, one picture each; deepstack mergers."""

from __future__ import annotations

import math

from retentive_export.errors import ModelError
from retentive_export.planner.families.base import Family, Fields, encoder_layer, linear
from retentive_export.planner.frames import FrameTokens

__all__ = ["FAMILY", "smart_resize"]

_LARGEST_RATIO = 200


def _vision_parameters(config: Fields) -> int:
    vision = config["vision_config"]
    hidden, out = vision["hidden_size"], vision["out_hidden_size"]
    patch = vision["in_channels"] * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    merged = hidden * vision["spatial_merge_size"] ** 2
    projection = linear(merged, merged) + linear(merged, out)
    embeddings = linear(patch, hidden) + vision["num_position_embeddings"] * hidden
    deepstack = len(vision["deepstack_visual_indexes"]) * (2 * merged + projection)
    blocks: int = vision["depth"] * encoder_layer(hidden, vision["intermediate_size"])
    total: int = embeddings + blocks + 2 * hidden + projection + deepstack
    return total


def smart_resize(height: int, width: int, factor: int, smallest: int, largest: int) -> tuple[int, int]:
    """(height, width) near the given one, both multiples of `factor`, with between `smallest` and `largest` pixels.

    The rule of transformers' function of this name.
    """
    if max(height, width) / min(height, width) > _LARGEST_RATIO:
        raise ModelError(
            f"model.frame is [{height}, {width}]: Qwen3-VL takes sides in a ratio of {_LARGEST_RATIO} at most"
        )
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > largest:
        shrink = math.sqrt((height * width) / largest)
        rows = max(factor, math.floor(height / shrink / factor) * factor)
        columns = max(factor, math.floor(width / shrink / factor) * factor)
    elif rows * columns < smallest:
        grow = math.sqrt(smallest / (height * width))
        rows, columns = math.ceil(height * grow / factor) * factor, math.ceil(width * grow / factor) * factor
    return rows, columns


def _frame(config: Fields, processor: Fields, frame: tuple[int, int]) -> FrameTokens:
    merge, patch = config["vision_config"]["spatial_merge_size"], processor["patch_size"]
    size, resized = processor["size"], frame
    if processor["do_resize"]:
        smallest = processor.get("min_pixels") or size["shortest_edge"]
        largest = processor.get("max_pixels") or size["longest_edge"]
        resized = smart_resize(*frame, patch * processor["merge_size"], smallest, largest)
    rows, columns = resized[0] // patch, resized[1] // patch
    grid = (rows // merge, columns // merge)
    return FrameTokens(frame=frame, pictures=1, patches=rows * columns, tokens=grid[0] * grid[1], grid=grid)


FAMILY = Family(
    name="qwen3_vl",
    model_types=("qwen3_vl",),
    vision_parameters=_vision_parameters,
    frame=_frame,
)
