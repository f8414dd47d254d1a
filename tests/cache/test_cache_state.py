"""Invariants 2, 4 and 5: mass, bytes, protection, one row per token, and hostile input."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cache_helpers import STRIDE, State, Tokens, causal, examples, geometries, make_tokens, positions, run, split
from hypothesis import given
from hypothesis import strategies as st

from retentive_export.cache.policies import CLASSES, policy
from retentive_export.cache.step import TORCH_DTYPES, empty_state
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry

seeds = st.integers(0, 10**6)
GATES = GateConfig(
    retention=SigmoidGate(enabled=True, weight=2.0, bias=1.0),
    absorption=SigmoidGate(enabled=True, weight=1.0, bias=-1.0),
    readout=SigmoidGate(enabled=True),
    beta=0.1,
)


def check_layout(state: State, geometry: CacheGeometry) -> None:
    assert list(state) == [spec.name for spec in geometry.state()]
    for spec in geometry.state():
        assert tuple(state[spec.name].shape) == spec.shape
        assert state[spec.name].dtype == TORCH_DTYPES[spec.dtype]
        assert state[spec.name].isfinite().all()
    assert sum(x.numel() * x.element_size() for x in state.values()) == geometry.state_bytes


def check_rows(before: State, after: State, start: int, stop: int, geometry: CacheGeometry) -> None:
    """Protection, no token twice, empty rows first, tiers in order."""
    exact = geometry.exact_rows
    for was, now in zip(positions(before, geometry), positions(after, geometry), strict=True):
        for old, new in zip(was, now, strict=True):
            held = [p for p in new if p >= 0]
            assert len(set(held)) == len(held)
            assert set(range(min(geometry.sinks, stop))) <= set(held)
            assert set(range(max(0, stop - geometry.window), stop)) <= set(held)
            assert set(held) <= set(old) | set(range(start, stop))
            assert len(held) == min(stop, geometry.local_rows)
            assert sum(p >= 0 for p in new[:exact]) == min(stop, exact)
            if exact and geometry.coarse_rows:
                assert set(range(max(0, stop - geometry.window), stop)) <= set(new[:exact])
                assert not set(range(start, stop)) & set(new[exact:])


def used_mass(state: State, geometry: CacheGeometry) -> torch.Tensor:
    occupied = (state["row_meta"][:, :, : geometry.local_rows, 0] >= 0).sum(-1)
    return occupied + state["memory_mass"].sum(-1)


@examples(60)
@given(geometries(), st.integers(1, 60), seeds, st.booleans())
def test_layout_and_rows_hold_at_every_step(geometry: CacheGeometry, count: int, seed: int, gated: bool) -> None:
    def watch(before: State, after: State, start: int, stop: int) -> None:
        check_layout(after, geometry)
        check_rows(before, after, start, stop, geometry)
        if geometry.memory_rows and not gated:
            torch.testing.assert_close(used_mass(after, geometry), torch.full_like(used_mass(after, geometry), stop))

    gate = GATES if gated else GateConfig()
    output, _ = run(geometry, make_tokens(geometry, count, seed), split(count, geometry.chunk, seed), gate, watch=watch)
    assert output.dtype == TORCH_DTYPES[geometry.dtype]
    assert output.isfinite().all()


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize("tiers", [(14, 0), (0, 14), (10, 6)])
def test_every_policy_keeps_the_invariants(name: str, tiers: tuple[int, int]) -> None:
    chosen = policy(name)
    geometry = chosen.geometry(
        CacheGeometry(
            batch=2,
            kv_heads=2,
            q_heads=4,
            head_dim=6,
            exact_rows=tiers[0],
            coarse_rows=tiers[1],
            sinks=2,
            window=5,
            chunk=4,
            frame_grid=(3, 3),
        )
    )

    def watch(before: State, after: State, start: int, stop: int) -> None:
        check_layout(after, geometry)
        check_rows(before, after, start, stop, geometry)

    run(geometry, make_tokens(geometry, 50, 1), split(50, 4, 1), chosen.constants, chosen.score, watch=watch)


@examples(30)
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 5), st.integers(20, 70), seeds, st.booleans())
def test_merging_equal_keys_is_exact(
    kv_heads: int, groups: int, chunk: int, count: int, seed: int, visual: bool
) -> None:
    """All keys that one memory row takes are equal: attention over rows and memory is attention over all tokens."""
    frame = (2, 3)
    geometry = CacheGeometry(
        kv_heads=kv_heads,
        q_heads=kv_heads * groups,
        head_dim=4,
        exact_rows=chunk + 4,
        memory_grid=frame if visual else (0, 0),
        frame_grid=frame,
        recall_rows=1,
        sinks=1,
        window=chunk,
        chunk=chunk,
        readout="mass",
    )
    tokens = make_tokens(geometry, count, seed, visual=0.7 if visual else 0.0)
    cell = tokens.meta[0, :, 1]
    table = torch.randn(kv_heads, 7, 4, generator=torch.Generator().manual_seed(seed))
    kind = torch.where(cell < 0, 6, cell // STRIDE * frame[1] + cell % STRIDE).long()
    tokens.k = table[:, kind].unsqueeze(0).contiguous()
    output, state = run(geometry, tokens, split(count, chunk, seed))
    torch.testing.assert_close(output, causal(tokens, groups), atol=2e-5, rtol=0)
    assert used_mass(state, geometry).tolist() == [[count] * kv_heads]


def test_memory_value_is_the_mean_of_what_it_took() -> None:
    geometry = CacheGeometry(
        kv_heads=1, q_heads=1, head_dim=2, exact_rows=3, recall_rows=1, window=1, chunk=1, readout="mass", sinks=0
    )
    tokens = make_tokens(geometry, 12, 4, visual=0.0)
    gate = GateConfig(score="recency")
    _, state = run(geometry, tokens, [1] * 12, gate)
    torch.testing.assert_close(state["value_rows"][0, 0, 3], tokens.v[0, 0, :9].mean(dim=0))
    torch.testing.assert_close(state["key_rows"][0, 0, 3], tokens.k[0, 0, :9].mean(dim=0))
    assert state["memory_mass"].item() == 9
    assert state["row_meta"][0, 0, 3].tolist() == [8, -1]


@examples(40)
@given(geometries(), st.integers(1, 4), seeds)
def test_padding_steps_change_nothing(geometry: CacheGeometry, extra: int, seed: int) -> None:
    """A step of nothing but NaN padding leaves every tensor of the state as it was."""
    count = geometry.local_rows + extra
    tokens = make_tokens(geometry, count, seed)
    _, state = run(geometry, tokens, split(count, geometry.chunk, seed), GATES)
    padding = make_tokens(geometry, geometry.chunk, seed)
    for x in (padding.q, padding.k, padding.v):
        x.fill_(torch.nan)
    padding.meta.fill_(-1)
    output, after = run(geometry, padding, [geometry.chunk], GATES, state=state)
    assert output.isfinite().all()
    for name, tensor in state.items():
        torch.testing.assert_close(after[name], tensor, atol=0, rtol=1e-6)


@examples(40)
@given(geometries(), st.integers(0, 3), seeds)
def test_ragged_chunks_use_empty_rows_and_lose_no_token(geometry: CacheGeometry, gap: int, seed: int) -> None:
    """Padding anywhere in a chunk takes no row from a real token: no token twice, empty rows first, mass conserved."""
    geometry = replace(geometry, batch=1)
    count = geometry.local_rows + 12
    tokens = make_tokens(geometry, count, seed)
    real = torch.rand(count, generator=torch.Generator().manual_seed(seed)) < 0.7
    order = torch.where(real, real.long().cumsum(0) - 1, -1)
    tokens.meta[0, :, 0] = order.int()

    def watch(before: State, after: State, start: int, stop: int) -> None:
        seen = int(real[:stop].sum())
        for new in positions(after, geometry)[0]:
            held = [p for p in new if p >= 0]
            assert len(set(held)) == len(held) == min(seen, geometry.local_rows)
            assert set(range(max(0, seen - geometry.window), seen)) <= set(held)
        if geometry.memory_rows:
            assert used_mass(after, geometry).round().tolist() == [[seen] * geometry.kv_heads]

    run(geometry, tokens, split(count, geometry.chunk, seed), watch=watch)


POISONS = [float("nan"), float("inf"), 1e38]


def poisoned(geometry: CacheGeometry, count: int, poison: float, share: float) -> Tokens:
    """Tokens in which a share of the numbers of q, k and v is `poison`, with random signs."""
    tokens = make_tokens(geometry, count, 7)
    generator = torch.Generator().manual_seed(7)
    for name in "qkv":
        x = getattr(tokens, name)
        hit = torch.rand(x.shape, generator=generator) < share
        sign = torch.where(torch.rand(x.shape, generator=generator) < 0.5, -1.0, 1.0)
        setattr(tokens, name, torch.where(hit, sign * poison, x.float()).to(x.dtype))
    return tokens


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("readout", ["none", "mass", "residual", "moments"])
@pytest.mark.parametrize("tiers", [(9, 0), (0, 9), (7, 4)])
def test_hostile_values_stay_finite(dtype: str, readout: str, tiers: tuple[int, int]) -> None:
    """NaN, infinity and huge numbers in the input: finite output, finite state, at once and afterwards."""
    geometry = CacheGeometry(
        kv_heads=2,
        q_heads=4,
        head_dim=64,
        dtype=dtype,
        exact_rows=tiers[0],
        coarse_rows=tiers[1],
        memory_grid=(2, 2) if readout == "mass" else (0, 0),
        frame_grid=(4, 4),
        recall_rows=2 if readout == "mass" else 0,
        memory_store="coarse" if tiers[1] else "exact",
        sinks=1,
        window=4,
        chunk=3,
        readout=readout,
    )

    def watch(before: State, after: State, start: int, stop: int) -> None:
        check_layout(after, geometry)
        check_rows(before, after, start, stop, geometry)

    for poison in POISONS:
        for share in (0.1, 1.0):
            tokens = poisoned(geometry, 18, poison, share)
            output, state = run(geometry, tokens, [3] * 6, GATES, watch=watch)
            assert output.isfinite().all(), (poison, share)
            calm, _ = run(geometry, make_tokens(geometry, 1, 0), [1], GATES, state=state)
            assert calm.isfinite().all(), (poison, share)


@pytest.mark.parametrize("name", sorted(CLASSES))
@pytest.mark.parametrize("poison", [float("nan"), float("inf"), 1e38, 0.0])
def test_hostile_values_under_every_policy(name: str, poison: float) -> None:
    chosen = policy(name)
    base = CacheGeometry(kv_heads=2, q_heads=2, head_dim=4, exact_rows=8, coarse_rows=6, sinks=1, window=4, chunk=3)
    geometry = chosen.geometry(base)
    tokens = make_tokens(geometry, 40, 2)
    for x in (tokens.q, tokens.k, tokens.v):
        x[:, :, ::3] = poison

    def watch(before: State, after: State, start: int, stop: int) -> None:
        check_layout(after, geometry)
        check_rows(before, after, start, stop, geometry)

    output, _ = run(geometry, tokens, split(40, 3, 2), chosen.constants, chosen.score, watch=watch)
    assert output.isfinite().all()


@pytest.mark.parametrize("readout", ["none", "mass", "residual", "moments"])
def test_attention_over_nothing_is_finite(readout: str) -> None:
    """All rows empty and only padding in the step."""
    recall = 2 if readout == "mass" else 0
    geometry = CacheGeometry(
        kv_heads=1, q_heads=2, head_dim=4, exact_rows=4, recall_rows=recall, window=2, chunk=2, readout=readout
    )
    tokens = make_tokens(geometry, 2, 0)
    tokens.meta.fill_(-1)
    output, state = run(geometry, tokens, [2], GATES)
    assert output.isfinite().all()
    for name, tensor in empty_state(geometry).items():
        assert torch.equal(state[name], tensor)
