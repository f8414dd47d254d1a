"""Image preprocessing as tensor operations that export to ONNX, with Pillow's resize bit for bit.

Pillow resizes 8-bit pictures in two passes, one per axis. Each pass is a sum of pixels times integer coefficients (real
ones scaled by 2**22 and rounded), plus 2**21, shifted right by 22, clipped to 0..255. Which axis comes first depends on
Pillow's version and on the sizes, so the installed Pillow is asked (see `PillowResize`).

Here every coefficient is written in three base-256 digits, each in -128..127, so that a pass is three matrix products
of small integers. They are exact in float32, whatever the order of summation, and stay exact on units that round their
inputs to TF32 or bfloat16. The carries are exact too: floor of a division by a power of two.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import PIL
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from retentive_export.errors import ModelNotSupportedError

__all__ = ["FrameToTensor", "Normalize", "PillowResize", "center_crop", "pad_to_square", "resize_coefficients"]

PRECISION_BITS = 22
_EXACT = 2**24


def _bilinear(x: float) -> float:
    return max(0.0, 1.0 - abs(x))


def _bicubic(x: float) -> float:
    a = -0.5
    x = abs(x)
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    return (((x - 5.0) * x + 8.0) * x - 4.0) * a if x < 2.0 else 0.0


def _sinc(x: float) -> float:
    return 1.0 if x == 0.0 else math.sin(x * math.pi) / (x * math.pi)


def _lanczos(x: float) -> float:
    return _sinc(x) * _sinc(x / 3.0) if -3.0 <= x < 3.0 else 0.0


# Keys are the values of PIL.Image.Resampling.
_FILTERS: dict[int, tuple[str, Callable[[float], float], float]] = {
    1: ("lanczos", _lanczos, 3.0),
    2: ("bilinear", _bilinear, 1.0),
    3: ("bicubic", _bicubic, 2.0),
}


def resize_coefficients(in_size: int, out_size: int, resample: int) -> NDArray[np.int64]:
    """Integer coefficients of one pass: [out_size, in_size], scaled by 2**22.

    Follows Pillow's `precompute_coeffs` and `normalize_coeffs_8bpc`, term by term and in the same order of summation.

    Args:
        in_size, out_size: pixels along the axis.
        resample: value of `PIL.Image.Resampling`: 1 lanczos, 2 bilinear, 3 bicubic.

    Raises:
        ModelNotSupportedError: another filter.
    """
    if int(resample) not in _FILTERS:
        known = ", ".join(f"{key} ({name})" for key, (name, _, _) in _FILTERS.items())
        raise ModelNotSupportedError(f"image processor: resample={resample} is not supported, expected one of {known}")
    _, kernel, radius = _FILTERS[int(resample)]
    scale = in_size / out_size
    filter_scale = max(scale, 1.0)
    support = radius * filter_scale
    inverse = 1.0 / filter_scale
    matrix = np.zeros((out_size, in_size), dtype=np.int64)
    for row in range(out_size):
        center = (row + 0.5) * scale
        first = max(0, int(center - support + 0.5))
        last = min(in_size, int(center + support + 0.5))
        weights = [kernel((column + first - center + 0.5) * inverse) for column in range(last - first)]
        total = 0.0
        for weight in weights:
            total += weight
        for column, weight in enumerate(weights):
            scaled = (weight / total if total != 0.0 else weight) * (1 << PRECISION_BITS)
            matrix[row, first + column] = int(scaled - 0.5) if scaled < 0 else int(scaled + 0.5)
    return matrix


def _digits(matrix: NDArray[np.int64]) -> NDArray[np.int8]:
    """[3, out, in]: digits d0, d1, d2 in -128..127 with matrix = d0 + 256 * d1 + 65536 * d2."""
    digits = []
    rest = matrix
    for _ in range(2):
        low = (rest + 128) % 256 - 128
        digits.append(low)
        rest = (rest - low) // 256
    digits.append(rest)
    stacked = np.stack(digits)
    sums = np.abs(stacked).sum(axis=-1).max() * 255 + 2**16
    if stacked.max() > 127 or stacked.min() < -128 or sums >= _EXACT:
        raise ModelNotSupportedError(
            f"a resize from {matrix.shape[1]} to {matrix.shape[0]} pixels cannot be computed exactly in float32",
            hint="give frames nearer to the size the model works at",
        )
    return stacked.astype(np.int8)


class _Pass(nn.Module):
    """One axis of `PillowResize`."""

    digits: Tensor

    def __init__(self, in_size: int, out_size: int, resample: int, *, vertical: bool) -> None:
        super().__init__()
        digits = _digits(resize_coefficients(in_size, out_size, resample))
        self.vertical = vertical
        self.out_size = out_size
        # float16 holds the digits exactly, and every runtime casts it, which cannot be said of int8.
        halves = torch.from_numpy(digits.reshape(3 * out_size, in_size)).to(torch.float16)
        self.register_buffer("digits", halves, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        weights = self.digits.to(torch.float32)  # [3 * out, in]
        if self.vertical:
            low, middle, high = torch.split(weights @ image, self.out_size, dim=-2)
        else:
            low, middle, high = torch.split(image @ weights.transpose(0, 1), self.out_size, dim=-1)
        carry = torch.floor((middle + torch.floor(low / 256.0)) / 256.0)
        half = float(1 << (PRECISION_BITS - 1 - 16))
        shifted = torch.floor((high + carry + half) / float(1 << (PRECISION_BITS - 16)))
        return torch.clamp(shifted, 0.0, 255.0)


class PillowResize(nn.Module):
    """`PIL.Image.resize` of 8-bit pictures, bit for bit.

    Up to version 12 Pillow resized the width first; 13 takes the order that is cheaper by a rule of its own. So one
    noise picture of the given size is resized with the installed Pillow, and the order that gives its result is used.

    Args:
        in_size, out_size: (height, width) in pixels.
        resample: value of `PIL.Image.Resampling`: 1 lanczos, 2 bilinear, 3 bicubic.

    forward: float32 [..., H, W] holding integers 0..255 -> float32 [..., h, w] holding integers 0..255.
    """

    def __init__(self, in_size: tuple[int, int], out_size: tuple[int, int], resample: int) -> None:
        super().__init__()
        passes: list[nn.Module] = []
        if in_size[1] != out_size[1]:
            passes.append(_Pass(in_size[1], out_size[1], resample, vertical=False))
        if in_size[0] != out_size[0]:
            passes.append(_Pass(in_size[0], out_size[0], resample, vertical=True))
        self.passes = nn.ModuleList(passes)
        if len(passes) == 2 and _vertical_first(self, in_size, out_size, resample):
            self.passes = nn.ModuleList(passes[::-1])

    def forward(self, image: Tensor) -> Tensor:
        for one in self.passes:
            image = one(image)
        return image


@torch.no_grad()
def _vertical_first(resize: PillowResize, in_size: tuple[int, int], out_size: tuple[int, int], resample: int) -> bool:
    """Whether the installed Pillow resizes the height first between these sizes; `resize` has the width first."""
    noise = np.random.default_rng(0).integers(0, 256, in_size, dtype=np.uint8)
    picture = Image.fromarray(np.repeat(noise[..., None], 3, axis=-1))
    filtered = picture.resize((out_size[1], out_size[0]), Image.Resampling(int(resample)))
    truth = torch.from_numpy(np.array(filtered)[..., 0]).to(torch.float32)
    given = torch.from_numpy(noise).to(torch.float32)
    horizontal, vertical = resize.passes
    if torch.equal(vertical(horizontal(given)), truth):
        return False
    if torch.equal(horizontal(vertical(given)), truth):
        return True
    warnings.warn(
        f"Pillow {PIL.__version__} resizes {in_size} to {out_size} differently from the graph; expect differences of "
        "about one grey level between the two",
        stacklevel=3,
    )
    return False


class FrameToTensor(nn.Module):
    """uint8 [N, H, W, 3] -> float32 [N, 3, H, W], values unchanged."""

    def forward(self, frames: Tensor) -> Tensor:
        # The cast comes first: TensorRT takes uint8 as a graph's input where a cast reads it, and nowhere else.
        return frames.to(torch.float32).permute(0, 3, 1, 2)


class Normalize(nn.Module):
    """float32 [..., 3, H, W] -> (x * scale - mean) / std, as the image processor's flags say.

    Args:
        processor: a transformers image processor; `do_rescale`, `rescale_factor`, `do_normalize`, `image_mean` and
            `image_std` are read.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, processor: object) -> None:
        super().__init__()
        rescale = bool(getattr(processor, "do_rescale", True))
        self.scale = float(getattr(processor, "rescale_factor", 1.0)) if rescale else 1.0
        self.normalizes = bool(getattr(processor, "do_normalize", True))
        for name in ("mean", "std"):
            values: Sequence[float] = getattr(processor, f"image_{name}", None) or [0.0 if name == "mean" else 1.0] * 3
            buffer = torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1)
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        image = image * self.scale
        return (image - self.mean) / self.std if self.normalizes else image


def center_crop(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop [..., H, W] to its middle; where the picture is smaller, it is padded with zeros first.

    Args:
        image: [..., H, W].
        size: (height, width) of the result.
    """
    height, width = int(image.shape[-2]), int(image.shape[-1])
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    if top >= 0 and left >= 0:
        return image[..., top : top + size[0], left : left + size[1]]
    new_height, new_width = max(size[0], height), max(size[1], width)
    above, before = math.ceil((new_height - height) / 2), math.ceil((new_width - width) / 2)
    padding = (before, new_width - width - before, above, new_height - height - above)
    padded = nn.functional.pad(image, padding)
    top, left = max(0, top + above), max(0, left + before)
    return padded[..., top : top + size[0], left : left + size[1]]


def pad_to_square(image: Tensor, color: Sequence[int]) -> Tensor:
    """Pad [N, 3, H, W] on both sides of its shorter axis to a square, with one value per channel."""
    height, width = int(image.shape[-2]), int(image.shape[-1])
    if height == width:
        return image
    side = max(height, width)
    axis = -2 if width > height else -1
    missing = side - (height if axis == -2 else width)
    fill = torch.tensor(list(color), dtype=image.dtype).reshape(1, -1, 1, 1)

    def band(pixels: int) -> Tensor:
        shape = (pixels, width) if axis == -2 else (height, pixels)
        return fill.expand(image.shape[0], -1, *shape)

    return torch.cat([band(missing // 2), image, band(missing - missing // 2)], dim=axis)
