"""Two backends side by side on one artifact: the same tokens and features into both, every step compared.

The prompt is the golden run's; what follows are the reference's own greedy tokens, so any number of steps can be
compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retentive_export.backends import Backend, default_backend, open_backend
from retentive_export.errors import CapacityError, RecipeError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest, read_manifest, verify_files
from retentive_export.validate.layers import StateLog
from retentive_export.validate.metrics import StepReport, compare_logits
from retentive_export.validate.result import ValidationReport, state_limits
from retentive_export.validate.state import has_int4
from retentive_export.validate.tokens import (
    GOLDEN,
    Tokens,
    encode,
    feature_errors,
    prefill_steps,
    read_golden,
    step_slices,
)

__all__ = ["REFERENCES", "validate_against"]

REFERENCES = {
    "reference": "torch",
    "onnxruntime": "onnxruntime",
    "tensorrt": "tensorrt",
    "tensorrt_rtx": "tensorrt_rtx",
}
"""What a backend can be compared with -> the backend that computes it; "reference" is PyTorch on the CPU."""


def validate_against(
    directory: str | Path,
    against: str = "reference",
    backend: str | None = None,
    *,
    steps: int | None = None,
    layers: bool = False,
    threads: int | None = None,
    **options: Any,
) -> ValidationReport:
    """Verify every file's hash, run two backends on the golden run's prompt and `steps` greedy tokens, compare.

    Args:
        directory: the artifact. against: a key of `REFERENCES`. backend: the side that is judged; None: the one that
            the artifact was built for. steps: decode steps; None: as many as the golden run has. layers: let every step
            start from the reference's state and compare the states after each, layer by layer. int4 rows always do:
            there one rounding apart moves a code by a seventh of its range, and free runs never meet again.
            threads: of both sides. options: the judged backend's own.

    Raises:
        ArtifactError: a file is missing or altered. RecipeError: an unknown `against`, or twice the same backend.
        CapacityError: a full cache that does not hold so many tokens. MissingExtraError: a side's package is not
        installed. NumericalError: a side produced NaN or infinity.
    """
    directory = Path(directory)
    if against not in REFERENCES:
        raise RecipeError(f"against is {against!r}, and must be one of: {', '.join(REFERENCES)}")
    manifest = read_manifest(directory)
    verify_files(directory, manifest)
    backend = backend or default_backend(directory)
    if backend == REFERENCES[against] and not options:
        other = "torch" if backend != "torch" else "onnxruntime"
        raise RecipeError(f"both sides are {backend!r}: equal by definition", hint=f"--backend {other}")
    golden = read_golden(directory / GOLDEN)
    prefill, parts = prefill_steps(golden, manifest), step_slices(golden)
    steps = len(parts) - prefill if steps is None else steps
    _check_room(manifest, parts[prefill - 1].stop + steps)
    shared = {"verify": False} if threads is None else {"verify": False, "threads": threads}
    reference = open_backend(REFERENCES[against], directory, **shared)
    ours = open_backend(backend, directory, **{**options, **shared})
    geometry = manifest.plan().geometry
    lockstep = layers or has_int4(geometry)
    log = StateLog(geometry, state_limits(manifest, lockstep=lockstep))
    features = encode(reference, golden)
    run = _Run(ours, reference, features, lockstep, log)
    run.go(Tokens.of(golden).cut(parts[prefill - 1].stop), parts[:prefill], steps)
    return ValidationReport.of(
        manifest,
        tuple(run.steps),
        run.log,
        backend=backend,
        against=against,
        lockstep=lockstep,
        prefill=prefill,
        vision_error=feature_errors(encode(ours, golden), features),
    )


def _check_room(manifest: Manifest, tokens: int) -> None:
    capacity = manifest.plan().capacity
    if capacity is not None and tokens > capacity:
        raise CapacityError(
            f"prompt and steps are {tokens} tokens, and this full cache holds {capacity}", hint="give fewer --steps"
        )


@dataclass
class _Run:
    """Both sides, fed alike; `steps` and `log` collect the comparisons.

    The decoders get the reference's features, so that an error of the vision graph, which is compared by itself, does
    not show as one of the decoder's first layer.
    """

    ours: Backend
    reference: Backend
    features: Mapping[str, Array]
    lockstep: bool
    log: StateLog
    steps: list[StepReport] = field(default_factory=list)

    def go(self, tokens: Tokens, prompt: list[slice], decode: int) -> None:
        """Feed the prompt's parts, then `decode` greedy tokens of the reference."""
        self.ours.reset()
        self.reference.reset()
        for part in prompt:
            token = self._step(tokens, part)
        for _ in range(decode):
            tokens = tokens.extended(token)
            end = len(tokens.input_ids)
            token = self._step(tokens, slice(end - 1, end))
        if not self.lockstep:
            self._compare_states()

    def _step(self, tokens: Tokens, part: slice) -> int:
        """One step on both sides; the reference's greedy token."""
        inputs = tokens.inputs(part, self.features)
        if self.lockstep:
            self.ours.load_state(self.reference.state())
        expected = self.reference.step(inputs)[0, -1]
        logits = self.ours.step(inputs)[0, -1]
        self.steps.append(compare_logits(logits, expected, tokens=part.stop - part.start, index=len(self.steps)))
        if self.lockstep:
            self._compare_states()
        return int(expected.argmax())

    def _compare_states(self) -> None:
        self.log.add(len(self.steps) - 1, self.ours.state(), self.reference.state())
