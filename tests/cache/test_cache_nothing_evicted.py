"""Invariant 1: with enough rows, bounded attention is plain attention, whatever the chunking, padding or policy."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cache_helpers import (
    Tokens,
    causal,
    examples,
    geometries,
    grown,
    key_scale_for,
    make_tokens,
    plain_codes,
    run,
    split,
)
from hypothesis import given
from hypothesis import strategies as st

from retentive_export.cache.policies import CLASSES, policy
from retentive_export.cache.rows import dequantize, quantize, value_scale_of
from retentive_export.spec.geometry import CacheGeometry

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
seeds = st.integers(0, 10**6)


def exact_only(geometry: CacheGeometry) -> CacheGeometry:
    return replace(geometry, exact_rows=geometry.local_rows, coarse_rows=0, memory_store="exact")


@examples(60)
@given(geometries(), st.integers(1, 40), seeds)
def test_output_is_causal_attention_for_any_chunking(geometry: CacheGeometry, count: int, seed: int) -> None:
    """Exact rows, or exact rows before coarse ones that stay empty: equal to torch's attention."""
    geometry = exact_only(geometry) if not geometry.exact_rows else geometry
    geometry = grown(geometry, count)
    tokens = make_tokens(geometry, count, seed)
    output, _ = run(geometry, tokens, split(count, geometry.chunk, seed))
    error = (output.float() - causal(tokens, geometry.groups)).abs().max()
    assert error <= TOLERANCE[geometry.dtype]


@pytest.mark.parametrize("rows", [63, 1000])
@pytest.mark.parametrize("chunk", [1, 7, 63])
def test_awkward_sizes(rows: int, chunk: int) -> None:
    geometry = CacheGeometry(kv_heads=2, q_heads=6, head_dim=5, exact_rows=rows, window=chunk, chunk=chunk)
    count = min(rows, 130)
    tokens = make_tokens(geometry, count, rows)
    output, _ = run(geometry, tokens, split(count, chunk, 1) if chunk > 1 else [1] * count)
    torch.testing.assert_close(output, causal(tokens, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_every_policy_leaves_a_full_cache_alone(name: str) -> None:
    base = CacheGeometry(batch=2, kv_heads=2, q_heads=4, head_dim=4, exact_rows=21, window=4, chunk=4)
    chosen = policy(name)
    geometry = chosen.geometry(base)
    tokens = make_tokens(geometry, 21, 5)
    output, _ = run(geometry, tokens, split(21, 4, 2), chosen.constants, chosen.score)
    torch.testing.assert_close(output, causal(tokens, 2), atol=1e-5, rtol=0)


@examples(40)
@given(geometries(), st.integers(1, 20), st.integers(0, 4), seeds)
def test_left_padding_changes_nothing(geometry: CacheGeometry, count: int, padding: int, seed: int) -> None:
    """A short row of the batch, padded on the left with NaN, gives what it gives alone."""
    geometry = replace(grown(geometry, count), batch=2, dtype="float32")
    count = max(count, padding + 1)
    geometry = grown(geometry, count)
    tokens = make_tokens(geometry, count, seed)
    alone = Tokens(*(x[1:, :, padding:] for x in (tokens.q, tokens.k, tokens.v)), tokens.meta[1:, padding:].clone())
    alone.meta[..., 0] -= padding
    for x in (tokens.q, tokens.k, tokens.v):
        x[1, :, :padding] = torch.nan
    tokens.meta[1, :, 0] -= padding
    output, state = run(geometry, tokens, split(count, geometry.chunk, seed))
    single = replace(geometry, batch=1)
    expected, expected_state = run(single, alone, split(count - padding, geometry.chunk, seed + 1))
    assert torch.isfinite(output).all()
    if geometry.exact_rows:  # coarse rows depend on the chunking: a chunk's own tokens are seen unquantised
        torch.testing.assert_close(output[1:, :, padding:], expected, atol=1e-5, rtol=0)
        for name in ("importance", "entropy"):
            mine, other = (s[name].sort().values for s in (state, expected_state))
            torch.testing.assert_close(mine[1:], other, atol=1e-5, rtol=1e-4)
    assert (state["row_meta"][1, :, :, 0] >= 0).sum() == (expected_state["row_meta"][0, :, :, 0] >= 0).sum()


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("chunk", [1, 4])
def test_coarse_rows_are_attention_over_dequantised_tokens(dtype: str, chunk: int) -> None:
    """Coarse rows only: earlier steps are read as quantised, the step's own tokens as they are."""
    count = 16
    geometry = CacheGeometry(
        batch=2,
        kv_heads=2,
        q_heads=4,
        head_dim=6,
        exact_rows=0,
        coarse_rows=count,
        coarse_dtype=dtype,
        window=4,
        chunk=4,
    )
    tokens = make_tokens(geometry, count, 3)
    output, state = run(geometry, tokens, [chunk] * (count // chunk))
    scale = key_scale_for(geometry)
    value_scale = value_scale_of(tokens.v, dtype).unsqueeze(-1)
    k = dequantize(quantize(tokens.k, scale[:, None, :], dtype), scale[:, None, :])
    v = dequantize(quantize(tokens.v, value_scale, dtype), value_scale)
    torch.testing.assert_close(plain_codes(state["key_codes"]) * scale[:, None, :], k)
    for start in range(0, count, chunk):
        stop = start + chunk
        mixed = tokens.part(0, stop)
        mixed.k = torch.cat([k[:, :, :start], tokens.k[:, :, start:stop]], dim=2)
        mixed.v = torch.cat([v[:, :, :start], tokens.v[:, :, start:stop]], dim=2)
        expected = causal(mixed, 2)[:, :, start:]
        torch.testing.assert_close(output[:, :, start:stop], expected, atol=1e-5, rtol=0)
