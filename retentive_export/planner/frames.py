"""What one frame becomes: pictures, patches, visual tokens, and the grid of their cells."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FrameTokens"]


@dataclass(frozen=True, kw_only=True)
class FrameTokens:
    """One frame of a fixed size.

    frame: (height, width) in pixels. pictures: that the vision tower sees of it, tiles and overview. patches: per
    picture. tokens: visual tokens in the prompt, markers not counted. grid: rows and columns of their cells, as in
    `VisionLayout`.
    """

    frame: tuple[int, int]
    pictures: int
    patches: int
    tokens: int
    grid: tuple[int, int]
