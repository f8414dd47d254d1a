"""Bytes of a model's weights in the recipe's format; exact."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from retentive_export.planner.shape import ModelShape
from retentive_export.spec.geometry import BYTES
from retentive_export.spec.plan import CachePlan
from retentive_export.spec.weights import TABLE_BITS, WeightsSection, check_blocks, quantised_bytes, symmetric_bytes

__all__ = ["WeightBytes", "weight_bytes"]


@dataclass(frozen=True, kw_only=True)
class WeightBytes:
    """Bytes by what reads them, as `Parameters` has the counts."""

    vision: int
    embedding: int
    layers: int
    head: int

    @property
    def total(self) -> int:
        """All of them, shared ones once."""
        return self.vision + self.embedding + self.layers + self.head

    @property
    def per_token(self) -> int:
        """Those that a decode step reads."""
        return self.layers + (self.head or self.embedding)

    def with_bases(self, cache: CachePlan) -> WeightBytes:
        """With the latent bases of every layer."""
        bases = sum(spec.nbytes for spec in cache.geometry.constants() if spec.name.startswith("latent_"))
        return replace(self, layers=self.layers + cache.layers * bases)


def weight_bytes(shape: ModelShape, weights: WeightsSection, dtype: str, *, engines: bool = False) -> WeightBytes:
    """Of a model in `dtype` whose matrices and table are in the format of `weights`; all else stays in `dtype`.

    Args:
        engines: as they lie in TensorRT's: symmetric codes, the table in `dtype`, a head that shares it with its own.

    Raises:
        RecipeError: a block does not divide a matrix's inputs, where it must.
    """
    counts, size, text = shape.parameters, BYTES[dtype], shape.text
    if weights.format == "none":
        sizes = {name: getattr(counts, name) * size for name in ("vision", "embedding", "layers", "head")}
        return WeightBytes(**sizes)
    coded = partial(symmetric_bytes if engines else quantised_bytes, block=weights.block, dtype=dtype)
    if engines:
        for inputs, outputs in {*shape.matrices, (text.hidden, text.vocab)}:
            check_blocks(weights, inputs, f"of {inputs} x {outputs}")
    matrices = text.layers * sum(coded(i, o, bits=weights.bits) for i, o in shape.matrices)
    rest = counts.layers - text.layers * sum(i * o for i, o in shape.matrices)
    table, head = coded(text.hidden, text.vocab, bits=TABLE_BITS), coded(text.hidden, text.vocab, bits=weights.bits)
    if engines:
        table, shared = counts.embedding * size, table
    else:
        shared = 0
    return WeightBytes(
        vision=counts.vision * size,
        embedding=table,
        layers=matrices + rest * size,
        head=head if counts.head else shared,
    )
