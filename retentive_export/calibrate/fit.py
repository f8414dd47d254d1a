"""Fit on one part of the dialogues, measure on the other.

What is measured is the recipe's own decode loop, fed chunk by chunk with the dialogues' true tokens, against the same
model with its full cache: mean KL divergence of the next token in nats, and how often the greedy token is the same,
over the tokens of the answers: what a model says of the user's next words is of no use to anybody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor

from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.loop import CacheLoop
from retentive_export.export.constants import fit_constants
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.latents import fit_bases
from retentive_export.export.reference import Pass, ReferenceRun, Run, chunks
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.plan import CachePlan

__all__ = ["Calibration", "Measured", "Setup", "calibrate"]

LAMBDAS = (0.0, 0.25, 0.5, 0.75, 1.0)
BETAS = (-1.0, 0.0, 1.0)


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A model and its cache. graph: without constants."""

    adapter: ModelAdapter
    plan: CachePlan
    graph: DecoderGraph


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One set of constants on some dialogues. kl: nats. agreement: share of greedy tokens that are the full cache's."""

    constants: str
    kl: float
    agreement: float
    tokens: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was fitted, and what it is worth on dialogues that the fit never saw.

    graph: with the constants; its latent bases are weighed by the attention or plain components, whichever has the
    lower KL on the fitted part. gate: with lambda and beta. fitted_on, held_out_on: dialogues. seed: of the split.
    searched: (lambda, beta, KL on the fitted part) of every pair that was tried. held_out: the constants without
    calibration first, the fitted ones last.
    """

    graph: DecoderGraph
    gate: GateConfig
    fitted_on: int
    held_out_on: int
    seed: int
    searched: tuple[tuple[float, float, float], ...]
    held_out: tuple[Measured, ...]


def calibrate(
    setup: Setup,
    fitting: Sequence[Run],
    held_out: Sequence[Run],
    *,
    seed: int,
    search: bool = True,
    progress: Callable[[str], None] = lambda line: None,
) -> Calibration:
    """Fit the constants of a cache on `fitting`; `held_out` is measured, and decides nothing.

    Args:
        search: also try values of lambda (policy `retentive`) and beta (memory rows) on the fitted part.
    """
    progress(f"fitting on {len(fitting)} dialogues")
    fit_constants(setup.adapter, setup.graph, fitting, setup.plan.context)
    full = [full_logits(setup.graph, run) for run in fitting]
    plain = _plain_bases(setup, fitting)
    weighed_kl, plain_kl = _choose_bases(setup, plain, fitting, full)
    progress(f"latent bases: KL {weighed_kl:.4g} weighed by the attention, {plain_kl:.4g} plain")
    searched: list[tuple[float, float, float]] = []
    for gate in _gates(setup.plan) if search else []:
        kl, _, _ = _compare(setup.graph, gate, fitting, full)
        progress(f"lambda {gate.lambda_:g}, beta {gate.beta:g}: KL {kl:.4g}")
        searched.append((gate.lambda_, gate.beta, kl))
    before, gate = setup.plan.gate, setup.plan.gate
    if searched:
        lambda_, beta, _ = min(searched, key=lambda one: one[2])
        gate = replace(before, lambda_=lambda_, beta=beta)
    progress(f"measuring on {len(held_out)} held-out dialogues")
    truth = [full_logits(setup.graph, run) for run in held_out]
    measured = [
        _measured("without calibration", _uncalibrated(setup, plain), before, held_out, truth),
        _measured("calibrated rows", setup.graph, before, held_out, truth),
    ]
    if gate != before:
        measured.append(_measured("calibrated rows and gate", setup.graph, gate, held_out, truth))
    return Calibration(
        graph=setup.graph,
        gate=gate,
        fitted_on=len(fitting),
        held_out_on=len(held_out),
        seed=seed,
        searched=tuple(searched),
        held_out=tuple(measured),
    )


def _plain_bases(setup: Setup, runs: Sequence[Run]) -> Sequence[LatentBasis] | None:
    """Plain principal components; None without latents."""
    if not setup.graph.geometry.latent_rows:
        return None
    return fit_bases(setup.adapter, setup.graph, runs, setup.plan.context, plain=True)


def _choose_bases(
    setup: Setup, plain: Sequence[LatentBasis] | None, fitting: Sequence[Run], full: Sequence[Tensor]
) -> tuple[float, float]:
    """Leave the graph with the better of two kinds of bases on the fitted part; KL of both, equal without latents."""
    weighed, _, _ = _compare(setup.graph, setup.plan.gate, fitting, full)
    if plain is None:
        return weighed, weighed
    with_plain, _, _ = _compare(replace(setup.graph, bases=plain), setup.plan.gate, fitting, full)
    if with_plain < weighed:
        setup.graph.bases = plain
    return weighed, with_plain


def _gates(plan: CachePlan) -> list[GateConfig]:
    """The gates to try: the recipe's first, so that it wins a tie; none where nothing can differ."""
    lambdas = LAMBDAS if plan.policy == "retentive" else (plan.gate.lambda_,)
    betas = BETAS if plan.geometry.memory_rows else (plan.gate.beta,)
    pairs = [(plan.gate.lambda_, plan.gate.beta), *product(lambdas, betas)]
    return [replace(plan.gate, lambda_=a, beta=b) for a, b in dict.fromkeys(pairs)] if len(pairs) > 2 else []


def _uncalibrated(setup: Setup, plain: Sequence[LatentBasis] | None) -> DecoderGraph:
    """What one would take without a fit: one scale for all channels of a head, plain principal components."""
    geometry, graph = setup.graph.geometry, replace(setup.graph)
    if geometry.coarse_rows:
        assert setup.graph.key_scales is not None
        graph.key_scales = [s.amax(dim=1, keepdim=True).expand_as(s).contiguous() for s in setup.graph.key_scales]
    if plain is not None:
        graph.bases = plain
    return graph


def full_logits(graph: DecoderGraph, run: Run) -> Tensor:
    """Logits [n, vocab] float32 of the model with its full cache at the scored tokens."""
    stream, visual, deep = run
    whole = slice(0, len(stream.input_ids))
    return ReferenceRun(graph, Pass(), visual, deep).step(stream, whole, last_only=False)[0, _scored(run)]


def _scored(run: Run) -> Tensor:
    """Indices of the tokens whose next token belongs to an answer."""
    answers = run[0].answers
    assert answers is not None
    return torch.from_numpy(answers[1:]).nonzero()[:, 0]


def _measured(
    constants: str, graph: DecoderGraph, gate: GateConfig, runs: Sequence[Run], full: Sequence[Tensor]
) -> Measured:
    kl, agreement, tokens = _compare(graph, gate, runs, full)
    return Measured(constants=constants, kl=kl, agreement=agreement, tokens=tokens)


def _compare(
    graph: DecoderGraph, gate: GateConfig, runs: Sequence[Run], full: Sequence[Tensor]
) -> tuple[float, float, int]:
    """Mean KL and greedy agreement over all scored tokens, and their number."""
    kl, same, count = 0.0, 0, 0
    for run, expected in zip(runs, full, strict=True):
        logits = _bounded_logits(graph, gate, run)
        ours, theirs = logits.log_softmax(dim=-1), expected.log_softmax(dim=-1)
        kl += float((theirs.exp() * (theirs - ours)).sum())
        same += int((logits.argmax(dim=-1) == expected.argmax(dim=-1)).sum())
        count += len(expected)
    return kl / count, same / count, count


def _bounded_logits(graph: DecoderGraph, gate: GateConfig, run: Run) -> Tensor:
    stream, visual, deep = run
    loop = CacheLoop(graph.geometry, gate, graph.layers, key_scales=graph.key_scales, bases=graph.bases)
    loop.reset()
    runner = ReferenceRun(graph, loop, visual, deep)
    parts = chunks(len(stream.input_ids), graph.geometry.chunk)
    return torch.cat([runner.step(stream, part, last_only=False)[0] for part in parts])[_scored(run)]
