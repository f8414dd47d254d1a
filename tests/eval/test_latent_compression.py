"""A one-time compression into latent rows: one choice of tokens for all heads, and what the shadow sees of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from retentive_export.cache.latent import LatentBasis
from retentive_export.eval.bounded import Compressor, Shadow, WatchedLoop, compress
from retentive_export.eval.scores import selection
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.policies import policy_spec
from tests.eval.test_compression import BATCH, DIM, GEOMETRY, HEADS, SCALE, TOKENS, filled, meta, tokens


def latents(**changes: object) -> CacheGeometry:
    return replace(GEOMETRY, exact_rows=0, latent_rows=20, latent_rank=2 * HEADS * DIM, latent_dtype="model", **changes)


def basis() -> LatentBasis:
    """Every number of a token's keys and values: nothing is lost."""
    whole = torch.eye(2 * HEADS * DIM).reshape(HEADS, 2 * DIM, -1)
    return LatentBasis(whole, whole, torch.zeros(HEADS, 2 * DIM))


@pytest.mark.parametrize("name", ["h2o", "retentive", "uniform", "key_norm"])
def test_all_heads_keep_the_tokens_of_the_mean_score(name: str) -> None:
    gate, flags = GateConfig(), {}
    if name != "uniform":
        gate, flags = policy_spec(name).gate(gate), policy_spec(name).geometry_flags
    geometry = latents(**flags)
    room, state = filled(replace(GEOMETRY, **flags), gate)
    target = Compressor(geometry=geometry, gate=gate, chosen=selection(name, gate), constants=(None, [basis()]))
    (after,), used = compress([state], room, target)
    assert used.tables[0].shape == (BATCH, 1, TOKENS)
    assert after["row_meta"].shape == (BATCH, 1, 20, 2)
    for stream in range(BATCH):
        seen = TOKENS - (stream == BATCH - 1)
        score = used.tables[0][stream, 0, :seen].clone()
        score[:2] = score[seen - 5 :] = torch.inf
        stay = after["row_meta"][stream, 0, :, 0].long()
        gone = torch.ones(seen, dtype=torch.bool).index_fill(0, stay, False)
        assert score[stay].min() >= score[gone].max()
        kept = torch.cat([state["key_rows"], state["value_rows"]], dim=-1)[stream, :, stay]  # [Hkv, 20, 2D]
        torch.testing.assert_close(after["latent_codes"][stream, 0], kept.transpose(0, 1).flatten(1))


def test_the_shadow_finds_no_error_where_nothing_is_lost() -> None:
    gate = GateConfig()
    geometry = replace(latents(), latent_rows=70)
    room, state = filled(GEOMETRY, gate)
    target = Compressor(
        geometry=geometry,
        gate=gate,
        chosen=selection("uniform", gate),
        constants=(None, [basis()]),
    )
    shadow = Shadow(2, 1)
    loop = WatchedLoop(geometry, gate, 1, chosen=selection("uniform", gate), constants=(None, [basis()]), shadow=shadow)
    loop.state, _ = compress([state], room, target)
    shadow.seed([state])
    loop.token_meta = meta(TOKENS, 5)
    loop.attend(0, *tokens(5, seed=99), SCALE)
    assert shadow.errors[0].max() < 1e-4
    assert shadow.masses[0].max() < 1e-3
