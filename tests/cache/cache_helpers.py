"""Random tokens, geometries and plain references for the tests of the cache maths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.step import TORCH_DTYPES, empty_state, layer_step
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

STRIDE = 65536
State = dict[str, Tensor]


def examples(count: int) -> settings:
    """Hypothesis settings of the folder: the same examples on every run."""
    return settings(max_examples=count, deadline=None, derandomize=True)


@dataclass
class Tokens:
    """q [B, Hq, N, D], k and v [B, Hkv, N, D], meta [B, N, 2]."""

    q: Tensor
    k: Tensor
    v: Tensor
    meta: Tensor

    def part(self, start: int, stop: int) -> Tokens:
        return Tokens(*(x[:, :, start:stop] for x in (self.q, self.k, self.v)), self.meta[:, start:stop])

    @property
    def count(self) -> int:
        return self.k.shape[2]


def make_tokens(geometry: CacheGeometry, count: int, seed: int, visual: float = 0.5) -> Tokens:
    """Random tokens in the geometry's dtype; a share `visual` of them are picture tokens, in raster order."""
    generator = torch.Generator().manual_seed(seed)

    def normal(heads: int) -> Tensor:
        x = torch.randn(geometry.batch, heads, count, geometry.head_dim, generator=generator)
        return x.to(TORCH_DTYPES[geometry.dtype])

    height, width = geometry.frame_grid
    turn = torch.arange(count)
    cells = (turn // width % height) * STRIDE + turn % width
    seen = torch.rand(geometry.batch, count, generator=generator) < visual
    meta = torch.stack([turn.expand(geometry.batch, -1), torch.where(seen, cells, -1)], dim=-1).to(torch.int32)
    return Tokens(normal(geometry.q_heads), normal(geometry.kv_heads), normal(geometry.kv_heads), meta)


def key_scale_for(geometry: CacheGeometry, largest: float = 5.0) -> Tensor | None:
    """Scales that hold keys up to `largest`, a little different per channel."""
    if not geometry.coarse_rows:
        return None
    level = 127.0 if geometry.coarse_dtype == "int8" else 7.0
    spread = torch.linspace(1.0, 1.5, geometry.kv_heads * geometry.head_dim)
    return (spread * largest / level).reshape(geometry.kv_heads, geometry.head_dim)


def run(
    geometry: CacheGeometry,
    tokens: Tokens,
    chunks: Sequence[int],
    gate: GateConfig | None = None,
    score: Callable[[RowStatistics], Tensor] | None = None,
    state: State | None = None,
    watch: Callable[[State, State, int, int], None] | None = None,
) -> tuple[Tensor, State]:
    """All tokens in steps of `chunks`; `watch(before, after, start, stop)` sees every step."""
    state = empty_state(geometry) if state is None else state
    outputs, start = [], 0
    for size in chunks:
        part = tokens.part(start, start + size)
        before = state
        output, state = layer_step(
            part.q,
            part.k,
            part.v,
            part.meta,
            state,
            key_scale_for(geometry),
            geometry=geometry,
            gate=gate or GateConfig(),
            scale=geometry.head_dim**-0.5,
            score=score,
        )
        outputs.append(output)
        if watch:
            watch(before, state, start, start + size)
        start += size
    assert start == tokens.count
    return torch.cat(outputs, dim=2), state


def causal(tokens: Tokens, groups: int) -> Tensor:
    """torch's own causal attention over the whole sequence, float32."""
    k, v = (x.float().repeat_interleave(groups, dim=1) for x in (tokens.k, tokens.v))
    return torch.nn.functional.scaled_dot_product_attention(tokens.q.float(), k, v, is_causal=True)


def split(count: int, largest: int, seed: int) -> list[int]:
    """Random step sizes of at most `largest` that add up to `count`."""
    generator = torch.Generator().manual_seed(seed)
    sizes: list[int] = []
    while count:
        size = min(count, int(torch.randint(1, largest + 1, (1,), generator=generator)))
        sizes.append(size)
        count -= size
    return sizes


def positions(state: State, geometry: CacheGeometry) -> list[list[list[int]]]:
    """Positions in the local rows, [B][Hkv][C]; -1 where empty."""
    return state["row_meta"][:, :, : geometry.local_rows, 0].tolist()


def local_rows(state: State, geometry: CacheGeometry) -> tuple[Tensor, Tensor]:
    """Keys and values of the local rows, [B, Hkv, C, D] float32, read in a second way."""
    keys, values = [], []
    if geometry.exact_rows:
        keys.append(state["key_rows"][:, :, : geometry.exact_rows].float())
        values.append(state["value_rows"][:, :, : geometry.exact_rows].float())
    if geometry.coarse_rows:
        scale = key_scale_for(geometry)
        raw = [plain_codes(state[name])[:, :, : geometry.coarse_rows] for name in ("key_codes", "value_codes")]
        keys.append(raw[0] * scale[:, None, :])
        values.append(raw[1] * state["value_scale"][:, :, : geometry.coarse_rows, None])
    return torch.cat(keys, dim=2), torch.cat(values, dim=2)


def plain_codes(codes: Tensor) -> Tensor:
    """int8 codes, or packed int4 unpacked with integer arithmetic, as float32."""
    if codes.dtype == torch.int8:
        return codes.float()
    wide = codes.to(torch.int64)
    return torch.cat([wide % 16, wide // 16], dim=-1).float() - 8


@st.composite
def geometries(draw: st.DrawFn, readouts: Sequence[str] = ("none", "mass", "residual", "moments")) -> CacheGeometry:
    """Small geometries over all layouts: exact, coarse, both; memory in either store; every readout."""
    chunk = draw(st.integers(1, 5))
    window = chunk + draw(st.integers(0, 4))
    sinks = draw(st.integers(0, 3))
    tier = draw(st.sampled_from(["exact", "int8", "int4", "exact+int8", "exact+int4"]))
    base = sinks + window + draw(st.integers(0, 6))
    exact = base if tier.startswith("exact") else 0
    coarse = 0 if tier == "exact" else (base if not exact else chunk + draw(st.integers(0, 6)))
    readout = draw(st.sampled_from(readouts))
    frame = (draw(st.integers(1, 7)), draw(st.integers(1, 7)))
    memory = readout == "mass"
    stores = ["exact"] if not coarse else ["exact", "coarse"]
    kv_heads = draw(st.integers(1, 3))
    return CacheGeometry(
        batch=draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        q_heads=kv_heads * draw(st.integers(1, 3)),
        head_dim=draw(st.sampled_from([2, 6, 8])),
        dtype=draw(st.sampled_from(["float32", "float16", "bfloat16"])),
        exact_rows=exact,
        coarse_rows=coarse,
        coarse_dtype="int4" if tier.endswith("int4") else "int8",
        memory_grid=(draw(st.integers(1, frame[0])), draw(st.integers(1, frame[1]))) if memory else (0, 0),
        frame_grid=frame,
        recall_rows=draw(st.integers(1, 3)) if memory else 0,
        memory_store=draw(st.sampled_from(stores)) if memory else "exact",
        sinks=sinks,
        window=window,
        chunk=chunk,
        readout=readout,
    )


def grown(geometry: CacheGeometry, rows: int) -> CacheGeometry:
    """The geometry with at least `rows` rows in its first tier, so that `rows` tokens evict nothing."""
    name = "exact_rows" if geometry.exact_rows else "coarse_rows"
    return replace(geometry, **{name: max(rows, getattr(geometry, name))})
