"""Each policy's score against its paper's formula in plain arithmetic, the registry, and the torch-free table."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from cache_helpers import STRIDE, key_scale_for, local_rows, make_tokens, run, split

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.policies import CLASSES, Policy, policy
from retentive_export.cache.policies.base import local_keys, local_values
from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.policies import POLICIES

GEOMETRY = CacheGeometry(batch=2, kv_heads=2, q_heads=4, head_dim=6, exact_rows=10, coarse_rows=5, window=3, chunk=3)


def statistics_after(chosen: Policy, count: int, base: CacheGeometry = GEOMETRY) -> RowStatistics:
    """What the policy sees after `count` tokens."""
    geometry = chosen.geometry(base)
    tokens = make_tokens(geometry, count, 11)
    _, state = run(geometry, tokens, split(count, 3, 0), chosen.constants, chosen.score)
    zeros = torch.zeros(base.batch, base.kv_heads, base.local_rows)
    return RowStatistics(
        importance=state.get("importance", zeros),
        entropy=state.get("entropy", zeros),
        position=state["row_meta"][:, :, : base.local_rows, 0],
        cell=state["row_meta"][:, :, : base.local_rows, 1],
        end=torch.full((base.batch,), count, dtype=torch.int32),
        state=state,
        key_scale=key_scale_for(geometry),
        geometry=geometry,
    )


def test_table_and_classes_agree() -> None:
    assert set(CLASSES) == set(POLICIES)
    assert {n for n, s in POLICIES.items() if s.exportable} == {
        *("retentive", "coverage", "full", "streaming_llm", "h2o", "tova")
    }
    for name, cls in CLASSES.items():
        spec = POLICIES[name]
        assert cls.name == spec.name == name
        assert (cls.exportable, cls.track_importance, cls.track_entropy, cls.readout) == (
            spec.exportable,
            spec.track_importance,
            spec.track_entropy,
            spec.readout,
        )
        assert spec.summary
        assert "arXiv" in (cls.__doc__ or "") or name in ("full", "random", "coverage")


def test_unknown_policy_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'h20'.*h2o.*streaming_llm"):
        policy("h20")


def test_an_exportable_policy_is_its_constants() -> None:
    """The gate's own score with the policy's constants gives the policy's state, bit for bit."""
    for name in (n for n, s in POLICIES.items() if s.exportable):
        chosen = policy(name, GateConfig(lambda_=0.3))
        geometry = chosen.geometry(GEOMETRY)
        tokens = make_tokens(geometry, 50, 3)
        _, mine = run(geometry, tokens, split(50, 3, 3), chosen.constants, chosen.score)
        _, plain = run(geometry, tokens, split(50, 3, 3), chosen.constants)
        for key, tensor in mine.items():
            assert torch.equal(tensor, plain[key]), (name, key)


def test_constants_and_geometry() -> None:
    base = GateConfig(lambda_=0.25, importance_decay=0.5, beta=0.125)
    assert policy("retentive", base).constants == base
    h2o, tova, snapkv = (policy(n, base).constants for n in ("h2o", "tova", "snapkv"))
    assert (h2o.lambda_, h2o.importance_decay, h2o.importance_gain, h2o.beta) == (1, 1, 1, 0.125)
    assert (tova.lambda_, tova.importance_decay, tova.importance_gain) == (1, 0, 1)
    assert (snapkv.importance_decay, snapkv.importance_gain) == (1 - 1 / 32, 1 / 32)
    assert policy("streaming_llm", base).constants.score == "recency"
    assert policy("momentkv").geometry(GEOMETRY).readout == "moments"
    names = [spec.name for spec in policy("streaming_llm").geometry(GEOMETRY).state()]
    assert not {"importance", "entropy"} & set(names)
    with pytest.raises(RecipeError, match="readout 'moments'"):
        policy("momentkv").geometry(replace(GEOMETRY, readout="mass", recall_rows=2))


def test_local_rows_are_read_from_both_stores() -> None:
    statistics = statistics_after(policy("retentive"), 30)
    keys, values = local_rows(statistics.state, statistics.geometry)
    torch.testing.assert_close(local_keys(statistics), keys)
    torch.testing.assert_close(local_values(statistics), values)


@pytest.mark.parametrize("count", [6, 40])
def test_key_norm(count: int) -> None:
    statistics = statistics_after(policy("key_norm"), count)
    keys, _ = local_rows(statistics.state, statistics.geometry)
    torch.testing.assert_close(policy("key_norm").score(statistics), -keys.norm(dim=-1))


@pytest.mark.parametrize("count", [6, 40])
def test_keydiff(count: int) -> None:
    """Minus the cosine with the mean direction of the occupied rows."""
    statistics = statistics_after(policy("keydiff"), count)
    keys, _ = local_rows(statistics.state, statistics.geometry)
    score = policy("keydiff").score(statistics)
    for b in range(2):
        for h in range(2):
            held = statistics.position[b, h] >= 0
            unit = torch.nn.functional.normalize(keys[b, h, held], dim=-1)
            expected = -torch.nn.functional.cosine_similarity(unit, unit.mean(dim=0, keepdim=True))
            torch.testing.assert_close(score[b, h, held], expected)


@pytest.mark.parametrize("count", [4, 12, 40])
def test_snapkv_pools_over_neighbours_in_position(count: int) -> None:
    chosen = policy("snapkv")
    statistics = statistics_after(chosen, count)
    score = chosen.score(statistics)
    for b in range(2):
        for h in range(2):
            position, alpha = statistics.position[b, h].tolist(), statistics.importance[b, h].tolist()
            line = sorted((p, i) for i, p in enumerate(position) if p >= 0)
            for rank, (_, row) in enumerate(line):
                near = [alpha[i] for _, i in line[max(0, rank - 3) : rank + 4]]
                assert score[b, h, row].item() == pytest.approx(max(near))


def test_snapkv_importance_is_an_exponential_window() -> None:
    """Query of age a weighs (1 - 1/32)^a / 32."""
    chosen = policy("snapkv")
    geometry = chosen.geometry(CacheGeometry(kv_heads=1, q_heads=1, head_dim=2, exact_rows=8, window=1, chunk=1))
    tokens = make_tokens(geometry, 5, 0)
    tokens.q[:] = 0.0  # every query attends equally to all it sees
    _, state = run(geometry, tokens, [1] * 5, chosen.constants, chosen.score)
    expected = [sum((31 / 32) ** (4 - t) / 32 / (t + 1) for t in range(i, 5)) for i in range(5)]
    place = state["row_meta"][0, 0, :5, 0].long()
    torch.testing.assert_close(state["importance"][0, 0, :5], torch.tensor(expected)[place])


@pytest.mark.parametrize("count", [6, 60])
def test_momentkv_score(count: int) -> None:
    """alpha_j |v_j - mean_v - Cov k_j / sqrt(D)|."""
    chosen = policy("momentkv")
    statistics = statistics_after(chosen, count)
    keys, values = (x.double().numpy() for x in local_rows(statistics.state, statistics.geometry))
    state = {name: x.double().numpy() for name, x in statistics.state.items()}
    score = chosen.score(statistics)
    for b, h, row in np.ndindex(2, 2, GEOMETRY.local_rows):
        predicted = state["moment_value"][b, h] + state["moment_covariance"][b, h] @ keys[b, h, row] / math.sqrt(6)
        expected = statistics.importance[b, h, row].item() * np.linalg.norm(values[b, h, row] - predicted)
        assert score[b, h, row].item() == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_random_is_a_reproducible_uniform_sample() -> None:
    """Same survivors whatever the chunking; heads differ; old and new tokens survive alike."""
    chosen = policy("random")
    geometry = chosen.geometry(
        CacheGeometry(kv_heads=4, q_heads=4, head_dim=2, exact_rows=101, window=1, chunk=1, sinks=0)
    )
    tokens = make_tokens(geometry, 1000, 0)
    held = []
    for window, chunks in ((1, [1] * 1000), (4, [4] * 250)):
        sized = replace(geometry, window=window, chunk=window)
        _, state = run(sized, tokens, chunks, chosen.constants, chosen.score)
        held.append([set(line) for line in state["row_meta"][0, :, :, 0].tolist()])
    for one, other in zip(*held, strict=True):
        assert len(one & other) >= 96  # a wider window protects up to four more
    assert all(a != b for i, a in enumerate(held[0]) for b in held[0][:i])
    mean = np.mean([sorted(line) for line in held[0]])
    assert abs(mean - 500) < 4 * 1000 / math.sqrt(12 * 404)


def test_random_scores_are_uniform_and_seeded() -> None:
    geometry = CacheGeometry(kv_heads=3, q_heads=3, head_dim=2, exact_rows=20000)
    place = torch.arange(20000).expand(1, 3, -1).int()
    zeros = torch.zeros(1, 3, 20000)
    statistics = RowStatistics(
        importance=zeros,
        entropy=zeros,
        position=place,
        cell=place,
        end=torch.tensor([20000]),
        state={},
        key_scale=None,
        geometry=geometry,
    )
    chosen = CLASSES["random"]()
    score = chosen.score(statistics)
    assert torch.equal(score, chosen.score(statistics))
    assert ((score >= 0) & (score < 1)).all()
    counts = torch.histc(score[0, 0], 20, 0, 1)
    assert (counts - 1000).abs().max() < 5 * math.sqrt(950)
    table = torch.corrcoef(torch.cat([score[0], score[0].roll(1, dims=-1)]))
    assert (table - torch.eye(6)).abs().max() < 5 / math.sqrt(20000)
    chosen.seed = 1
    other = chosen.score(statistics)
    assert torch.corrcoef(torch.stack([score[0, 0], other[0, 0]]))[0, 1].abs() < 5 / math.sqrt(20000)


def test_loop_drives_all_layers() -> None:
    """CacheLoop: the same as calling the step by hand, flat and load are inverse, reset forgets."""
    chosen = policy("keydiff")
    geometry = chosen.geometry(GEOMETRY)
    scale = key_scale_for(geometry)
    assert scale is not None
    loop = CacheLoop(geometry, chosen.constants, 2, key_scales=[scale, scale], score=chosen.score)
    loop.reset()
    tokens = make_tokens(geometry, 24, 6)
    with pytest.raises(RuntimeError, match="token_meta"):
        loop.attend(0, tokens.q, tokens.k, tokens.v, 1.0)
    for start in range(0, 24, 3):
        part = tokens.part(start, start + 3)
        loop.token_meta = part.meta
        for layer in range(2):
            output = loop.attend(layer, part.q, part.k, part.v, 6**-0.5)
    expected, state = run(geometry, tokens, [3] * 8, chosen.constants, chosen.score)
    torch.testing.assert_close(output, expected[:, :, -3:])
    assert all(torch.equal(loop.state[1][name], x) for name, x in state.items())
    other = CacheLoop(geometry, chosen.constants, 2)
    other.load(loop.flat())
    assert all(torch.equal(a, b) for a, b in zip(loop.flat(), other.flat(), strict=True))
    loop.reset()
    assert all((layer["row_meta"] == -1).all() for layer in loop.state)


def test_coverage_keeps_an_even_sample_of_the_frame_and_of_the_text() -> None:
    """At any share: every eighth of the text and every 4 x 4 block of a 16 x 16 frame keeps about its share, heads keep
    different rows, and positions far out are as exact as near ones."""
    rows, heads = 256, 3
    y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    frame = (y * STRIDE + x).flatten().to(torch.int32)
    for cell, start in ((frame, 0), (torch.full((rows,), -1), 0), (torch.full((rows,), -1), 2**31 - 1 - rows)):
        statistics = RowStatistics(
            importance=torch.zeros(1, heads, rows),
            entropy=torch.zeros(1, heads, rows),
            position=(start + torch.arange(rows)).to(torch.int32).expand(1, heads, -1),
            cell=cell.to(torch.int32).expand(1, heads, -1),
            end=torch.tensor([start + rows], dtype=torch.int32),
            state={},
            key_scale=None,
            geometry=GEOMETRY,
        )
        score = policy("coverage").score(statistics)[0]
        assert score.min() >= 0
        assert score.max() < 1
        for share in (0.5, 0.25, 0.125):
            kept = score >= torch.quantile(score, 1 - share, dim=1, keepdim=True)
            blocks = kept.view(heads, 4, 4, 4, 4).sum((2, 4)) if cell[0] >= 0 else kept.view(heads, 16, 16).sum(2)
            assert (blocks - 16 * share).abs().max() <= 2
            together = kept.sum(0)
            assert (together > 0).float().mean() > 1.9 * share  # independent heads would share more
