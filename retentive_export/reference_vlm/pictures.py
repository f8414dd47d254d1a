"""Pictures of an 8x8 grid of handwritten digits, from scikit-learn's ``load_digits`` (1,797 bitmaps of 8x8).

A picture is 256x256 RGB. Each digit owns a cell of 32x32 pixels: its 8x8 bitmap enlarged three times with linear
interpolation, dark ink on white paper, with a margin of 4 pixels. The enlargement is done in integers, so that a
picture is the same bytes on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "BITMAP", "CELL", "GRID", "PICTURE", "DigitSet", "enlargement", "load_digit_sets", "render", "sample_grid",
    "split_indices",
]  # fmt: skip

GRID = 8
"""Cells per side of a picture."""
CELL = 32
"""Pixels per side of a cell."""
PICTURE = GRID * CELL
"""Pixels per side of a picture."""
BITMAP = 8
"""Pixels per side of a digit bitmap."""
INK_MAX = 16
"""Largest value in a digit bitmap."""
ZOOM = 3
"""How many times a bitmap is enlarged."""

SPLIT_SEED = 20250117
HELD_OUT_FRACTION = 0.2


@dataclass(frozen=True, kw_only=True)
class DigitSet:
    """Bitmaps and what they show.

    Attributes:
        bitmaps: ink, 0..16. [N, 8, 8] uint8
        labels: the digit, 0..9. [N] int64
    """

    bitmaps: NDArray[np.uint8]
    labels: NDArray[np.int64]


def split_indices(count: int = 1797) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split bitmap indices into train and held-out: always the same, without overlap, each sorted.

    Args:
        count: number of bitmaps.

    Returns:
        train [count - H] int64 and held-out [H] int64, with ``H = floor(0.2 * count)``.
    """
    order = np.random.RandomState(SPLIT_SEED).permutation(count).astype(np.int64)
    held_out = int(count * HELD_OUT_FRACTION)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


@lru_cache(maxsize=1)
def load_digit_sets() -> tuple[DigitSet, DigitSet]:
    """Load the bitmaps, split into (train, held-out).

    Raises:
        ImportError: scikit-learn, which carries the bitmaps, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "drawing new digit pictures needs scikit-learn, which carries the bitmaps: pip install scikit-learn "
            "(the sample pictures that ship with the package need nothing)"
        ) from error
    digits = load_digits()
    bitmaps = np.asarray(digits.images, dtype=np.uint8)
    labels = np.asarray(digits.target, dtype=np.int64)
    train, held_out = split_indices(len(labels))
    return (
        DigitSet(bitmaps=bitmaps[train], labels=labels[train]),
        DigitSet(bitmaps=bitmaps[held_out], labels=labels[held_out]),
    )


@lru_cache(maxsize=1)
def enlargement() -> NDArray[np.int64]:
    """Matrix that enlarges a bitmap row to a cell row, times ``2 * ZOOM``. [32, 8] int64, entries 0..6.

    Pixel ``i`` of a cell lies at ``(i + 0.5 - 4) / 3 - 0.5`` on the bitmap and takes the linear interpolation there;
    outside the bitmap there is no ink. This is bilinear sampling with half-pixel centres and zero padding.
    """
    margin = (CELL - ZOOM * BITMAP) // 2
    pixel = np.arange(CELL, dtype=np.int64)[:, None]
    doubled = 2 * (pixel - margin) + 1 - ZOOM  # position on the bitmap, times 2 * ZOOM
    distance = np.abs(doubled - 2 * ZOOM * np.arange(BITMAP, dtype=np.int64)[None, :])
    weights: NDArray[np.int64] = np.maximum(2 * ZOOM - distance, 0)
    return weights


def render(grid_bitmaps: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Draw the picture of a grid of bitmaps.

    Args:
        grid_bitmaps: ink, 0..16. [8, 8, 8, 8]: grid row, grid column, bitmap row, bitmap column

    Returns:
        The picture, RGB, dark ink on white. [256, 256, 3] uint8

    Raises:
        ValueError: wrong shape, or ink outside 0..16.
    """
    ink = np.asarray(grid_bitmaps, dtype=np.int64)
    if ink.shape != (GRID, GRID, BITMAP, BITMAP):
        raise ValueError(f"grid_bitmaps must have shape (8, 8, 8, 8), got {ink.shape}")
    if ink.min() < 0 or ink.max() > INK_MAX:
        raise ValueError(f"ink must lie in 0..{INK_MAX}, got {ink.min()}..{ink.max()}")
    matrix = enlargement()
    cells = np.einsum("ia,rcab,jb->rcij", matrix, ink, matrix)  # [8, 8, 32, 32]
    scale = (2 * ZOOM) ** 2 * INK_MAX
    darkness = (cells * 255 * 2 + scale) // (2 * scale)  # rounded half up
    gray = (255 - darkness).astype(np.uint8).transpose(0, 2, 1, 3).reshape(PICTURE, PICTURE)
    return np.repeat(gray[:, :, None], 3, axis=2)


def sample_grid(digits: DigitSet, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Draw 64 bitmaps, each uniformly over the digits first and then over that digit's bitmaps.

    Returns:
        The picture [256, 256, 3] uint8 and the true grid [8, 8] int64.
    """
    grid = rng.integers(0, 10, size=(GRID, GRID))
    chosen = np.empty((GRID, GRID), dtype=np.int64)
    for row, column in np.ndindex(GRID, GRID):
        chosen[row, column] = rng.choice(np.flatnonzero(digits.labels == grid[row, column]))
    return render(digits.bitmaps[chosen]), grid.astype(np.int64)
