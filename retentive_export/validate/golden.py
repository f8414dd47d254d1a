"""Replay golden.npz on a backend, with the golden run's own tokens, and compare every step with the reference.

Needs the artifact and its backend only: no torch. The pictures go through the artifact's own vision graph.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from retentive_export.backends import Backend, DecoderInputs, default_backend, open_backend
from retentive_export.errors import ArtifactError, NumericalError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import read_manifest, verify_files
from retentive_export.validate.state import compare_states, differing_rows

__all__ = ["Check", "GoldenReport", "StepReport", "validate_golden"]

GOLDEN = "golden.npz"
_REQUIRED = ("input_ids", "token_meta", "position_ids", "visual_rows", "boundaries", "logits")


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One step's logits against the reference's.

    logit_error: largest absolute difference over the reference's range. cosine, norm_ratio: of the two vectors, each
    less its mean. kl: of the next-token distributions, reference to ours, in nats. agrees: the same greedy token.
    """

    tokens: int
    logit_error: float
    cosine: float
    norm_ratio: float
    kl: float
    agrees: bool


@dataclass(frozen=True, kw_only=True)
class Check:
    """One quantity, the limit it must keep (None: for information), and whether it does."""

    name: str
    value: float | int | str
    limit: float | None = None
    holds: bool = True


@dataclass(frozen=True, kw_only=True)
class GoldenReport:
    """The whole comparison.

    first_divergence: first step whose greedy token differs or whose logit error is over the limit; None if there is
    none. differing_rows: layer -> rows that hold another token at the end (different victims). victim_share: the
    largest share of a layer's rows. state_error: tensor kind -> error (`validate.state`). vision_error: tensor ->
    largest absolute difference over the reference's largest magnitude. logit_limit, state_limit: the manifest's
    thresholds. state_decides: whether victims and state must keep their limit; in half precision near-ties between
    victims fall either way, and from the first one on the two states hold other tokens, so that only logits and
    features decide.
    """

    backend: str
    steps: tuple[StepReport, ...]
    first_divergence: int | None
    differing_rows: dict[int, int]
    victim_share: float
    state_error: dict[str, float]
    vision_error: dict[str, float]
    logit_limit: float
    state_limit: float
    state_decides: bool

    @property
    def logit_error(self) -> float:
        """Of the worst step."""
        return max(step.logit_error for step in self.steps)

    @property
    def agreement(self) -> float:
        """Share of steps whose greedy token is the reference's."""
        return sum(step.agrees for step in self.steps) / len(self.steps)

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return not self.failures()

    def failures(self) -> tuple[str, ...]:
        """Quantities over their limit, as sentences."""
        return tuple(f"{c.name} is {c.value:.3g}, limit {c.limit:.3g}" for c in self.checks() if not c.holds)

    def checks(self) -> tuple[Check, ...]:
        """Every quantity in the order in which a table shows them."""
        divergence = "none" if self.first_divergence is None else self.first_divergence
        limited = [("logit error", self.logit_error, self.logit_limit)]
        state = [("victims that differ, share", self.victim_share)]
        state += [(f"state error: {kind}", error) for kind, error in self.state_error.items()]
        if self.state_decides:
            limited += [(name, error, self.state_limit) for name, error in state]
        exact = min(self.logit_limit, self.state_limit)  # no quantised rows are in the way
        limited += [(f"vision error: {name}", error, exact) for name, error in self.vision_error.items()]
        told = [
            Check(name="steps", value=len(self.steps)),
            Check(name="greedy agreement", value=self.agreement),
            Check(name="first diverging step", value=divergence),
            Check(name="smallest cosine", value=min(step.cosine for step in self.steps)),
            Check(
                name="norm ratio furthest from 1",
                value=max((s.norm_ratio for s in self.steps), key=lambda r: abs(r - 1)),
            ),
            Check(name="largest KL (nats)", value=max(step.kl for step in self.steps)),
            Check(name="rows that differ", value=sum(self.differing_rows.values())),
        ]
        if not self.state_decides:
            told += [Check(name=name, value=error) for name, error in state]
        return (*told, *(Check(name=n, value=v, limit=limit, holds=v <= limit) for n, v, limit in limited))


def validate_golden(directory: str | Path, backend: str | None = None, **options: Any) -> GoldenReport:
    """Verify every file's hash, replay the golden run, compare.

    Args:
        directory: the artifact. backend: its name; None: the one that the artifact was built for. options: the
            backend's own, such as `threads`.

    Raises:
        ArtifactError: a file is missing or altered, or golden.npz is not what this version writes.
        NumericalError: the backend produced NaN or infinity.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    golden = _read(directory / GOLDEN)
    backend = backend or default_backend(directory)
    opened = open_backend(backend, directory, **{**options, "verify": False})
    features, vision_error = _features(opened, golden)
    limits = manifest.thresholds.resolved(manifest.dtype)
    assert limits.logit_error is not None
    assert limits.state_error is not None
    steps = tuple(_replay(opened, golden, features))
    state = opened.state()
    reference = {name.removeprefix("state."): golden[name] for name in golden if name.startswith("state.")}
    if unknown := sorted(set(reference) - set(state)):
        raise ArtifactError(f"{GOLDEN} holds the state {unknown[0]!r}, which the graph does not have")
    differing = differing_rows(state, reference)
    geometry = manifest.plan().geometry
    rows = geometry.batch * geometry.kv_heads * geometry.rows
    over = (i for i, step in enumerate(steps) if not step.agrees or step.logit_error > limits.logit_error)
    return GoldenReport(
        backend=backend,
        steps=steps,
        first_divergence=next(over, None),
        differing_rows=differing,
        victim_share=max(differing.values(), default=0) / rows,
        state_error=compare_states(geometry, state, reference),
        vision_error=vision_error,
        logit_limit=limits.logit_error,
        state_limit=limits.state_error,
        state_decides=manifest.dtype == "float32",
    )


def _read(path: Path) -> dict[str, Array]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            golden = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path} is not readable: {error}") from None
    if missing := [name for name in _REQUIRED if name not in golden]:
        raise ArtifactError(f"{path} lacks {', '.join(missing)}", hint="build the artifact again")
    if not len(golden["boundaries"]) == len(golden["logits"]) + 1 > 1:
        raise ArtifactError(f"{path}: {len(golden['logits'])} steps do not match their boundaries")
    return golden


def _features(backend: Backend, golden: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """The artifact's own features of the golden frame (visual_embeds [tokens, hidden], deep [layers, tokens, hidden]),
    and their errors against the reference's."""
    if "frame" not in golden:
        return {}, {}
    outputs = zip(("visual_embeds", "deep"), backend.encode(golden["frame"][None]), strict=True)
    features = {name: array[0] for name, array in outputs if array is not None}
    errors = {}
    for name, array in features.items():
        if not np.isfinite(array).all():
            raise NumericalError(f"the vision graph's {name} hold NaN or infinity")
        expected = golden[name][0]
        errors[name] = float(np.abs(array - expected).max()) / (float(np.abs(expected).max()) or 1.0)
    return features, errors


def _replay(backend: Backend, golden: Mapping[str, Array], features: Mapping[str, Array]) -> Iterator[StepReport]:
    backend.reset()
    bounds = golden["boundaries"]
    for index, (start, stop) in enumerate(pairwise(bounds)):
        part = slice(int(start), int(stop))
        positions = golden["position_ids"][:, None, part]
        logits = backend.step(
            DecoderInputs(
                input_ids=golden["input_ids"][None, part],
                token_meta=golden["token_meta"][None, part],
                position_ids=positions if len(positions) > 1 else positions[0],
                **_placed(features, golden["visual_rows"][part].astype(np.int64)),
            )
        )
        yield _compare(logits[0, -1], golden["logits"][index], part.stop - part.start, index)


def _placed(features: Mapping[str, Array], rows: npt.NDArray[np.int64]) -> dict[str, Array]:
    """Features of the step's tokens, zeros at text tokens: [1, T, hidden] and [1, layers, T, hidden]."""
    present = (rows >= 0)[:, None]
    return {
        name: np.where(present, array[..., rows, :], 0).astype(array.dtype)[None] for name, array in features.items()
    }


def _compare(logits: Array, reference: Array, tokens: int, index: int) -> StepReport:
    if not np.isfinite(logits).all():
        raise NumericalError(f"the logits of step {index} hold NaN or infinity")
    ours, theirs = logits.astype(np.float64), reference.astype(np.float64)
    spread = float(np.ptp(theirs)) or 1.0
    a, b = ours - ours.mean(), theirs - theirs.mean()
    norms = float(np.linalg.norm(a)), float(np.linalg.norm(b)) or 1.0
    log_ours, log_theirs = _log_softmax(ours), _log_softmax(theirs)
    return StepReport(
        tokens=tokens,
        logit_error=float(np.abs(ours - theirs).max()) / spread,
        cosine=float(a @ b) / ((norms[0] or 1.0) * norms[1]),
        norm_ratio=norms[0] / norms[1],
        kl=max(0.0, float((np.exp(log_theirs) * (log_theirs - log_ours)).sum())),
        agrees=int(ours.argmax()) == int(theirs.argmax()),
    )


def _log_softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())
