"""Weight formats: what a recipe may ask for, and the bytes that a quantised matrix takes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from retentive_export.errors import RecipeError
from retentive_export.spec.geometry import BYTES

__all__ = ["BLOCKS", "TABLE_BITS", "WeightsRecord", "WeightsSection", "check_weights", "quantised_bytes"]

_BITS = {"int8": 8, "int4": 4}
TABLE_BITS = 8
"""Of the embedding table, and of a head that shares it, in either format."""
BLOCKS = (32, 64, 128)


class WeightsSection(BaseModel):
    """Format of the language model's matrices and of its embedding table.

    format: "none" keeps the model's dtype; the table, and a head that shares it, are int8 in either format. block:
    successive inputs of one output that share a scale and a zero point.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    format: Literal["none", "int8", "int4"] = "none"
    block: int = 32

    @model_validator(mode="after")
    def _block_is_known(self) -> WeightsSection:
        if self.block not in BLOCKS:
            raise ValueError(f"block is {self.block}, and must be one of {', '.join(map(str, BLOCKS))}")
        return self

    @property
    def bits(self) -> int:
        """Bits of a code; 0 where nothing is quantised."""
        return _BITS.get(self.format, 0)


class WeightsRecord(BaseModel):
    """What quantisation made of a decoder: matrices (a table that two operators share counts once), the parameters in
    them, their bytes with scales and zero points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["int8", "int4"]
    block: int
    matrices: int
    parameters: int
    bytes: int


def quantised_bytes(inputs: int, outputs: int, *, bits: int, block: int, dtype: str) -> int:
    """Bytes of a matrix [inputs, outputs]: codes, padded to whole blocks, and per block a scale in `dtype`, the
    model's; besides, for 8 bits a zero point of one byte, for 4 bits an offset in `dtype`."""
    blocks = -(-inputs // block)
    return outputs * blocks * (block * bits // 8 + BYTES[dtype] + (1 if bits == 8 else BYTES[dtype]))


def check_weights(weights: WeightsSection, dtype: str, engines: str, target: str) -> None:
    """Refuse a format that the target or the model's dtype has no operators for.

    Raises:
        RecipeError: quantised weights for engines, or beside bfloat16.
    """
    if weights.format == "none":
        return
    if engines != "none":
        raise RecipeError(
            f"weights.format is {weights.format!r}, and the target {target!r} runs TensorRT engines, whose weights are "
            "in the model's dtype; quantised weights run on ONNX Runtime",
            hint="--target cpu, or --set weights.format=none",
        )
    if dtype == "bfloat16":
        raise RecipeError(
            f"weights.format is {weights.format!r} and model.dtype is 'bfloat16', and ONNX Runtime multiplies by "
            "quantised weights in float32 and float16",
            hint="--set model.dtype=float32, or --set weights.format=none",
        )
