"""Weight formats: what a recipe may ask for, and the bytes that a quantised matrix takes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from retentive_export.errors import RecipeError
from retentive_export.spec.geometry import BYTES
from retentive_export.spec.targets import Target

__all__ = [
    "BLOCKS",
    "TABLE_BITS",
    "WeightsRecord",
    "WeightsSection",
    "check_blocks",
    "check_weights",
    "quantised_bytes",
    "symmetric_bytes",
]

_BITS = {"int8": 8, "int4": 4}
TABLE_BITS = 8
"""Of the embedding table, and of a head that shares it, in either format."""
BLOCKS = (32, 64, 128)


class WeightsSection(BaseModel):
    """Format of the language model's matrices and of its embedding table.

    format: "none" keeps the model's dtype; the table, and a head that shares it, are int8 in either format. In engines
    the table stays in the model's dtype, and such a head has int8 codes of its own. block: successive inputs of one
    output that share a scale and, outside of engines, a zero point.
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


def symmetric_bytes(inputs: int, outputs: int, *, bits: int, block: int, dtype: str) -> int:
    """The same for engines: signed codes, and per block a scale in `dtype`."""
    return outputs * inputs * bits // 8 + outputs * (inputs // block) * BYTES[dtype]


def check_blocks(weights: WeightsSection, inputs: int, matrix: str) -> None:
    """Refuse a block that does not divide a matrix's inputs, where the weights go into an engine.

    Raises:
        RecipeError: names the matrix and the blocks that would do.
    """
    if inputs % weights.block == 0:
        return
    fitting = [str(block) for block in BLOCKS if inputs % block == 0]
    raise RecipeError(
        f"weights.block is {weights.block}, and the matrix {matrix} has {inputs} inputs: TensorRT takes whole blocks",
        hint=f"--set weights.block={fitting[-1]}" if fitting else "--set weights.format=none",
    )


def check_weights(weights: WeightsSection, dtype: str, target: Target) -> None:
    """Refuse a format that the target or the model's dtype has no operators for.

    Raises:
        RecipeError: the target lacks the precision, or it is beside bfloat16.
    """
    if weights.format == "none":
        return
    if weights.format not in target.precisions:
        raise RecipeError(
            f"weights.format is {weights.format!r}, and target {target.name!r} computes in: "
            f"{', '.join(target.precisions)}",
            hint="--set weights.format=none",
        )
    if dtype == "bfloat16":
        raise RecipeError(
            f"weights.format is {weights.format!r} and model.dtype is 'bfloat16', and quantised weights are multiplied "
            "in float32 and float16",
            hint=f"--set model.dtype={'float16' if target.engines != 'none' else 'float32'}, or --set "
            "weights.format=none",
        )
