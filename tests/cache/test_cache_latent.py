"""Latent rows: exact where nothing is lost, one set of tokens for all heads, constant bytes, finite whatever comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from cache_helpers import Tokens, causal, key_scale_for, make_tokens, split
from torch import Tensor

from retentive_export.cache import latent
from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.policies import policy
from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

BASE = CacheGeometry(
    batch=2, kv_heads=2, q_heads=6, head_dim=6, exact_rows=0, latent_rows=24, latent_rank=24, sinks=2, window=5, chunk=5
)
MEMORY = {"memory_grid": (2, 3), "recall_rows": 3, "frame_grid": (4, 6), "readout": "mass", "memory_store": "latent"}


def basis_for(geometry: CacheGeometry, step: float = 1.0) -> LatentBasis:
    """Orthonormal columns over all heads; a code is `step` wide."""
    generator = torch.Generator().manual_seed(4)
    heads, size = geometry.kv_heads, 2 * geometry.head_dim
    columns, _ = torch.linalg.qr(torch.randn(heads * size, geometry.latent_rank, generator=generator))
    columns = columns.reshape(heads, size, -1)
    mean = torch.randn(heads, size, generator=generator)
    return LatentBasis(columns / step, columns * step, mean)


def run(geometry: CacheGeometry, tokens: Tokens, chunks: Sequence[int], basis: LatentBasis) -> tuple[Tensor, CacheLoop]:
    scale = key_scale_for(geometry)
    loop = CacheLoop(geometry, GateConfig(), 1, key_scales=None if scale is None else [scale], bases=[basis])
    loop.reset()
    outputs, start = [], 0
    for size in chunks:
        part = tokens.part(start, start + size)
        loop.token_meta = part.meta
        outputs.append(loop.attend(0, part.q, part.k, part.v, geometry.head_dim**-0.5))
        start += size
    return torch.cat(outputs, dim=2), loop


@pytest.mark.parametrize("front", ["none", "exact", "exact+int8"])
def test_a_full_basis_with_nothing_evicted_is_plain_attention(front: str) -> None:
    """All 2 Hkv D numbers, unrounded: a change of coordinates, whatever the mean."""
    rows = {"exact_rows": 7 * ("exact" in front), "coarse_rows": 40 * ("int8" in front)}
    geometry = replace(BASE, latent_rows=40, latent_dtype="model", **rows)
    tokens = make_tokens(geometry, 40, seed=1)
    output, _ = run(geometry, tokens, split(40, 5, seed=2), basis_for(geometry))
    tolerance = 0.05 if "int8" in front else 1e-4  # rows on their way pass through 8 bits
    assert (output - causal(tokens, geometry.groups)).abs().max() < tolerance


def test_keys_and_values_in_the_span_of_the_basis_lose_only_their_rounding() -> None:
    geometry = replace(BASE, latent_rank=4, latent_rows=40)
    basis = basis_for(geometry, step=0.02)
    tokens = make_tokens(geometry, 40, seed=3)
    codes = 100 * torch.rand(geometry.batch, 1, 40, 4, generator=torch.Generator().manual_seed(5)) - 50
    tokens.k, tokens.v = latent.decode(codes, basis)
    output, loop = run(geometry, tokens, [5] * 8, basis)
    assert (output - causal(tokens, geometry.groups)).abs().max() < 0.02
    order = loop.state[0]["row_meta"][0, 0, :, 0].argsort()[-40:]
    stored = loop.state[0]["latent_codes"][0, 0, order].float()
    assert (stored - codes[0, 0]).abs().max() <= 0.5 + 1e-3


def test_int4_codes_are_those_of_int8_at_a_coarser_step() -> None:
    values = torch.linspace(-9, 9, 37).repeat(2, 1).T.contiguous()
    int4, int8 = (replace(BASE, latent_rank=2, latent_dtype=dtype) for dtype in ("int4", "int8"))
    packed = latent.codes_of(values, int4)
    assert packed.dtype == torch.uint8
    assert packed.shape == (37, 1)
    assert torch.equal(latent.latents_of(packed, int4), torch.round(values).clamp(-7, 7))
    assert torch.equal(latent.latents_of(latent.codes_of(values, int8), int8), torch.round(values))


def test_mixed_codes_have_eight_bits_then_four_then_two() -> None:
    """Every code of every width comes back, saturated at its own ends; zeros are zero bytes, as after a reset."""
    geometry = replace(BASE, latent_rank=13, latent_dtype="mixed", latent_int8=3, latent_int4=2)
    values = torch.linspace(-140, 140, 281)[:, None].expand(-1, 13)
    packed = latent.codes_of(values, geometry)
    assert (packed.dtype, packed.shape) == (torch.uint8, (281, 3 + 1 + 2))
    ends = torch.tensor([[-127.0, 127.0]] * 3 + [[-7.0, 7.0]] * 2 + [[-2.0, 1.0]] * 8).T
    assert torch.equal(latent.latents_of(packed, geometry), torch.round(values).clamp(*ends))
    assert not latent.codes_of(torch.zeros(1, 13), geometry).any()


@pytest.mark.parametrize("dtype", ["int8", "int4", "mixed"])
@pytest.mark.parametrize("memory", [False, True])
def test_bytes_are_constant_and_as_predicted(dtype: str, memory: bool) -> None:
    split_rank = {"latent_int8": 2, "latent_int4": 4} if dtype == "mixed" else {}
    rows = {"latent_dtype": dtype, "latent_rank": 10, "exact_rows": 7, **split_rank}
    geometry = replace(BASE, **rows, **(MEMORY if memory else {}))
    tokens = make_tokens(geometry, 90, seed=6)
    _, loop = run(geometry, tokens, split(90, 5, seed=7), basis_for(geometry, step=0.1))
    state = loop.state[0]
    assert {name: tuple(x.shape) for name, x in state.items()} == {s.name: s.shape for s in geometry.state()}
    assert sum(x.nbytes for x in state.values()) == geometry.state_bytes
    width = {"int8": 10, "int4": 5, "mixed": 2 + 2 + 1}[dtype]
    rows = 7 * 2 * 2 * 6 * 4 + 24 * width  # exact rows of 2 heads; one latent for all heads
    bookkeeping = 31 * (8 + 4 + 4) + (9 * (8 + 4) if memory else 0)  # of one head
    assert geometry.state_bytes == 2 * (rows + bookkeeping + (9 * 10 * 4 if memory else 0))


def test_all_heads_keep_the_same_tokens_and_each_token_once() -> None:
    geometry = replace(BASE, exact_rows=7, latent_rows=9, latent_rank=8)
    tokens = make_tokens(geometry, 60, seed=8)
    _, loop = run(geometry, tokens, split(60, 5, seed=9), basis_for(geometry, step=0.05))
    positions = loop.state[0]["row_meta"][..., 0]
    assert positions.shape == (2, 1, 16)
    for row in positions[:, 0].tolist():
        assert len(set(row)) == 16
        assert {0, 1, 55, 56, 57, 58, 59} <= set(row[:7])  # sinks and window are never demoted


def test_the_memory_merges_latents_with_their_mass() -> None:
    """Tokens with one and the same key and value: the memory's rows are that latent, and no mass is lost."""
    geometry = replace(BASE, latent_rows=12, latent_rank=6, **MEMORY)
    tokens = make_tokens(geometry, 70, seed=10)
    tokens.k, tokens.v = (x[:, :, :1].expand_as(x).contiguous() for x in (tokens.k, tokens.v))
    basis = basis_for(geometry, step=0.05)
    _, loop = run(geometry, tokens, [5] * 14, basis)
    state = loop.state[0]
    used = state["memory_mass"] > 0
    assert torch.allclose(state["memory_mass"].sum(dim=(1, 2)), torch.full((2,), 70.0 - 12))
    codes = latent.codes_of(latent.encode(tokens.k[:, :, :1], tokens.v[:, :, :1], basis), geometry)
    want = latent.latents_of(codes, geometry)
    merged = state["memory_latents"]
    assert torch.allclose(merged[used], want.expand_as(merged)[used], atol=1e-3)


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_hostile_tokens_leave_a_finite_state(value: float, memory: bool) -> None:
    geometry = replace(BASE, latent_rank=6, exact_rows=7, **(MEMORY if memory else {}))
    tokens = make_tokens(geometry, 45, seed=11)
    tokens.k[:, :, ::3] = value
    tokens.v[:, 1, ::4] = -value
    tokens.q[:, :, 7] = value
    output, loop = run(geometry, tokens, [5] * 9, basis_for(geometry, step=1e-3))
    assert torch.isfinite(output).all()
    assert all(torch.isfinite(x.float()).all() for x in loop.state[0].values())


def test_padding_changes_nothing() -> None:
    geometry = replace(BASE, latent_rank=6, exact_rows=7)
    tokens, basis = make_tokens(geometry, 40, seed=12), basis_for(geometry, step=0.05)
    _, plain = run(geometry, tokens, [4] * 10, basis)
    padded = CacheLoop(geometry, GateConfig(), 1, bases=[basis])
    padded.reset()
    for start in range(0, 40, 4):
        part = tokens.part(start, start + 4)
        spread = [
            torch.cat([x[:, :, :2], torch.full_like(x[:, :, :1], 9.0), x[:, :, 2:]], 2)
            for x in (part.q, part.k, part.v)
        ]
        padded.token_meta = torch.cat([part.meta[:, :2], torch.full_like(part.meta[:, :1], -1), part.meta[:, 2:]], 1)
        padded.attend(0, *spread, geometry.head_dim**-0.5)
    for name, x in plain.state[0].items():
        torch.testing.assert_close(padded.state[0][name], x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent_rank": 0}, "latent_rank is 0, and must be from 1 to 24"),
        ({"latent_rank": 25}, "latent_rank is 25, and must be from 1 to 24"),
        ({"latent_rank": 5, "latent_dtype": "int4"}, "latent_rank 5 is odd"),
        ({"latent_rank": 8, "latent_dtype": "mixed", "latent_int8": 9}, "9 in int8, 0 in int4, -1 in int2"),
        (
            {"latent_rank": 9, "latent_dtype": "mixed", "latent_int8": 2, "latent_int4": 3},
            "two numbers of int4, or four",
        ),
        ({**MEMORY, "memory_store": "exact"}, "the memory's rows are latents too"),
        ({"readout": "residual"}, "keeps a state per head"),
        ({"exact_rows": 6}, "exact_rows is 6: with latent_rows behind it, it must hold sinks . window"),
        ({"exact_rows": 7, "latent_rows": 4}, "latent_rows is 4, fewer than a chunk of 5"),
        ({"latent_rows": 0, "exact_rows": 20, "memory_store": "latent"}, "there are no latent rows"),
    ],
)
def test_what_latent_rows_cannot_be_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(BASE, **change)


def test_a_score_over_keys_per_head_is_refused() -> None:
    tokens = make_tokens(BASE, 40, seed=13)
    loop = CacheLoop(BASE, GateConfig(), 1, bases=[basis_for(BASE)], score=policy("key_norm").score)
    loop.reset()
    part = tokens.part(0, 5)
    loop.token_meta = part.meta
    with pytest.raises(RecipeError, match="reads each head's keys"):
        loop.attend(0, part.q, part.k, part.v, 1.0)
