"""What onnxruntime-genai's model builder makes of the model, run by onnxruntime-genai: one buffer for the full
cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

__all__ = ["open_arm"]


class GenaiArm:
    """spec: `model`, a directory of the builder; `context`, tokens that its cache holds."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        import numpy as np
        import onnxruntime
        import onnxruntime_genai

        self._np, self._og, self._spec = np, onnxruntime_genai, spec
        self._ids: list[int] = []
        versions = {"onnxruntime-genai": onnxruntime_genai.__version__, "onnxruntime": onnxruntime.__version__}
        self.facts: dict[str, Any] = {"versions": versions, "cache": "GroupQueryAttention, one shared buffer, float32"}
        self._open(threads)

    def _open(self, threads: int) -> None:
        config = self._og.Config(self._spec["model"])
        config.clear_providers()
        options = {"intra_op_num_threads": threads}
        config.overlay(json.dumps({"model": {"decoder": {"session_options": options}}}))
        self._model = self._og.Model(config)
        parameters = self._og.GeneratorParams(self._model)
        parameters.set_search_options(max_length=self._spec["context"], past_present_share_buffer=True)
        self._generator = self._og.Generator(self._model, parameters)

    def feed(self, ids: Sequence[int]) -> None:
        self._generator.append_tokens(self._np.asarray([ids], self._np.int32))
        self._ids += ids

    def step(self, token: int) -> None:
        self.feed([token])

    def set_threads(self, threads: int) -> None:
        """The number is fixed when a model is opened: it is opened anew and reads the sequence again."""
        self._generator = self._model = None
        self._open(threads)
        seen, self._ids = self._ids, []
        self.feed(seen)


def open_arm(spec: dict[str, Any], threads: int) -> GenaiArm:
    """Open the builder's model."""
    return GenaiArm(spec, threads)
