"""Comparison of two states of one artifact: the rows that hold other tokens, and the largest error of the others.

Rows whose `row_meta` differs hold different tokens, so their content is not comparable: they are counted, and left out
of the errors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from retentive_export.spec.arrays import Array
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["compare_states", "differing_rows", "has_int4"]

_BITS = {"int8": 8, "int4": 4}
_LEVELS = {8: 254, 4: 14, 2: 3}


def differing_rows(ours: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[int, int]:
    """layer -> rows, over batch and heads, whose `row_meta` differs; only layers that the reference holds."""
    counts = {}
    for name, expected in reference.items():
        prefix, _, kind = name.rpartition(".")
        if kind == "row_meta":
            counts[int(prefix.rpartition(".")[2])] = int((ours[name] != expected).any(axis=-1).sum())
    return counts


def compare_states(
    geometry: CacheGeometry, ours: Mapping[str, Array], reference: Mapping[str, Array]
) -> dict[str, float]:
    """Tensor kind -> error, over all layers that the reference holds.

    Of a floating tensor: the largest absolute difference over the reference's largest magnitude. Of codes: the share
    that is one level off (rounding at a tie), or by how many levels the worst is further off, over all levels.
    """
    errors: dict[str, float] = {}
    for name, expected in reference.items():
        prefix, _, kind = name.rpartition(".")
        if kind == "row_meta":
            continue
        same = (ours[f"{prefix}.row_meta"] == reference[f"{prefix}.row_meta"]).all(axis=-1)
        rows = _rows_of(geometry, kind)
        keep = np.ones(expected.shape[:2], bool) if rows is None else _per_head(same[:, :, rows], expected)
        if kind in ("key_codes", "value_codes"):
            error = _code_error(ours[name][keep], expected[keep], [(_BITS[geometry.coarse_dtype], geometry.head_dim)])
        elif kind == "latent_codes" and (parts := geometry.latent_parts):
            error = _code_error(_offset(ours[name][keep], geometry), _offset(expected[keep], geometry), parts)
        else:
            error = _float_error(ours[name], expected, keep)
        errors[kind] = max(errors.get(kind, 0.0), error)
    return errors


def has_int4(geometry: CacheGeometry) -> bool:
    """Whether some local rows have 4 bits a number, or fewer."""
    coarse, latent = geometry.coarse_rows and geometry.coarse_dtype, geometry.latent_rows and geometry.latent_dtype
    return "int4" in (coarse, latent) or latent == "mixed"


def _per_head(same: Array, expected: Array) -> Array:
    """[B, H or 1, rows] for the heads of a tensor: with latent rows all heads keep the same tokens."""
    return np.broadcast_to(same, (*expected.shape[:2], same.shape[2]))


def _rows_of(geometry: CacheGeometry, kind: str) -> Array | None:
    """Rows of `row_meta` that a tensor's third axis stands for; None for a tensor without rows."""
    exact, local = geometry.exact_rows, geometry.local_rows
    latent = exact + geometry.coarse_rows
    memory = np.arange(local, geometry.rows)
    stored = {"exact": np.arange(exact), "coarse": np.arange(exact, latent), "latent": np.arange(latent, local)}
    if geometry.memory_store != "latent":
        stored[geometry.memory_store] = np.append(stored[geometry.memory_store], memory)
    if kind in ("key_rows", "value_rows"):
        return stored["exact"]
    if kind in ("key_codes", "value_codes", "value_scale"):
        return stored["coarse"]
    if kind == "latent_codes":
        return stored["latent"]
    return {"importance": np.arange(local), "entropy": np.arange(local)}.get(
        kind, memory if kind in ("memory_mass", "memory_latents") else None
    )


def _float_error(ours: Array, reference: Array, keep: Array) -> float:
    scale = float(np.abs(reference.astype(np.float64)).max(initial=0.0)) or 1.0
    difference = np.abs(ours[keep].astype(np.float64) - reference[keep].astype(np.float64))
    return float(difference.max(initial=0.0)) / scale


def _code_error(ours: Array, reference: Array, parts: Sequence[tuple[int, int]]) -> float:
    """The worst of the parts: (bits, numbers) of each, as in `CacheGeometry.latent_parts`."""
    if not reference.size:
        return 0.0
    ends = np.cumsum([bits * count // 8 for bits, count in parts])[:-1]
    errors = []
    for (bits, _), a, b in zip(parts, np.split(ours, ends, axis=-1), np.split(reference, ends, axis=-1), strict=True):
        off = np.abs(_levels(a, bits) - _levels(b, bits))
        errors.append(max(float((off > 0).mean()), float(off.max() - 1) / _LEVELS[bits]))
    return max(errors)


def _levels(codes: Array, bits: int) -> npt.NDArray[np.int16]:
    """Code levels as integers, code + half the range; packed ones lie 8 / bits in a byte."""
    wide = codes.astype(np.int16)
    return (
        np.concatenate([(wide >> shift) & (2**bits - 1) for shift in range(0, 8, bits)], axis=-1) if bits < 8 else wide
    )


def _offset(codes: Array, geometry: CacheGeometry) -> Array:
    """Bytes of mixed latents, in two's complement, as codes offset by half their range; others as they are."""
    if geometry.latent_dtype != "mixed":
        return codes
    halves = {8: 0x80, 4: 0x88, 2: 0xAA}
    flips = [np.full(bits * count // 8, halves[bits], np.uint8) for bits, count in geometry.latent_parts]
    flipped: Array = codes ^ np.concatenate(flips)
    return flipped
