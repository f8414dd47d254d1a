"""Pictures of digit grids: the split, the drawing, the sampling."""

from __future__ import annotations

import builtins
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.reference_vlm import pictures


@given(count=st.integers(5, 3000))
@settings(max_examples=25, deadline=None)
def test_split_is_a_partition_and_always_the_same(count: int) -> None:
    train, held_out = pictures.split_indices(count)
    assert len(held_out) == int(0.2 * count)
    assert not set(train) & set(held_out)
    assert sorted([*train, *held_out]) == list(range(count))
    again = pictures.split_indices(count)
    assert np.array_equal(train, again[0])
    assert np.array_equal(held_out, again[1])


def test_split_of_the_digits_is_the_one_the_model_was_trained_with() -> None:
    train, held_out = pictures.split_indices()
    assert (len(train), len(held_out)) == (1438, 359)
    assert held_out[:5].tolist() == [1, 7, 10, 19, 20]


def test_enlargement_is_linear_interpolation() -> None:
    matrix = pictures.enlargement()
    assert matrix.shape == (32, 8)
    assert matrix.min() >= 0
    inside = matrix[6:26]
    assert (inside.sum(1) == 6).all()  # a partition of unity between the first and the last pixel's centre
    assert (matrix == matrix[::-1, ::-1]).all()
    assert (matrix[:3] == 0).all()  # the margin


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_each_cell_depends_on_its_own_bitmap_only(seed: int) -> None:
    rng = np.random.default_rng(seed)
    grid = rng.integers(0, 17, (8, 8, 8, 8))
    picture = pictures.render(grid)
    assert picture.shape == (256, 256, 3)
    assert picture.dtype == np.uint8
    assert (picture[..., :1] == picture).all()
    assert np.array_equal(picture, pictures.render(grid))
    row, column = rng.integers(8, size=2)
    changed = grid.copy()
    changed[row, column] = 16 - changed[row, column]
    touched = np.argwhere((pictures.render(changed) != picture).any(-1)) // 32
    assert {tuple(cell) for cell in touched.tolist()} <= {(row, column)}


def test_ink_is_dark_on_white() -> None:
    grid = np.zeros((8, 8, 8, 8), dtype=np.uint8)
    assert (pictures.render(grid) == 255).all()
    grid[:] = 16
    picture = pictures.render(grid)
    assert (picture[8:24, 8:24] == 0).all()
    assert (picture[:3] == 255).all()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (np.zeros((8, 8, 8)), r"shape \(8, 8, 8, 8\)"),
        (np.full((8, 8, 8, 8), 17), "0..16"),
        (np.full((8, 8, 8, 8), -1), "0..16"),
    ],
)
def test_render_refuses_what_is_no_grid_of_bitmaps(grid: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pictures.render(grid)


def test_sampled_picture_shows_its_grid() -> None:
    train, held_out = pictures.load_digit_sets()
    assert len(train.labels) + len(held_out.labels) == 1797
    for digits in (train, held_out):
        picture, grid = pictures.sample_grid(digits, np.random.default_rng(3))
        again, _ = pictures.sample_grid(digits, np.random.default_rng(3))
        assert np.array_equal(picture, again)
        cells = pictures.render(digits.bitmaps[np.zeros((8, 8), dtype=int)])[:32, :32]
        assert cells.shape == (32, 32, 3)
        for row, column in np.ndindex(8, 8):
            cell = picture[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
            label = grid[row, column]
            drawn = [_cell(bitmap) for bitmap in digits.bitmaps[digits.labels == label][:400]]
            assert any(np.array_equal(cell, one) for one in drawn)
            break


def _cell(bitmap: np.ndarray) -> np.ndarray:
    grid = np.zeros((8, 8, 8, 8), dtype=np.uint8)
    grid[0, 0] = bitmap
    return pictures.render(grid)[:32, :32]


def test_missing_scikit_learn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_sklearn(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    pictures.load_digit_sets.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without_sklearn)
    with pytest.raises(ImportError, match="pip install scikit-learn"):
        pictures.load_digit_sets()
    pictures.load_digit_sets.cache_clear()
