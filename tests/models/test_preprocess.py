"""The resize of the vision graph is Pillow's, bit for bit; crops and paddings are the image processors'."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.image_transforms import center_crop as hf_center_crop
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from retentive_export.errors import ModelNotSupportedError
from retentive_export.models import preprocess
from retentive_export.models.preprocess import PillowResize, center_crop, pad_to_square, resize_coefficients
from tests.factories import photograph

sides = st.integers(1, 90)
filters = st.sampled_from([1, 2, 3])


def _tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).to(torch.float32)


def _pillow(picture: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    return np.asarray(Image.fromarray(picture).resize((size[1], size[0]), Image.Resampling(resample)))


def _resized(picture: np.ndarray, size: tuple[int, int], resample: int) -> np.ndarray:
    resize = PillowResize(picture.shape[:2], size, resample)
    return resize(_tensor(picture)).permute(1, 2, 0).numpy()


@pytest.mark.filterwarnings("error")
@settings(max_examples=100, deadline=None)
@given(sides, sides, sides, sides, filters, st.sampled_from(["noise", "extremes", "flat"]), st.integers(0, 99))
def test_resize_equals_pillow(
    height: int, width: int, new_height: int, new_width: int, resample: int, kind: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    shape = (height, width, 3)
    picture = {
        "noise": rng.integers(0, 256, shape),
        "extremes": rng.integers(0, 2, shape) * 255,
        "flat": np.full(shape, 255),
    }[kind].astype(np.uint8)
    size = (new_height, new_width)
    np.testing.assert_array_equal(_resized(picture, size, resample), _pillow(picture, size, resample))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("resample", [1, 2, 3])
@pytest.mark.parametrize(("frame", "size"), [((480, 640), (384, 512)), ((720, 1280), (336, 597)), ((97, 41), (96, 48))])
def test_resize_of_photographs(frame: tuple[int, int], size: tuple[int, int], resample: int) -> None:
    picture = photograph(frame)
    np.testing.assert_array_equal(_resized(picture, size, resample), _pillow(picture, size, resample))


@given(st.integers(1, 400), st.integers(1, 400), filters)
@settings(max_examples=40, deadline=None)
def test_digits_are_small_and_sum_exactly(in_size: int, out_size: int, resample: int) -> None:
    matrix = resize_coefficients(in_size, out_size, resample)
    digits = preprocess._digits(matrix).astype(np.int64)
    np.testing.assert_array_equal(digits[0] + 256 * digits[1] + 65536 * digits[2], matrix)
    assert np.abs(digits).sum(axis=-1).max() * 255 < 2**24
    assert np.abs(matrix.sum(axis=1) - 2**22).max() <= in_size  # each coefficient is off by half a unit at most


def test_resize_stays_exact_when_inputs_are_rounded_to_bfloat16() -> None:
    """What a tensor core does to float32 inputs (TF32, bfloat16) does not change a digit or a pixel."""
    picture = photograph((97, 60))
    resize = PillowResize((97, 60), (48, 40), 3)
    for one in resize.passes:
        assert torch.equal(one.digits.to(torch.bfloat16).to(torch.float16), one.digits)
    pixels = torch.arange(256, dtype=torch.float32)
    assert torch.equal(pixels.to(torch.bfloat16).to(torch.float32), pixels)
    np.testing.assert_array_equal(_resized(picture, (48, 40), 3), _pillow(picture, (48, 40), 3))


def test_refusals() -> None:
    with pytest.raises(ModelNotSupportedError, match="resample=0"):
        resize_coefficients(10, 5, 0)
    with pytest.raises(ModelNotSupportedError, match="cannot be computed exactly"):
        PillowResize((8, 60_000), (8, 2), 1)


def test_a_pillow_of_another_make_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    blank = Image.new("RGB", (12, 9))
    monkeypatch.setattr(Image.Image, "resize", lambda self, size, resample: blank)
    with pytest.warns(UserWarning, match=r"resizes .* differently"):
        PillowResize((20, 30), (9, 12), 3)


@given(sides, sides, sides, sides)
@settings(max_examples=40, deadline=None)
def test_center_crop_equals_transformers(height: int, width: int, crop_height: int, crop_width: int) -> None:
    picture = np.arange(height * width * 3, dtype=np.float32).reshape(3, height, width) + 1.0
    expected = hf_center_crop(
        picture, (crop_height, crop_width), data_format="channels_first", input_data_format="channels_first"
    )
    np.testing.assert_array_equal(center_crop(torch.from_numpy(picture), (crop_height, crop_width)).numpy(), expected)


@pytest.mark.parametrize("size", [(7, 12), (12, 7), (9, 9), (10, 13)])
def test_pad_to_square_equals_transformers(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (3, *size)).astype(np.float32)
    color = (122, 116, 104)
    expected = LlavaImageProcessorPil().pad_to_square(picture, color)
    np.testing.assert_array_equal(pad_to_square(torch.from_numpy(picture)[None], color)[0].numpy(), expected)
