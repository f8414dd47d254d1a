"""Codes of a weight matrix, by ONNX Runtime's own quantisers where it is the one that reads them.

int8: its block quantiser, codes between a block's smallest and largest value. int4: its half-quadratic quantiser (HQQ,
arXiv 2309.15531), whose zero points are real numbers; weights that lie on a grid of 16 values per block, as those of a
GGUF file in Q4_1, are found without its search and come back to rounding. signed: for TensorRT, see there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from retentive_export.spec.arrays import Array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["int4_codes", "int8_codes", "signed_codes"]

CLIPS = (1.0, 0.97, 0.94, 0.91, 0.88, 0.85, 0.82, 0.79)
"""Shares of a block's largest magnitude that the largest code may stand for."""

_MIDDLE = 8


def int8_codes(rows: Array, block: int) -> dict[str, Array]:
    """rows: [outputs, inputs] float. codes [outputs, blocks, block] uint8; scales [outputs, blocks] as rows; zeros
    [outputs, blocks] uint8."""
    with _root_logger_kept():
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )
    config = DefaultWeightOnlyQuantConfig(block_size=block, bits=8, is_symmetric=False)
    codes, scales, zeros = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(rows.T))
    return {"codes": codes, "scales": scales, "zeros": zeros.reshape(len(rows), -1)}


def signed_codes(rows: Array, block: int, bits: int) -> tuple[Array, Array]:
    """Symmetric codes as TensorRT's `DequantizeLinear` takes them: no zero points, positive scales.

    Of `CLIPS` scales per block the one with the smallest squared error is taken: the larger ones represent a block's
    largest magnitude, the smaller ones cut it off for finer levels. (ONNX Runtime's symmetric quantiser, which puts the
    largest magnitude on the code that only one sign has, has negative scales, and TensorRT's parser refuses these.)

    Args:
        rows: [outputs, inputs] float, inputs a multiple of `block`. bits: 4 or 8.

    Returns:
        codes [inputs, outputs] int8, from -8 to 7 for 4 bits; scales [inputs / block, outputs] as rows.
    """
    top = (1 << bits - 1) - 1
    blocks = rows.astype(np.float32).reshape(len(rows), -1, block)
    largest = np.abs(blocks).max(axis=-1, keepdims=True)
    best: Array | None = None
    for clip in CLIPS:
        scales = (largest * clip / top).astype(rows.dtype)
        scales[scales == 0] = 1  # nothing but zeros, or too small for the dtype
        codes = np.clip(np.rint(blocks / scales.astype(np.float32)), -top - 1, top)
        error = ((codes * scales.astype(np.float32) - blocks) ** 2).sum(axis=-1, keepdims=True)
        if best is None:
            best, found, taken = error, codes, scales
            continue
        better = error < best
        best, found, taken = (
            np.where(better, error, best),
            np.where(better, codes, found),
            np.where(better, scales, taken),
        )
    return (
        np.ascontiguousarray(found.reshape(rows.shape).T.astype(np.int8)),
        np.ascontiguousarray(taken[..., 0].T),
    )


def int4_codes(rows: Array, block: int) -> dict[str, Array]:
    """rows: [outputs, inputs] float. codes [outputs, blocks, block / 2] uint8, low bits first; scales [outputs, blocks]
    as rows; offsets [blocks, outputs] as rows, scale * (8 - zero point)."""
    import torch

    with _root_logger_kept():
        from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, HQQWeightOnlyQuantizer
    quantiser = HQQWeightOnlyQuantizer(HQQWeightOnlyQuantConfig(block_size=block, bits=4))
    weights = torch.from_numpy(rows.astype(np.float32))
    found = quantiser.quantize_internal(weights, bits=4, group_size=block, round_zero=False, optimize=False)
    if not _lie_on(weights, found, block):
        found = quantiser.quantize_internal(weights, bits=4, group_size=block, round_zero=False)
    levels, scales, zeros = (tensor.numpy() for tensor in found)
    levels = levels.astype(np.uint8).reshape(len(rows), -1, block)
    return {
        "codes": levels[..., 0::2] | levels[..., 1::2] << 4,
        "scales": scales.astype(rows.dtype),
        "offsets": np.ascontiguousarray((scales * (_MIDDLE - zeros)).T.astype(rows.dtype)),
    }


def _lie_on(weights: Tensor, found: tuple[Tensor, Tensor, Tensor], block: int) -> bool:
    """Whether the weights are within a thousandth of a level of their codes, so that no search can better them."""
    levels, scales, zeros = found
    wide = (levels.reshape(len(levels), -1, block) - zeros[..., None]) * scales[..., None]
    error = (wide.reshape(len(levels), -1)[:, : weights.shape[1]] - weights).abs()
    return bool((error <= 1e-3 * scales.repeat_interleave(block, dim=1)[:, : weights.shape[1]]).all())


@contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Importing ONNX Runtime's quantiser configures the root logger; afterwards it is as it was."""
    logger = logging.getLogger()
    handlers, level = list(logger.handlers), logger.level
    try:
        yield
    finally:
        logger.handlers[:] = handlers
        logger.setLevel(level)
