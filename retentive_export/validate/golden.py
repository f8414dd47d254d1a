"""Replay golden.npz on a backend, with the golden run's own tokens, and compare every step with the reference.

Needs the artifact and its backend only: no torch. The pictures go through the artifact's own vision graph.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retentive_export.backends import default_backend, open_backend
from retentive_export.errors import ArtifactError, RecipeError
from retentive_export.spec.manifest import read_manifest, verify_files
from retentive_export.validate.layers import StateLog
from retentive_export.validate.metrics import compare_logits
from retentive_export.validate.result import ValidationReport, state_limits
from retentive_export.validate.tokens import (
    GOLDEN,
    Tokens,
    encode,
    feature_errors,
    prefill_steps,
    read_golden,
    step_slices,
)

__all__ = ["validate_golden"]


def validate_golden(
    directory: str | Path, backend: str | None = None, *, steps: int | None = None, **options: Any
) -> ValidationReport:
    """Verify every file's hash, replay the golden run, compare.

    Args:
        directory: the artifact. backend: its name; None: the one that the artifact was built for. steps: decode steps
            to replay; None: all. golden.npz holds the state after the last one, so fewer compare outputs alone.
            options: the backend's own, such as `threads`.

    Raises:
        ArtifactError: a file is missing or altered, or golden.npz is not what this version writes.
        RecipeError: more steps than golden.npz holds.
        NumericalError: the backend produced NaN or infinity.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    golden = read_golden(directory / GOLDEN)
    prefill, parts = prefill_steps(golden, manifest), step_slices(golden)
    held = len(parts) - prefill
    if steps is not None and not 0 <= steps <= held:
        raise RecipeError(
            f"steps is {steps}, and {GOLDEN} holds {held} decode steps", hint="--against reference takes any number"
        )
    backend = backend or default_backend(directory)
    opened = open_backend(backend, directory, **{**options, "verify": False})
    features, tokens = encode(opened, golden), Tokens.of(golden)
    opened.reset()
    compared = tuple(
        compare_logits(
            opened.step(tokens.inputs(part, features))[0, -1],
            golden["logits"][index],
            tokens=part.stop - part.start,
            index=index,
        )
        for index, part in enumerate(parts[: prefill + (held if steps is None else steps)])
    )
    log = StateLog(manifest.plan().geometry, state_limits(manifest, lockstep=False))
    if len(compared) == len(parts):
        reference = {name.removeprefix("state."): golden[name] for name in golden if name.startswith("state.")}
        state = opened.state()
        if unknown := sorted(set(reference) - set(state)):
            raise ArtifactError(f"{GOLDEN} holds the state {unknown[0]!r}, which the graph does not have")
        log.add(len(parts) - 1, state, reference)
    return ValidationReport.of(
        manifest,
        compared,
        log,
        backend=backend,
        against="golden",
        lockstep=False,
        prefill=prefill,
        vision_error=feature_errors(features, {name: golden[name][0] for name in features}),
    )
