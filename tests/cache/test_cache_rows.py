"""Quantised rows: error bounds, packing, saturation, and what demotion does to a token."""

from __future__ import annotations

import pytest
import torch
from cache_helpers import examples, key_scale_for, local_rows, make_tokens, plain_codes, run
from hypothesis import given
from hypothesis import strategies as st

from retentive_export.cache.rows import (
    LEVELS,
    dequantize,
    pack_int4,
    quantize,
    sanitize,
    saturate,
    unpack_int4,
    value_scale_of,
)
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

seeds = st.integers(0, 10**6)
codes = st.sampled_from(["int8", "int4"])


@examples(50)
@given(codes, st.integers(1, 5), st.sampled_from([2, 6, 64]), st.floats(1e-6, 1e6), seeds)
def test_error_is_at_most_half_a_step(dtype: str, rows: int, dim: int, size: float, seed: int) -> None:
    x = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * size
    scale = value_scale_of(x, dtype).unsqueeze(-1)
    back = dequantize(quantize(x, scale, dtype), scale)
    assert ((x - back).abs() <= scale * 0.5 * (1 + 1e-5)).all()
    again = value_scale_of(back, dtype).unsqueeze(-1)
    assert torch.equal(quantize(back, again, dtype), quantize(x, scale, dtype))
    torch.testing.assert_close(again, scale)


@examples(30)
@given(st.integers(1, 9), st.integers(1, 33), seeds)
def test_int4_packing_round_trip(rows: int, half: int, seed: int) -> None:
    x = torch.randint(-7, 8, (rows, 2 * half), generator=torch.Generator().manual_seed(seed)).float()
    packed = pack_int4(x)
    assert packed.shape == (rows, half)
    assert packed.dtype == torch.uint8
    assert torch.equal(unpack_int4(packed), x)
    assert torch.equal(plain_codes(packed), x)


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_out_of_range_saturates_and_zero_scale_is_zero(dtype: str) -> None:
    x = torch.tensor([[1e9, -1e9, 3.0, -3.0]])
    level = LEVELS[dtype]
    assert dequantize(quantize(x, torch.ones(1), dtype), torch.ones(1)).tolist() == [[level, -level, 3.0, -3.0]]
    assert dequantize(quantize(x, torch.zeros(1), dtype), torch.zeros(1)).tolist() == [[0.0] * 4]
    zero = torch.zeros(1, 4)
    assert dequantize(quantize(zero, value_scale_of(zero, dtype), dtype), torch.ones(1)).tolist() == [[0.0] * 4]


def test_sanitize_and_saturate() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.5], dtype=torch.bfloat16)
    assert sanitize(x).tolist() == [0.0, 1e9, -1e9, 1.5]
    assert saturate(sanitize(x), torch.float16).tolist() == [0.0, 65504.0, -65504.0, 1.5]
    assert saturate(sanitize(x), torch.float32).tolist() == [0.0, 1e9, -1e9, 1.5]


@examples(20)
@given(codes, st.integers(1, 4), seeds)
def test_demoted_tokens_stay_within_the_bound(dtype: str, chunk: int, seed: int) -> None:
    """From exact to coarse rows: key and value within half a step (per channel, per row); statistics kept."""
    geometry = CacheGeometry(
        batch=2,
        kv_heads=2,
        q_heads=2,
        head_dim=6,
        exact_rows=8,
        coarse_rows=8,
        coarse_dtype=dtype,
        sinks=1,
        window=4,
        chunk=chunk,
    )
    count = 16 - 16 % chunk
    tokens = make_tokens(geometry, count, seed)
    _, state = run(geometry, tokens, [chunk] * (count // chunk), GateConfig(importance_decay=1.0))
    keys, values = local_rows(state, geometry)
    place = state["row_meta"][:, :, :16, 0].long()
    held = place >= 0
    assert held.sum(dim=-1).eq(count).all()
    index = place.clamp(min=0).unsqueeze(-1).expand(-1, -1, -1, 6)
    key_error = (torch.gather(tokens.k, 2, index) - keys).abs() * held.unsqueeze(-1)
    value_error = (torch.gather(tokens.v, 2, index) - values).abs() * held.unsqueeze(-1)
    assert (key_error[:, :, :8] == 0).all()
    assert (value_error[:, :, :8] == 0).all()
    assert (key_error[:, :, 8:] <= key_scale_for(geometry)[:, None, :] * 0.5001).all()
    assert (value_error[:, :, 8:] <= state["value_scale"].unsqueeze(-1) * 0.5001).all()
    cells = tokens.meta[:, None, :, 1].expand(-1, 2, -1)
    expected = torch.where(held, torch.gather(cells, 2, place.clamp(min=0)), -1)
    assert torch.equal(state["row_meta"][:, :, :16, 1], expected)
    total = (state["importance"] * held).sum(dim=-1)
    torch.testing.assert_close(total, torch.full_like(total, 0.02 * count), atol=0, rtol=1e-4)
