"""An artifact of ours on any backend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.backends import Backend, DecoderInputs, default_backend, open_backend
from retentive_export.errors import RecipeError
from retentive_export.spec.provenance import versions

__all__ = ["open_arm"]


class ArtifactArm:
    """spec: `path`, `backend` (None: what it was built for), `options` (of the backend)."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        self._spec = spec
        self._name = spec.get("backend") or default_backend(spec["path"])
        self._backend = self._open(threads)
        self._seen = 0
        manifest = self._backend.manifest
        self._axes = manifest.vision.position_axes if manifest.vision else 1
        self._chunk = manifest.plan().geometry.chunk
        self.facts: dict[str, Any] = {"versions": _versions(self._name)}

    def _open(self, threads: int) -> Backend:
        options = dict(self._spec.get("options") or {})
        if self._name == "onnxruntime":
            options |= {"threads": threads, "verify": False, "denormals_as_zero": True}
        return open_backend(self._name, self._spec["path"], **options)

    def feed(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), self._chunk):
            self._step(ids[start : start + self._chunk])

    def step(self, token: int) -> None:
        self._step([token])

    def set_threads(self, threads: int) -> None:
        if self._name != "onnxruntime":
            raise RecipeError(f"backend {self._name!r} takes no number of threads")
        state = self._backend.state()
        del self._backend  # two sessions at once would hold the weights twice
        self._backend = self._open(threads)
        self._backend.load_state(state)

    def _step(self, ids: Sequence[int]) -> None:
        place = self._seen + np.arange(len(ids))
        meta = np.stack([place, np.full(len(ids), -1)], axis=-1)[None].astype(np.int32)
        positions = np.broadcast_to(place, (self._axes, 1, len(ids))) if self._axes > 1 else place[None]
        inputs = DecoderInputs(
            input_ids=np.asarray(ids, np.int64)[None], token_meta=meta, position_ids=positions.astype(np.int64)
        )
        logits = self._backend.step(inputs)
        if not np.isfinite(logits).all():
            raise FloatingPointError(f"{Path(self._spec['path']).name}: logits hold NaN or infinity")
        self._seen += len(ids)


def _versions(backend: str) -> dict[str, str]:
    names = {"onnxruntime": ["onnxruntime"], "torch": ["torch", "transformers"]}.get(backend, [backend])
    return dict.fromkeys(names, "unknown") | versions(names)


def open_arm(spec: dict[str, Any], threads: int) -> ArtifactArm:
    """Open the artifact."""
    return ArtifactArm(spec, threads)
