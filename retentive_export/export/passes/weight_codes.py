"""Codes of a weight matrix, by ONNX Runtime's own quantisers.

int8: its block quantiser, codes between a block's smallest and largest value. int4: its half-quadratic quantiser (HQQ,
arXiv 2309.15531), whose zero points are real numbers; weights that lie on a grid of 16 values per block, as those of a
GGUF file in Q4_1, are found without its search and come back to rounding. signed: its block quantiser, symmetric.
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
    """Symmetric codes, a multiple of `block` inputs, as `DequantizeLinear` takes them.

    Args:
        rows: [outputs, inputs] float. bits: 4 or 8.

    Returns:
        codes [inputs, outputs] int8, from -8 to 7 for 4 bits; scales [inputs / block, outputs] as rows.
    """
    with _root_logger_kept():
        from onnxruntime.quantization.matmul_nbits_quantizer import (
            DefaultWeightOnlyQuantConfig,
            DefaultWeightOnlyQuantizer,
        )
    config = DefaultWeightOnlyQuantConfig(block_size=block, bits=bits, is_symmetric=True)
    packed, scales, _ = DefaultWeightOnlyQuantizer(config).qbits_block_quant(np.ascontiguousarray(rows.T))
    levels = packed if bits == 8 else np.stack([packed & 15, packed >> 4], axis=-1)
    codes = levels.reshape(len(rows), -1).astype(np.int16) - (1 << bits - 1)
    return np.ascontiguousarray(codes.T.astype(np.int8)), np.ascontiguousarray(scales.reshape(len(rows), -1).T)


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
