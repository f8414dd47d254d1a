"""The tokens of a run, and golden.npz, which holds those of the reference's."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from retentive_export.backends import Backend, DecoderInputs
from retentive_export.errors import ArtifactError, NumericalError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest

__all__ = ["GOLDEN", "Tokens", "encode", "feature_errors", "prefill_steps", "read_golden", "step_slices"]

GOLDEN = "golden.npz"
_REQUIRED = ("input_ids", "token_meta", "position_ids", "visual_rows", "boundaries", "logits")


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What a decoder was fed.

    input_ids: [n] int64. token_meta: [n, 2] int32, (position, cell). position_ids: [axes, n] int64. visual_rows: [n],
    row of the frame's features, -1 at a text token.
    """

    input_ids: Array
    token_meta: Array
    position_ids: Array
    visual_rows: Array

    @classmethod
    def of(cls, golden: Mapping[str, Array]) -> Tokens:
        """Those of the golden run."""
        return cls(**{name: golden[name] for name in ("input_ids", "token_meta", "position_ids", "visual_rows")})

    def cut(self, count: int) -> Tokens:
        """The first `count`."""
        return Tokens(
            input_ids=self.input_ids[:count],
            token_meta=self.token_meta[:count],
            position_ids=self.position_ids[:, :count],
            visual_rows=self.visual_rows[:count],
        )

    def extended(self, token: int) -> Tokens:
        """With one more text token."""
        rope = np.broadcast_to(self.position_ids[:, -1].max() + 1, (len(self.position_ids), 1))
        meta = np.array([[self.token_meta[-1, 0] + 1, -1]], np.int32)
        return Tokens(
            input_ids=np.append(self.input_ids, token),
            token_meta=np.concatenate([self.token_meta, meta]),
            position_ids=np.concatenate([self.position_ids, rope], axis=1),
            visual_rows=np.append(self.visual_rows, -1),
        )

    def inputs(self, part: slice, features: Mapping[str, Array]) -> DecoderInputs:
        """One step: the tokens of `part`, with the features (`encode`) of visual ones and zeros at text tokens."""
        positions = self.position_ids[:, None, part]
        rows = self.visual_rows[part].astype(np.int64)
        present = (rows >= 0)[:, None]
        return DecoderInputs(
            input_ids=self.input_ids[None, part],
            token_meta=self.token_meta[None, part],
            position_ids=positions if len(positions) > 1 else positions[0],
            **{
                name: np.where(present, array[..., rows, :], 0).astype(array.dtype)[None]
                for name, array in features.items()
            },
        )


def read_golden(path: Path) -> dict[str, Array]:
    """The arrays of golden.npz.

    Raises:
        ArtifactError: not readable, or not what this version writes.
    """
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


def step_slices(golden: Mapping[str, Array]) -> list[slice]:
    """Tokens of each step."""
    return [slice(int(start), int(stop)) for start, stop in pairwise(golden["boundaries"])]


def prefill_steps(golden: Mapping[str, Array], manifest: Manifest) -> int:
    """How many of the golden run's steps feed the prompt; the others decode."""
    steps = len(golden["logits"])
    return steps - min(int(manifest.recipe.get("golden_steps", 0)), steps - 1)


def encode(backend: Backend, golden: Mapping[str, Array]) -> dict[str, Array]:
    """A backend's own features of the golden frame: visual_embeds [tokens, hidden], deep [layers, tokens, hidden];
    nothing for a text model.

    Raises:
        NumericalError: they hold NaN or infinity.
    """
    if "frame" not in golden:
        return {}
    outputs = zip(("visual_embeds", "deep"), backend.encode(golden["frame"][None]), strict=True)
    features = {name: array[0] for name, array in outputs if array is not None}
    for name, array in features.items():
        if not np.isfinite(array).all():
            raise NumericalError(f"the vision graph's {name} hold NaN or infinity")
    return features


def feature_errors(ours: Mapping[str, Array], reference: Mapping[str, Array]) -> dict[str, float]:
    """Tensor -> largest absolute difference over the reference's largest magnitude."""
    return {name: _error(array.astype(np.float64), reference[name].astype(np.float64)) for name, array in ours.items()}


def _error(ours: npt.NDArray[np.float64], reference: npt.NDArray[np.float64]) -> float:
    return float(np.abs(ours - reference).max()) / (float(np.abs(reference).max()) or 1.0)
