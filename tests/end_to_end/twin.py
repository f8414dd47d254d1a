"""An artifact on ONNX Runtime beside the PyTorch reference, fed with the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.backends import DecoderInputs, open_backend
from retentive_export.cache.loop import CacheLoop
from retentive_export.export.decoder import state_names
from retentive_export.export.prompts import Sample
from retentive_export.export.reference import ReferenceRun, chunks, visual_features
from retentive_export.pipeline import Job, build
from retentive_export.spec.recipe import parse_recipe
from retentive_export.spec.recipe_files import load_recipe
from retentive_export.spec.targets import target

QUANTISED = ("cache.policy=retentive", "cache.rows.latent=null", "cache.memory={}")
"""The reference VLM's recipe as it is for engines: int8 rows alone."""


def build_recipe(name: str, output: Path, *overrides: str, target: str = "cpu") -> Path:
    """Build a recipe of the package with overrides."""
    return build(load_recipe(name, overrides), target, output).directory


class Twin:
    """Both runs of one artifact's model over a sample: its picture and two turns, then greedy decode.

    `want` and `got` hold the last step's logits [vocab] of the reference and of ONNX Runtime.
    """

    def __init__(self, artifact: Path, sample: dict[str, Any]) -> None:
        self.backend = open_backend("onnxruntime", artifact, threads=1)
        job = Job(parse_recipe(self.backend.manifest.recipe), target("cpu"))
        turns = tuple((turn["question"], turn["answer"]) for turn in sample["dialogue"])
        picture = Sample(picture=sample["picture"], turns=turns)
        graph = job.graph
        self.geometry, self.layers = graph.geometry, graph.layers
        self.loop = CacheLoop(graph.geometry, graph.gate, graph.layers, key_scales=graph.key_scales, bases=graph.bases)
        self.loop.reset()
        self.run = ReferenceRun(graph, self.loop, *visual_features(job.adapter, job.layout, picture))
        self.stream = job.stream(picture)
        self.visual, self.deep = self.backend.encode(sample["picture"][None])
        self.prefill = list(chunks(len(self.stream.input_ids), graph.geometry.chunk))

    @property
    def names(self) -> list[str]:
        """Graph names of the state tensors."""
        return state_names(self.geometry, self.layers, "past")

    def reference_state(self) -> dict[str, Any]:
        """The reference's state by graph name."""
        return {name: tensor.numpy() for name, tensor in zip(self.names, self.loop.flat(), strict=True)}

    def next_token(self) -> slice:
        """Append the reference's greedy token; its slice of the stream."""
        self.stream = self.stream.extended(int(self.want.argmax()))
        return slice(len(self.stream.input_ids) - 1, len(self.stream.input_ids))

    def step(self, part: slice) -> None:
        """Feed `stream[part]` to both."""
        self.want = self.run.step(self.stream, part)[0, -1].numpy()
        rows = self.stream.visual_rows[part]
        present, index = rows >= 0, np.maximum(rows, 0)
        inputs = DecoderInputs(
            **self.run.inputs(self.stream, part),
            visual_embeds=np.where(present[None, :, None], self.visual[:, index], 0).astype(np.float32),
            deep=np.where(present[None, None, :, None], self.deep[:, :, index], 0).astype(np.float32),
        )
        self.got = self.backend.step(inputs)[0, -1].copy()

    def logit_error(self) -> float:
        """Largest absolute difference over the reference's range."""
        return float(np.abs(self.got - self.want).max() / (self.want.max() - self.want.min()))

    def full(self) -> bool:
        """No local row of any layer is empty, so that the next token evicts."""
        local = self.geometry.local_rows
        return all(bool((layer["row_meta"][:, :, :local, 0] >= 0).all()) for layer in self.loop.state)
