"""Layouts refuse sizes that contradict each other, and assemble a turn's pieces."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from retentive_export.spec.layout import DialogueLayout, TextContext, TextShape, VisionLayout

VISION: dict[str, Any] = {
    **{"frame": (16, 32), "tokens": 2, "grid": (1, 2), "block_ids": [9, 8, 8], "position_axes": 1},
    **{"block_cells": [None, (0, 0), (0, 1)], "position_offsets": [[0, 1, 2]], "position_advance": 3},
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"position_axes": 2}, "position_axes=2, expected 1 or 3"),
        ({"block_cells": [None, (0, 0)]}, "block_cells has 2 entries, block_ids has 3"),
        ({"tokens": 3}, "places 2 visual tokens, tokens=3"),
        ({"grid": (1, 1)}, r"outside of grid=\(1, 1\)"),
        ({"position_offsets": [[0, 1]]}, r"position_offsets must be \[1\]\[3\]"),
        ({"position_axes": 3}, r"position_offsets must be \[3\]\[3\]"),
    ],
)
def test_vision_layout(change: dict[str, Any], message: str) -> None:
    VisionLayout(**VISION)
    with pytest.raises(ValidationError, match=message):
        VisionLayout(**{**VISION, **change})


def test_text_shape() -> None:
    sizes = {"layers": 1, "head_dim": 8, "hidden": 8, "vocab": 8, "max_positions": 8}
    with pytest.raises(ValidationError, match="q_heads=3 is not a multiple of kv_heads=2"):
        TextShape(**sizes, q_heads=3, kv_heads=2)


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def test_pieces_of_a_turn() -> None:
    layout = DialogueLayout(
        **{"user_open": [1, 2], "user_close": [3, 4], "frame_before_text": True},
        **{"frame_open": [5], "frame_separator": [6], "frame_close": [7, 8]},
        user_text=TextContext(open_length=1, prefix="b"),
        frame_text=TextContext(open_length=1, anchor="@", anchor_length=1, suffix="!", close_start=1),
    )
    assert layout.user_turn(encode, "a") == [[1, *encode("ba"), 3, 4]]
    assert layout.user_turn(encode, "a", frames=2) == [[5], None, [6], None, [7, *encode("a!"), 4]]
    with pytest.raises(ValueError, match="text only"):
        DialogueLayout().user_turn(encode, "a", frames=1)
