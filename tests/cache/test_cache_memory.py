"""What the memory does with the evicted: routing, merged rows with gates, residual scans, moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_helpers import STRIDE, State, examples, geometries, local_rows, make_tokens, plain_codes, run, split
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from retentive_export.cache import moments
from retentive_export.cache.gate import GateDecision
from retentive_export.cache.memory import absorb_residual, anchors, memory_rows, route
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry

seeds = st.integers(0, 10**6)


def decision_of(absorption: Tensor, retention: Tensor) -> GateDecision:
    empty = torch.empty(0)
    return GateDecision(empty.long(), empty, empty, absorption, retention)


def mass_geometry(**changes: object) -> CacheGeometry:
    options: dict[str, object] = {"kv_heads": 1, "q_heads": 1, "head_dim": 4, "exact_rows": 4, "readout": "mass"}
    return CacheGeometry(**{**options, **changes})


@examples(200)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12), st.integers(1, 12))
def test_visual_tokens_go_to_the_nearest_anchor(height: int, width: int, rows: int, columns: int) -> None:
    """No anchor is nearer, in Manhattan distance, than the one chosen; any grid, also finer than the frame."""
    geometry = mass_geometry(memory_grid=(rows, columns), frame_grid=(height, width))
    y, x = (g.reshape(-1) for g in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    meta = torch.stack([torch.ones_like(y), y * STRIDE + x], dim=-1).view(1, 1, -1, 2).int()
    keys = torch.zeros(1, 1, len(y), 4)
    unused = torch.zeros(1, 1, geometry.memory_rows, dtype=torch.bool)
    target, taken = route(keys, meta, torch.zeros(1, 1, geometry.memory_rows, 4), unused, geometry)
    assert taken.all()
    anchor = anchors(geometry, torch.device("cpu")).long()
    distance = (y[:, None] - anchor // STRIDE).abs() + (x[:, None] - anchor % STRIDE).abs()
    chosen = distance.gather(1, target.view(-1, 1)).squeeze(1)
    assert torch.equal(chosen, distance.min(dim=1).values)


def test_cells_beyond_the_frame_go_to_the_last_patch() -> None:
    geometry = mass_geometry(memory_grid=(2, 2), frame_grid=(4, 4))
    meta = torch.tensor([[[[0, 9 * STRIDE + 9]]]], dtype=torch.int32)
    target, _ = route(torch.zeros(1, 1, 1, 4), meta, torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4).bool(), geometry)
    assert target.item() == 3


@examples(60)
@given(st.integers(1, 4), st.integers(0, 4), st.integers(1, 6), st.booleans(), seeds)
def test_text_tokens_fill_recall_rows_then_go_to_the_nearest_key(
    recall: int, used: int, count: int, visual_memory: bool, seed: int
) -> None:
    """First the unused rows in turn, then the nearest of those used before the step; padding goes nowhere."""
    generator = torch.Generator().manual_seed(seed)
    used = min(used, recall)
    geometry = mass_geometry(memory_grid=(1, 2) if visual_memory else (0, 0), frame_grid=(2, 2), recall_rows=recall)
    visual = geometry.visual_rows
    old = torch.randn(1, 1, geometry.memory_rows, 4, generator=generator)
    occupied = (torch.arange(geometry.memory_rows) < visual + used).view(1, 1, -1)
    keys = torch.randn(1, 1, count, 4, generator=generator)
    kind = torch.randint(0, 3, (count,), generator=generator)  # 0 padding, 1 text, 2 visual
    meta = torch.stack([torch.where(kind > 0, 7, -1), torch.where(kind == 2, 1, -1)], dim=-1).view(1, 1, -1, 2).int()
    target, taken = route(keys, meta, old, occupied, geometry)
    turn = used
    for t in range(count):
        recalled = kind[t] == 1 or (kind[t] == 2 and not visual_memory)
        assert taken[0, 0, t] == (kind[t] > 0)
        if not recalled:
            continue
        chosen = int(target[0, 0, t]) - visual
        if turn < recall:
            assert chosen == turn
        elif used:
            distance = [float((keys[0, 0, t] - old[0, 0, visual + i]).square().sum()) for i in range(used)]
            assert chosen == int(np.argmin(distance))
        else:
            assert 0 <= chosen < recall
        turn += 1


def test_text_is_dropped_where_the_memory_is_visual_only() -> None:
    geometry = mass_geometry(memory_grid=(1, 1), exact_rows=2)
    tokens = make_tokens(geometry, 9, 0, visual=0.0)
    _, state = run(geometry, tokens, [1] * 9)
    assert state["memory_mass"].item() == 0
    assert (state["row_meta"][0, 0, 2] == -1).all()


def test_merged_rows_follow_the_gated_recurrence() -> None:
    """n' = h n + a, k' = (h n k + a k_i) / n', one token per step, against plain arithmetic."""
    gate = GateConfig(
        score="recency",
        retention=SigmoidGate(enabled=True, weight=0.0, bias=1.0),
        absorption=SigmoidGate(enabled=True, weight=0.0, bias=-0.5),
    )
    h, a = torch.sigmoid(torch.tensor([1.0, -0.5])).double().tolist()
    geometry = mass_geometry(exact_rows=3, recall_rows=1)
    tokens = make_tokens(geometry, 15, 8, visual=0.0)
    _, state = run(geometry, tokens, [1] * 15, gate)
    mass, key, value = 0.0, np.zeros(4), np.zeros(4)
    for t in range(12):
        total = h * mass + a
        key = (h * mass * key + a * tokens.k[0, 0, t].double().numpy()) / total
        value = (h * mass * value + a * tokens.v[0, 0, t].double().numpy()) / total
        mass = total
    assert state["memory_mass"].item() == pytest.approx(mass, rel=1e-5)
    np.testing.assert_allclose(state["key_rows"][0, 0, 3].numpy(), key, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(state["value_rows"][0, 0, 3].numpy(), value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.7])
@pytest.mark.parametrize("tiers", [("exact", 5, 0, "int8"), ("coarse", 0, 5, "int8"), ("coarse", 5, 5, "int4")])
def test_memory_rows_read_as_log_mass(beta: float, tiers: tuple[str, int, int, str]) -> None:
    """Local and memory rows share one softmax in which a memory row weighs n exp(beta)."""
    store, exact, coarse, dtype = tiers
    geometry = mass_geometry(
        exact_rows=exact, coarse_rows=coarse, coarse_dtype=dtype, recall_rows=2, memory_store=store, head_dim=4
    )
    tokens = make_tokens(geometry, 21, 3, visual=0.0)
    _, state = run(geometry, tokens.part(0, 20), [1] * 20)
    part = tokens.part(20, 21)
    output, _ = run(geometry, part, [1], GateConfig(beta=beta), state=state)
    scale = torch.linspace(1.0, 1.5, 4)[None] * 5 / (127 if dtype == "int8" else 7)
    mass_keys, mass_values = memory_rows(state, scale, geometry)
    keys, values = local_rows(state, geometry)
    logits = torch.cat([keys, mass_keys, part.k], dim=2) @ part.q.transpose(-1, -2) * 0.5  # [1, 1, N, 1]
    bias = torch.cat([torch.zeros(geometry.local_rows), state["memory_mass"][0, 0].log() + beta, torch.zeros(1)])
    weights = torch.softmax(logits[0, 0, :, 0] + bias, dim=0)
    expected = weights @ torch.cat([values, mass_values, part.v], dim=2)[0, 0]
    torch.testing.assert_close(output[0, 0, 0], expected, atol=1e-5, rtol=1e-5)
    assert plain_codes(state["key_codes"]).abs().max() <= 127 if coarse else True


def scan(
    state: np.ndarray, order: list[int], keys: np.ndarray, values: np.ndarray, a: np.ndarray, h: float
) -> np.ndarray:
    for t in order:
        state = h * state + a[t] * np.outer(keys[t], values[t])
    return state


@examples(50)
@given(st.integers(1, 8), st.integers(1, 3), seeds)
def test_residual_states_are_sequential_scans(count: int, kv_heads: int, seed: int) -> None:
    """Text in order of position; visual tokens row by row and column by column, the mean of both scans."""
    generator = torch.Generator().manual_seed(seed)
    dim, shape = 3, (1, kv_heads, count)
    keys, values = (torch.randn(*shape, dim, generator=generator) for _ in range(2))
    place = torch.stack([torch.randperm(50, generator=generator)[:count] for _ in range(kv_heads)])
    kind = torch.randint(0, 3, (kv_heads, count), generator=generator)  # 0 nobody, 1 text, 2 visual
    cells = torch.randint(0, 3, (kv_heads, count), generator=generator) * STRIDE
    cells = cells + torch.randint(0, 3, (kv_heads, count), generator=generator)
    meta = torch.stack([torch.where(kind > 0, place, -1), torch.where(kind == 2, cells, -1)], dim=-1)[None].int()
    a, h = torch.rand(*shape, generator=generator), torch.rand(1, kv_heads, generator=generator)
    old = {name: torch.randn(1, kv_heads, dim, dim, generator=generator) for name in ("recall_state", "visual_state")}
    after = absorb_residual(old, keys, values, meta, decision_of(a, h))
    for head in range(kv_heads):
        k, v, w = (x[0, head].double().numpy() for x in (keys, values, a))
        text = sorted((t for t in range(count) if kind[head, t] == 1), key=lambda t: int(place[head, t]))
        seen = [t for t in range(count) if kind[head, t] == 2]
        cell = cells[head].tolist()
        by_row = sorted(seen, key=lambda t: cell[t])
        by_column = sorted(seen, key=lambda t: (cell[t] % STRIDE, cell[t] // STRIDE))
        start = {name: x[0, head].double().numpy() for name, x in old.items()}
        hh = float(h[0, head])
        expected = scan(start["recall_state"], text, k, v, w, hh)
        np.testing.assert_allclose(after["recall_state"][0, head].numpy(), expected, atol=1e-5)
        both = [scan(start["visual_state"], order, k, v, w, hh) for order in (by_row, by_column)]
        np.testing.assert_allclose(after["visual_state"][0, head].numpy(), (both[0] + both[1]) / 2, atol=1e-5)


def test_a_chunk_of_text_is_absorbed_like_its_tokens_in_turn() -> None:
    generator = torch.Generator().manual_seed(0)
    keys, values = (torch.randn(2, 2, 6, 4, generator=generator) for _ in range(2))
    meta = torch.stack([torch.arange(6), torch.full((6,), -1)], dim=-1).expand(2, 2, 6, 2).int()
    a, h = torch.rand(2, 2, 6, generator=generator), torch.rand(2, 2, generator=generator)
    state = {name: torch.zeros(2, 2, 4, 4) for name in ("recall_state", "visual_state")}
    at_once = absorb_residual(state, keys, values, meta, decision_of(a, h))
    for t in range(6):
        one = slice(t, t + 1)
        state = absorb_residual(state, keys[:, :, one], values[:, :, one], meta[:, :, one], decision_of(a[..., one], h))
    torch.testing.assert_close(at_once["recall_state"], state["recall_state"], atol=1e-6, rtol=1e-5)


def test_residual_output_is_attention_plus_the_normalised_memory() -> None:
    """O = attention + gamma Norm(q S), gamma from the query's visual entropy (0 here: no picture was seen)."""
    geometry = CacheGeometry(
        kv_heads=2, q_heads=4, head_dim=4, exact_rows=3, window=1, chunk=1, readout="residual", dtype="float32"
    )
    tokens = make_tokens(geometry, 14, 2, visual=0.0)
    _, state = run(geometry, tokens.part(0, 13), [1] * 13)
    part = tokens.part(13, 14)
    gated = GateConfig(readout=SigmoidGate(enabled=True, weight=3.0, bias=0.25))
    outputs = {g is gated: run(geometry, part, [1], g, state=state)[0] for g in (gated, GateConfig())}
    plain, _ = run(replace(geometry, readout="none"), part, [1], state=state)
    memory = part.q.view(2, 2, 4) * 0.5 @ (state["recall_state"] + state["visual_state"])[0]
    memory = (memory / (memory.square().mean(-1, keepdim=True) + 1e-6).sqrt()).view(1, 4, 1, 4)
    torch.testing.assert_close(outputs[False], plain + memory, atol=1e-5, rtol=1e-4)
    gamma = torch.sigmoid(torch.tensor(0.25))
    torch.testing.assert_close(outputs[True], plain + gamma * memory, atol=1e-5, rtol=1e-4)


@examples(40)
@given(geometries(readouts=["moments"]), st.integers(1, 40), seeds)
def test_moments_are_the_statistics_of_all_evicted_tokens(geometry: CacheGeometry, count: int, seed: int) -> None:
    """Count, means and covariance as numpy computes them from the tokens as they were read when they left."""
    geometry = replace(geometry, dtype="float32")
    heads = [(b, h) for b in range(geometry.batch) for h in range(geometry.kv_heads)]
    gone: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {head: [] for head in heads}

    def watch(before: State, after: State, start: int, stop: int) -> None:
        keys, values = local_rows(before, geometry)
        for b, h in heads:
            old, new = (s["row_meta"][b, h, :, 0].tolist() for s in (before, after))
            gone[b, h] += [(keys[b, h, i], values[b, h, i]) for i, p in enumerate(old) if p >= 0 and p not in new]

    _, state = run(geometry, make_tokens(geometry, count, seed), split(count, geometry.chunk, seed), watch=watch)
    for (b, h), pairs in gone.items():
        assert state["moment_count"][b, h].item() == len(pairs) == max(0, count - geometry.local_rows)
        if pairs:
            k, v = (torch.stack([pair[i] for pair in pairs]).double().numpy() for i in range(2))
            cross = (v - v.mean(0)).T @ (k - k.mean(0)) / len(pairs)
            np.testing.assert_allclose(state["moment_key"][b, h].numpy(), k.mean(0), atol=1e-4)
            np.testing.assert_allclose(state["moment_value"][b, h].numpy(), v.mean(0), atol=1e-4)
            np.testing.assert_allclose(state["moment_covariance"][b, h].numpy(), cross, atol=1e-4)


def test_moments_with_weights_below_one() -> None:
    """Absorption gates make fractional counts; the covariance stays the weighted one."""
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(1, 1, 6, 3, generator=generator) for _ in range(2))
    weight = torch.rand(1, 1, 6, generator=generator) * 0.1
    shapes = {"moment_count": (1,), "moment_key": (3,), "moment_value": (3,), "moment_covariance": (3, 3)}
    state = {name: torch.zeros(1, 1, *shape) for name, shape in shapes.items()}
    for t in (slice(0, 1), slice(1, 4), slice(4, 6)):
        state = moments.absorb(state, keys[:, :, t], values[:, :, t], weight[:, :, t])
    w, k, v = weight[0, 0].double().numpy(), keys[0, 0].double().numpy(), values[0, 0].double().numpy()
    mean_k, mean_v = w @ k / w.sum(), w @ v / w.sum()
    np.testing.assert_allclose(state["moment_count"].item(), w.sum(), rtol=1e-5)
    cross = ((v - mean_v) * w[:, None]).T @ (k - mean_k) / w.sum()
    np.testing.assert_allclose(state["moment_covariance"][0, 0].numpy(), cross, atol=1e-5)


def test_moments_readout_is_first_order_exact() -> None:
    """Equal keys: the virtual row is exact. Keys spread by s: the error of its value shrinks like s squared."""
    generator = torch.Generator().manual_seed(2)
    values, noise = (torch.randn(1, 1, 50, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    q = torch.randn(1, 1, 1, 4, generator=generator, dtype=torch.float64)
    shapes = {"moment_count": (1,), "moment_key": (4,), "moment_value": (4,), "moment_covariance": (4, 4)}
    errors = []
    for spread in (0.0, 0.02, 0.01):
        keys = torch.full((1, 1, 1, 4), 0.3, dtype=torch.float64) + spread * noise
        empty = {name: torch.zeros(1, 1, *shape, dtype=torch.float64) for name, shape in shapes.items()}
        state = moments.absorb(empty, keys, values, torch.ones(1, 1, 50, dtype=torch.float64))
        logits = q @ keys.transpose(-1, -2)
        exact = torch.softmax(logits, dim=-1) @ values
        errors.append((moments.value(q, state) - exact).norm().item())
        below = logits.logsumexp(dim=-1, keepdim=True) - moments.logit(q, state)
        assert below.item() >= -1e-12  # Jensen: the virtual row never weighs more than the tokens did
    assert errors[0] < 1e-12
    assert errors[1] / errors[2] == pytest.approx(4.0, rel=0.1)
