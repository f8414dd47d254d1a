"""A one-time compression keeps exactly the rows that it should, and the errors that are reported are true."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from retentive_export.cache.attention import retentive_attention
from retentive_export.cache.step import empty_state
from retentive_export.eval.bounded import Compressor, Shadow, WatchedLoop, compress, roomy
from retentive_export.eval.scores import Uniform, selection
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.policies import policy_spec

BATCH, HEADS, GROUPS, DIM, TOKENS = 3, 2, 2, 16, 50
GEOMETRY = CacheGeometry(
    batch=BATCH, kv_heads=HEADS, q_heads=HEADS * GROUPS, head_dim=DIM, exact_rows=20, sinks=2, window=5, chunk=5
)
SCALE = DIM**-0.5


def tokens(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """query [B, Hq, T, D], key and value [B, Hkv, T, D]."""
    generator = torch.Generator().manual_seed(seed)
    heads = (HEADS * GROUPS, HEADS, HEADS)
    query, key, value = (torch.randn(BATCH, one, count, DIM, generator=generator) for one in heads)
    return query, key, value


def meta(first: int, count: int) -> torch.Tensor:
    """[B, T, 2], all text; the last stream's last token is padding."""
    result = torch.stack([torch.arange(first, first + count), torch.full((count,), -1)], dim=-1)
    result = result.to(torch.int32).expand(BATCH, -1, -1).clone()
    result[-1, -1] = -1
    return result


def filled(geometry: CacheGeometry, gate: GateConfig) -> tuple[CacheGeometry, dict[str, torch.Tensor]]:
    """A roomy cache after TOKENS tokens."""
    room = roomy(geometry, TOKENS)
    loop = WatchedLoop(room, gate, 1, chosen=Uniform())
    loop.reset()
    for first in range(0, TOKENS, 10):
        loop.token_meta = meta(first, 10)
        if first + 10 < TOKENS:
            loop.token_meta[-1, -1] = torch.tensor([first + 9, -1])
        loop.attend(0, *tokens(10, seed=first), SCALE)
    return room, loop.state[0]


@pytest.mark.parametrize("name", ["h2o", "tova", "snapkv", "retentive", "key_norm"])
def test_what_stays_are_the_highest_scores_besides_sinks_and_window(name: str) -> None:
    spec = policy_spec(name)
    gate, geometry = spec.gate(GateConfig()), replace(GEOMETRY, **spec.geometry_flags)
    room, state = filled(geometry, gate)
    target = Compressor(geometry=geometry, gate=gate, chosen=selection(name, gate))
    (after,), used = compress([state], room, target)
    for stream in range(BATCH):
        seen = TOKENS - (stream == BATCH - 1)
        for head in range(HEADS):
            score = used.tables[0][stream, head, :seen].clone()
            score[:2] = score[seen - 5 :] = torch.inf
            stay = after["row_meta"][stream, head, :, 0].long()
            assert len(set(stay.tolist())) == 20
            gone = torch.ones(seen, dtype=torch.bool).index_fill(0, stay, False)
            assert score[stay].min() >= score[gone].max()


def test_statistics_survive_the_compression() -> None:
    gate = policy_spec("h2o").gate(GateConfig())
    room, state = filled(GEOMETRY, gate)
    target = Compressor(geometry=GEOMETRY, gate=gate, chosen=selection("h2o", gate))
    (after,), _ = compress([state], room, target)
    index = after["row_meta"][..., 0].long()
    torch.testing.assert_close(after["importance"], torch.gather(state["importance"], 2, index))
    rows = torch.gather(state["key_rows"], 2, index[..., None].expand(-1, -1, -1, DIM))
    torch.testing.assert_close(after["key_rows"], rows, rtol=0, atol=0)


def test_room_for_everything_gives_the_exact_attention_and_no_error() -> None:
    gate, shadow = GateConfig(), Shadow(2, 1)
    geometry = replace(GEOMETRY, exact_rows=60)
    room, state = filled(geometry, gate)
    target = Compressor(geometry=geometry, gate=gate, chosen=Uniform())
    loop = WatchedLoop(geometry, gate, 1, chosen=Uniform(), shadow=shadow)
    loop.state, _ = compress([state], room, target)
    shadow.seed([state])
    loop.token_meta = meta(TOKENS, 5)
    loop.attend(0, *tokens(5, seed=99), SCALE)
    assert shadow.errors[0].max() < 1e-5
    assert shadow.masses[0].max() < 1e-4


def test_the_log_mass_error_is_the_log_of_the_share_that_was_dropped() -> None:
    """Two rows with equal logits, one of them dropped, and a new token with the same: log 3 - log 2."""
    geometry = replace(GEOMETRY, batch=1, exact_rows=3, sinks=0, window=1, chunk=1)
    gate, shadow = GateConfig(), Shadow(1, 1)
    loop = WatchedLoop(geometry, gate, 1, chosen=Uniform(), shadow=shadow)
    loop.reset()
    zeros = (torch.zeros(1, HEADS * GROUPS, 1, DIM), torch.zeros(1, HEADS, 1, DIM), torch.ones(1, HEADS, 1, DIM))
    for position in range(2):
        loop.token_meta = torch.tensor([[[position, -1]]], dtype=torch.int32)
        loop.attend(0, *zeros, SCALE)
    loop.state[0]["row_meta"][:, :, 0] = -1  # the first row is lost
    loop.token_meta = torch.tensor([[[2, -1]]], dtype=torch.int32)
    loop.attend(0, *zeros, SCALE)
    assert float(shadow.masses[-1]) == pytest.approx(float(torch.log(torch.tensor(1.5))), abs=1e-4)


def test_uniform_covers_a_frame_evenly_and_heads_differ() -> None:
    side, kept = 16, 64
    cells = torch.tensor([y * 65536 + x for y in range(side) for x in range(side)], dtype=torch.int32)
    state = empty_state(replace(GEOMETRY, exact_rows=side * side, batch=1))
    state["row_meta"][..., 0] = torch.arange(side * side)
    state["row_meta"][..., 1] = cells
    from retentive_export.eval.bounded import _statistics

    score = Uniform()(_statistics(state, replace(GEOMETRY, exact_rows=side * side, batch=1)))[0]
    chosen = [set(head.argsort(descending=True)[:kept].tolist()) for head in score]
    for one in chosen:
        quadrants = [sum((i // side // 4, i % side // 4) == (y, x) for i in one) for y in range(4) for x in range(4)]
        assert min(quadrants) >= 2
        assert max(quadrants) <= 6
    assert len(chosen[0] & chosen[1]) < kept / 2


def test_attention_is_linear_in_the_new_values_which_the_probe_relies_on() -> None:
    state = filled(GEOMETRY, GateConfig())[1]
    query, key, value = tokens(4, seed=5)
    room = roomy(GEOMETRY, TOKENS)
    outputs = [
        retentive_attention(
            query, key, value + shift, meta(TOKENS, 4), state, None, geometry=room, gate=GateConfig(), scale=SCALE
        ).output
        for shift in (0.0, 1.0, 2.0)
    ]
    torch.testing.assert_close(outputs[2] - outputs[1], outputs[1] - outputs[0], rtol=1e-4, atol=1e-5)
