"""The dialogues that a calibration is made of: a set in a directory, or the user's pictures and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from retentive_export.cache.loop import CacheLoop
from retentive_export.errors import RecipeError
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.prompts import Sample, read_picture, token_stream
from retentive_export.export.reference import ReferenceRun, chunks, visual_features
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import VisionLayout

__all__ = ["answered", "prompted_samples", "split"]

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
Item = TypeVar("Item")


def prompted_samples(images: Path | None, prompts: Path, frame: tuple[int, int] | None) -> list[Sample]:
    """One dialogue per picture with all prompts, answers still empty; without pictures one dialogue per prompt.

    Args:
        images: a directory of pictures, taken in the order of their names. prompts: a text file, one prompt a line.
        frame: (height, width) that the pictures are resized to; None for a text-only model.

    Raises:
        RecipeError: no prompt, no picture, or pictures for a text-only model.
    """
    try:
        lines = [line.strip() for line in prompts.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"prompts {prompts} cannot be read: {error}") from None
    if not lines:
        raise RecipeError(f"prompts {prompts} holds no prompt: it must be text, one prompt a line")
    if images is None:
        return [Sample(picture=None, turns=((line, ""),)) for line in lines]
    if frame is None:
        raise RecipeError(f"images {images} is given, and the recipe's model takes no frames (model.frame is null)")
    found = sorted(path for path in images.iterdir() if path.suffix.lower() in PICTURES) if images.is_dir() else []
    if not found:
        raise RecipeError(f"images {images} is no directory with pictures ({', '.join(sorted(PICTURES))})")
    turns = tuple((line, "") for line in lines)
    return [Sample(picture=read_picture(path, frame), turns=turns) for path in found]


def answered(
    adapter: ModelAdapter, layout: VisionLayout | None, graph: DecoderGraph, sample: Sample, limit: int = 48
) -> Sample:
    """The sample with the model's own greedy answers, of at most `limit` tokens, its cache whole."""
    stops = set(adapter.dialogue_layout().stop_ids)
    features = visual_features(adapter, layout, sample)
    for turn, (question, answer) in enumerate(sample.turns):
        if answer:
            continue
        stream = token_stream(adapter, layout, sample, turns=turn + 1)
        length = len(stream.input_ids)
        loop = CacheLoop(_whole(graph.geometry, length + limit), graph.gate, graph.layers)
        loop.reset()
        run = ReferenceRun(graph, loop, *features)
        for part in chunks(length, graph.geometry.chunk):
            logits = run.step(stream, part)
        said: list[int] = []
        while len(said) < limit and (token := int(logits[0, -1].argmax())) not in stops:
            said.append(token)
            stream = stream.extended(token)
            logits = run.step(stream, slice(len(stream.input_ids) - 1, len(stream.input_ids)))
        text = adapter.tokenizer.decode(said, skip_special_tokens=True).strip()
        turns = (*sample.turns[:turn], (question, text or " "), *sample.turns[turn + 1 :])
        sample = replace(sample, turns=turns)
    return sample


def _whole(geometry: CacheGeometry, tokens: int) -> CacheGeometry:
    """Room for all tokens in exact rows."""
    return replace(
        geometry,
        exact_rows=max(tokens, geometry.sinks + geometry.window),
        coarse_rows=0,
        latent_rows=0,
        memory_grid=(0, 0),
        recall_rows=0,
        memory_store="exact",
        readout="none",
    )


def split(items: Sequence[Item], share: float, seed: int) -> tuple[list[Item], list[Item]]:
    """(to fit on, held out): a random `share` of the items is held out, at least one; the same for the same seed.

    Raises:
        RecipeError: fewer than two items.
    """
    if len(items) < 2:
        raise RecipeError(
            f"there is {len(items)} dialogue, and calibration needs two at least: one to fit on, one to judge by",
            hint="add pictures or prompts, or name a set with --set calibration=DIRECTORY",
        )
    order = np.random.default_rng(seed).permutation(len(items))
    count = min(len(items) - 1, max(1, round(share * len(items))))
    return [items[i] for i in sorted(order[count:])], [items[i] for i in sorted(order[:count])]
