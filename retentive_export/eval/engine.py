"""A model on a device, fed with batches of streams, its attention left to a loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.rows import LEVELS
from retentive_export.eval.bounded import Constants
from retentive_export.eval.streams import Batch
from retentive_export.export.decoder import DecoderGraph, DecoderInputs
from retentive_export.export.key_scales import calibrate_key_scales
from retentive_export.export.latents import fit_spectrum, sinks_in_front
from retentive_export.export.prompts import calibration_samples
from retentive_export.export.reference import Run, sample_run
from retentive_export.models import open_model
from retentive_export.models.decoder import DecoderModule
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.recipe import Recipe

__all__ = ["Engine"]

Fitted = TypeVar("Fitted")


class Engine:
    """The model of a recipe, in the recipe's dtype; logits are computed at scored places alone."""

    def __init__(self, recipe: Recipe, device: torch.device) -> None:
        self.recipe, self.device = recipe, device
        self.adapter, frame = open_model(recipe.model), recipe.model.frame
        self.layout = None if frame is None else self.adapter.vision_layout(frame)
        self.text = self.adapter.text_shape()
        self._known: dict[tuple[Any, ...], Any] = {}
        self.adapter.model.to(device)
        self.decoder = DecoderModule(self.adapter.text_model, nn.Identity(), self.adapter.layers).eval()
        self.head: nn.Module = self.adapter.model.lm_head

    def constants(self, geometry: CacheGeometry, context: int) -> Constants:
        """Key scales and latent bases that a geometry needs, fitted to the recipe's calibration set.

        Args:
            context: tokens of a session; bases are fitted for positions up to there.
        """
        scales: list[Tensor] | None = None
        bases: list[LatentBasis] | None = None
        if geometry.coarse_rows:
            levels = LEVELS[geometry.coarse_dtype]
            fitted = self._fitted(
                ("scales", levels, context),
                geometry,
                lambda graph: calibrate_key_scales(graph, self._runs, levels, context),
            )
            scales = [scale.to(self.device) for scale in fitted]
        if geometry.latent_rows:
            spectrum = self._fitted(
                ("spectrum", sinks_in_front(geometry), context),
                geometry,
                lambda graph: fit_spectrum(self.adapter, graph, self._runs, context),
            )
            bases = [LatentBasis(*(part.to(self.device) for part in basis)) for basis in spectrum.bases(geometry)]
        return scales, bases

    def hidden(self, batch: Batch, part: slice, loop: Any) -> Tensor:
        """Final hidden states [B, T, hidden] of the columns `part`."""
        meta = batch.token_meta[:, part]
        loop.token_meta = meta
        visual, deep = self._visual(batch, part)
        positions = batch.position_ids[..., part]
        with torch.inference_mode():
            result: Tensor = self.decoder(
                batch.input_ids[:, part],
                visual_embeds=visual,
                deep=deep,
                is_visual=None if visual is None else meta[..., 1] >= 0,
                position_ids=positions if len(positions) > 1 else positions[0],
                loop=loop,
            )
        return result

    def logits(self, hidden: Tensor) -> Tensor:
        """[.., hidden] -> [.., vocab] float32."""
        with torch.inference_mode():
            result: Tensor = self.head(hidden)
        return result.float()

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, added tokens recognised, nothing added."""
        ids: list[int] = self.adapter.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def _visual(self, batch: Batch, part: slice) -> tuple[Tensor | None, Tensor | None]:
        rows = batch.visual_rows[:, part]
        if batch.visual is None or not bool((rows >= 0).any()):
            return None, None
        index = rows.clamp(min=0)[..., None]
        present = (rows >= 0)[..., None]
        visual = torch.gather(batch.visual, 1, index.expand(-1, -1, batch.visual.shape[-1])) * present
        if batch.deep is None:
            return visual, None
        layers, hidden = batch.deep.shape[1], batch.deep.shape[-1]
        deep = torch.gather(batch.deep, 2, index[:, None].expand(-1, layers, -1, hidden)) * present[:, None]
        return visual, deep

    def _fitted(self, key: tuple[Any, ...], geometry: CacheGeometry, fit: Callable[[DecoderGraph], Fitted]) -> Fitted:
        """What `fit` makes of the model's graph when it is first asked for under this key, while the model is on the
        CPU."""
        if key not in self._known:
            self.adapter.model.to("cpu")
            self._known[key] = fit(self._graph(geometry))
            self.adapter.model.to(self.device)
        found: Fitted = self._known[key]
        return found

    @cached_property
    def _runs(self) -> list[Run]:
        """Calibration dialogues with the features of their pictures."""
        return [sample_run(self.adapter, self.layout, sample) for sample in calibration_samples(self.recipe)]

    def _graph(self, geometry: CacheGeometry) -> DecoderGraph:
        inputs = DecoderInputs.of(self.text, self.layout, self.recipe.model.dtype)
        return DecoderGraph(self.adapter.decoder_module(), geometry, GateConfig(), self.text.layers, inputs)
