"""Who leaves: the vectorised gate against a slow twin, statistics that do not depend on the chunking, gates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from cache_helpers import examples, geometries, grown, key_scale_for, make_tokens, positions, run, split
from hypothesis import given
from hypothesis import strategies as st
from twin import simulate

from retentive_export.cache.attention import retentive_attention
from retentive_export.cache.gate import RowStatistics, entropy_gate, lowest, recency_score
from retentive_export.cache.policies import policy
from retentive_export.cache.step import empty_state
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry

seeds = st.integers(0, 10**6)


@examples(40)
@given(
    st.sampled_from(["retentive", "h2o", "tova", "streaming_llm", "full"]),
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(1, 3)),
    st.integers(1, 4),
    st.integers(0, 2),
    st.integers(0, 5),
    st.floats(0, 1),
    seeds,
)
def test_victims_equal_the_twins(
    name: str, heads: tuple[int, int, int], chunk: int, sinks: int, spare: int, lambda_: float, seed: int
) -> None:
    """Same positions in the same rows after every step, tokens and chunks alike, and the same statistics at the end."""
    batch, kv_heads, groups = heads
    chosen = policy(name, GateConfig(lambda_=lambda_, importance_decay=0.9, entropy_decay=0.8))
    geometry = chosen.geometry(
        CacheGeometry(
            batch=batch,
            kv_heads=kv_heads,
            q_heads=kv_heads * groups,
            head_dim=4,
            exact_rows=sinks + chunk + spare,
            sinks=sinks,
            window=chunk,
            chunk=chunk,
            frame_grid=(3, 4),
        )
    )
    count = geometry.local_rows + 18
    tokens, chunks = make_tokens(geometry, count, seed), split(count, chunk, seed)
    twins, history = simulate(geometry, chosen.constants, tokens, chunks)
    seen: list[list[list[list[int]]]] = []
    _, state = run(
        geometry,
        tokens,
        chunks,
        chosen.constants,
        chosen.score,
        watch=lambda _, s, *__: seen.append(positions(s, geometry)),
    )
    assert seen == history
    for statistic in set(state) & {"importance", "entropy"}:
        expected = [[[getattr(row, statistic) for row in twin.rows] for twin in line] for line in twins]
        torch.testing.assert_close(state[statistic].double(), torch.tensor(expected).double(), atol=1e-5, rtol=1e-4)


@examples(40)
@given(geometries(readouts=["none"]), st.integers(2, 24), st.floats(0, 1), seeds)
def test_statistics_do_not_depend_on_the_chunking(geometry: CacheGeometry, count: int, decay: float, seed: int) -> None:
    """Importance and entropy of every token, the newest included, when nothing is evicted."""
    geometry = replace(grown(geometry, count), dtype="float32")
    if not geometry.exact_rows:  # what a chunk's own tokens receive is computed before they are quantised
        geometry = replace(geometry, exact_rows=geometry.coarse_rows, coarse_rows=0)
    gate = GateConfig(importance_decay=decay, entropy_decay=1 - decay, importance_gain=0.5, entropy_gain=0.25)
    tokens = make_tokens(geometry, count, seed)
    _, by_one = run(geometry, tokens, [1] * count, gate)
    _, by_chunk = run(geometry, tokens, split(count, geometry.chunk, seed), gate)
    for name in ("importance", "entropy", "row_meta"):
        torch.testing.assert_close(by_chunk[name], by_one[name], atol=1e-5, rtol=1e-4)


def test_visual_entropy_is_normalised_by_what_a_query_may_see() -> None:
    """Text query after n equal visual keys: entropy 1, whatever follows in the chunk."""
    geometry = CacheGeometry(kv_heads=1, q_heads=1, head_dim=2, exact_rows=12, window=8, chunk=8)
    tokens = make_tokens(geometry, 8, 0)
    tokens.k[:] = 1.0
    tokens.meta[0, :, 1] = torch.tensor([0, 1, 2, -1, 3, 4, 5, 6])
    result = retentive_attention(
        tokens.q,
        tokens.k,
        tokens.v,
        tokens.meta,
        empty_state(geometry),
        None,
        geometry=geometry,
        gate=GateConfig(),
        scale=1,
    )
    torch.testing.assert_close(result.visual_entropy, torch.ones(1, 1))


@pytest.mark.parametrize("weight", [-3.0, 0.0, 5.0])
def test_gates_are_sigmoids_of_their_input(weight: float) -> None:
    geometry = CacheGeometry(kv_heads=2, q_heads=2, head_dim=4, exact_rows=6, window=2, chunk=2)
    tokens = make_tokens(geometry, 9, 1)
    _, state = run(geometry, tokens.part(0, 7), [1] * 7)
    part = tokens.part(7, 9)
    gates = SigmoidGate(enabled=True, weight=weight, bias=0.5)
    gate = GateConfig(retention=gates, absorption=gates)
    result = retentive_attention(
        part.q, part.k, part.v, part.meta, state, None, geometry=geometry, gate=gate, scale=0.5
    )
    decision = entropy_gate(result, part.meta, state, None, geometry=geometry, gate=gate)
    torch.testing.assert_close(decision.retention, torch.sigmoid(weight * result.visual_entropy + 0.5))
    alpha = decision.importance[..., :6]
    relative = torch.gather(alpha / alpha.mean(dim=-1, keepdim=True), 2, decision.victims[:, :, 0])
    torch.testing.assert_close(decision.absorption, torch.sigmoid(weight * relative + 0.5))
    plain = entropy_gate(result, part.meta, state, None, geometry=geometry, gate=GateConfig())
    assert (plain.retention == 1).all()
    assert (plain.absorption == 1).all()


@examples(40)
@given(geometries(), st.integers(0, 30), seeds)
def test_victims_are_unique_and_in_their_tier(geometry: CacheGeometry, extra: int, seed: int) -> None:
    count = geometry.chunk + extra
    tokens = make_tokens(geometry, count + geometry.chunk, seed)
    _, state = run(geometry, tokens.part(0, count), split(count, geometry.chunk, seed))
    part = tokens.part(count, count + geometry.chunk)
    part.meta[:, ::2] = -1
    options = {"geometry": geometry, "gate": GateConfig()}
    scale = key_scale_for(geometry)
    result = retentive_attention(part.q, part.k, part.v, part.meta, state, scale, scale=1.0, **options)
    victims = entropy_gate(result, part.meta, state, scale, **options).victims
    assert victims.shape == (geometry.batch, geometry.kv_heads, len(geometry.tiers), geometry.chunk)
    for tier, (first, rows) in enumerate(geometry.tiers):
        chosen = victims[:, :, tier]
        assert ((chosen >= first) & (chosen < first + rows)).all()
        assert (chosen.sort(dim=-1).values.diff(dim=-1) > 0).all()


@examples(30)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 20))
def test_lowest_breaks_ties_by_index(values: list[int], count: int) -> None:
    count = min(count, len(values))
    expected = sorted(range(len(values)), key=lambda i: (values[i], i))[:count]
    assert lowest(torch.tensor(values).float(), count).tolist() == expected


def test_lowest_uses_topk_when_exported() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return lowest(x, 2)

    program = torch.export.export(Module(), (torch.randn(1, 2, 6),))
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("topk" in target for target in targets)


def test_recency_is_exact_after_a_hundred_million_tokens() -> None:
    """float32 cannot tell 100,000,000 from 100,000,001; the order of the rows is still that of their positions."""
    geometry = CacheGeometry(kv_heads=1, q_heads=1, head_dim=2, exact_rows=64)
    place = 100_000_000 + torch.randperm(64, generator=torch.Generator().manual_seed(0)).int().view(1, 1, -1)
    zeros = torch.zeros(1, 1, 64)
    statistics = RowStatistics(
        importance=zeros,
        entropy=zeros,
        position=place,
        cell=place,
        end=torch.tensor([100_000_064], dtype=torch.int32),
        state={},
        key_scale=None,
        geometry=geometry,
    )
    assert torch.equal(recency_score(statistics).argsort(dim=-1), place.argsort(dim=-1))
