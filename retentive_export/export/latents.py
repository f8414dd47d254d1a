"""Fitting the latent bases: which r numbers of a token's keys and values a layer's output depends on most.

Not the plain principal components, but those of keys and values as the attention weighs them. For one KV head with
queries q (its group's, scaled) and the output projection's blocks W, an error dk moves the logits by q . dk and an
error dv the layer's output by W dv. To first order the output's squared error is

    var * dk' E[q q'] dk  +  dv' (sum W' W) dv,      var = E |W (v - E v)|^2

so the components are taken of M^(1/2) x with the block-diagonal M of these two forms over all heads. Keys are those
after RoPE, at several positions (`along.py`), so that the basis holds where a dialogue may stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from retentive_export.cache.latent import LatentBasis
from retentive_export.export.along import Along
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.reference import Run
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["LayerMoments", "Spectrum", "fit_bases", "fit_spectrum", "sinks_in_front"]

HEADROOM = 1.1
"""Largest code of 8 bits over the largest latent seen."""
SPREAD = {4: 3.0, 2: 1.99}
"""Range of codes of 4 and 2 bits, in standard deviations of the latent; of 2 bits: the four levels of least error for a
normal one (Max, "Quantizing for minimum distortion", 1960)."""
FLOOR = 1e-6
"""Smallest eigenvalue of a metric over its largest: directions below it count as if they were there."""


@dataclass
class LayerMoments:
    """Sums over tokens of one layer: x [n] and x x' [n, n], n = 2 Hkv D, per head key then value; q q' [Hkv, D, D]."""

    count: int = 0
    sums: Tensor | float = 0.0
    squares: Tensor | float = 0.0
    queries: Tensor | float = 0.0

    def add(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """Tokens of one pass: query [B, Hq, T, D], key and value [B, Hkv, T, D]."""
        x = token_rows(key, value).double()
        heads, size = key.shape[1], key.shape[3]
        q = (query.double() * scale).unflatten(1, (heads, -1)).permute(1, 0, 2, 3, 4).reshape(heads, -1, size)
        self.count += len(x)
        self.sums = self.sums + x.sum(dim=0)
        self.squares = self.squares + x.T @ x
        self.queries = self.queries + q.transpose(1, 2) @ q


@dataclass
class _Recorder:
    """An `Observer`: fills `moments`, then `spread`.

    skipped: first tokens of every pass that do not count.
    """

    skipped: int
    moments: dict[int, LayerMoments] = field(default_factory=dict)
    bases: Sequence[LatentBasis] | None = None
    spread: dict[int, tuple[Tensor, Tensor, int]] = field(default_factory=dict)

    def see(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> None:
        """See `Observer`."""
        q, k, v = (x[:, :, self.skipped :] for x in (query, key, value))
        if self.bases is None:
            self.moments.setdefault(layer_index, LayerMoments()).add(q, k, v, scale)
        else:
            basis = self.bases[layer_index]
            latents = (token_rows(k, v) - basis.mean.flatten()) @ basis.encode.flatten(0, 1)
            largest, squares, count = self.spread.get(layer_index, (torch.zeros(()), torch.zeros(()), 0))
            self.spread[layer_index] = (
                torch.maximum(largest, latents.abs().amax(dim=0)),
                squares + latents.square().sum(dim=0),
                count + len(latents),
            )


def token_rows(key: Tensor, value: Tensor) -> Tensor:
    """key, value [B, Hkv, T, D] -> one row per token [B T, Hkv 2 D] float32."""
    return torch.cat([key, value], dim=-1).float().permute(0, 2, 1, 3).flatten(2).flatten(0, 1)


@dataclass(frozen=True, kw_only=True)
class Spectrum:
    """All components of every layer, the largest first, and how far latents along them reach.

    Components are nested: the first r are the basis of rank r, so one fit serves every rank and type.
    """

    components: list[LatentBasis]
    reach: list[tuple[Tensor, Tensor]]
    dtype: torch.dtype

    def bases(self, geometry: CacheGeometry) -> list[LatentBasis]:
        """The bases of the geometry's latents: so many components, scaled to the codes that they are stored as."""
        rank, parts = geometry.latent_rank, geometry.latent_parts
        cut = [LatentBasis(one.encode[..., :rank], one.decode[..., :rank], one.mean) for one in self.components]
        if parts:
            cut = [_scaled(one, (a[:rank], b[:rank]), parts) for one, (a, b) in zip(cut, self.reach, strict=True)]
        return [LatentBasis(*(x.to(self.dtype).contiguous() for x in one)) for one in cut]


def sinks_in_front(geometry: CacheGeometry) -> int:
    """First tokens that never become latents, because the rows in front hold them."""
    return geometry.sinks if geometry.local_rows > geometry.latent_rows else 0


def fit_spectrum(
    adapter: ModelAdapter, graph: DecoderGraph, runs: Sequence[Run], context: int, *, plain: bool = False
) -> Spectrum:
    """All components of the graph's layers.

    Sinks that stay in front of the latents do not count: their keys and values are outliers, by which no other token
    should be scaled.

    Args:
        runs: token streams with the features of their pictures. context: tokens of a session; see `Along`.
        plain: the principal components of keys and values as they are, for comparison.
    """
    geometry = graph.geometry
    skipped = sinks_in_front(geometry)
    along = Along(graph, runs, context)
    recorder = along.observe(_Recorder(skipped))
    components = []
    for layer in range(graph.layers):
        moments = recorder.moments[layer]
        root = None if plain else _metric(adapter, layer, moments, geometry)
        components.append(_components(moments, root, geometry))
    spread = along.observe(_Recorder(skipped, bases=components)).spread
    reach = [
        (largest, (squares / count).sqrt()) for largest, squares, count in (spread[i] for i in range(graph.layers))
    ]
    return Spectrum(components=components, reach=reach, dtype=adapter.dtype)


def fit_bases(
    adapter: ModelAdapter, graph: DecoderGraph, runs: Sequence[Run], context: int, *, plain: bool = False
) -> list[LatentBasis]:
    """One basis per layer of the graph's geometry; see `fit_spectrum`."""
    return fit_spectrum(adapter, graph, runs, context, plain=plain).bases(graph.geometry)


def _metric(adapter: ModelAdapter, layer: int, moments: LayerMoments, geometry: CacheGeometry) -> Tensor:
    """M^(1/2) per head for keys and values, [Hkv, 2, D, D] float64."""
    heads, size = geometry.kv_heads, geometry.head_dim
    projection = adapter.output_projection(layer).detach().double()  # [hidden, Hq D]
    blocks = projection.unflatten(1, (heads, -1, size)).permute(1, 2, 0, 3).flatten(1, 2)  # [Hkv, G hidden, D]
    values = blocks.transpose(1, 2) @ blocks  # [Hkv, D, D]
    _, covariance = _mean_covariance(moments)
    per_head = covariance.reshape(heads, 2, size, heads, 2, size)
    spread = torch.stack([(values[h] * per_head[h, 1, :, h, 1]).sum() for h in range(heads)])
    assert isinstance(moments.queries, Tensor)
    keys = moments.queries / moments.count * spread[:, None, None]
    return _root(torch.stack([keys, values], dim=1))


def _root(matrices: Tensor) -> Tensor:
    """Square roots of symmetric matrices [..., D, D], their small eigenvalues raised to `FLOOR` times the largest."""
    values, vectors = torch.linalg.eigh(matrices)
    largest = values[..., -1:].clamp(min=1e-30)
    roots = torch.maximum(values, FLOOR * largest).sqrt()
    return (vectors * roots.unsqueeze(-2)) @ vectors.transpose(-1, -2)


def _mean_covariance(moments: LayerMoments) -> tuple[Tensor, Tensor]:
    assert isinstance(moments.sums, Tensor)
    assert isinstance(moments.squares, Tensor)
    mean = moments.sums / moments.count
    return mean, moments.squares / moments.count - torch.outer(mean, mean)


def _components(moments: LayerMoments, root: Tensor | None, geometry: CacheGeometry) -> LatentBasis:
    """The principal components of M^(1/2) x, the largest first, not scaled to codes."""
    heads, size = geometry.kv_heads, geometry.head_dim
    mean, covariance = _mean_covariance(moments)
    wide = torch.eye(len(mean), dtype=torch.float64) if root is None else torch.block_diag(*root.flatten(0, 1))
    _, vectors = torch.linalg.eigh(wide @ covariance @ wide)
    top = vectors.flip(1)
    decode = torch.linalg.solve(wide, top)
    shape = (heads, 2 * size, len(mean))
    return LatentBasis((wide @ top).reshape(shape).float(), decode.reshape(shape).float(), mean.view(heads, -1).float())


def _scaled(basis: LatentBasis, reach: tuple[Tensor, Tensor], parts: Sequence[tuple[int, int]]) -> LatentBasis:
    """The basis whose latents fill their codes; `parts`: (bits, numbers) as in `CacheGeometry.latent_parts`.

    Codes of two bits are -2 .. 1 and stand for the middle of their step: half a step that the mean takes in.
    """
    steps, half = [], []
    for (bits, count), largest, deviation in zip(
        parts, *(x.split([count for _, count in parts]) for x in reach), strict=True
    ):
        reached = HEADROOM * largest if bits == 8 else SPREAD[bits] * deviation
        steps.append((reached / (2 ** (bits - 1) - (bits > 2))).clamp(min=1e-8))
        half.append(torch.full((count,), 0.5 if bits == 2 else 0.0))
    step = torch.cat(steps)
    decode = basis.decode * step
    return LatentBasis(basis.encode / step, decode, basis.mean + decode @ torch.cat(half))
