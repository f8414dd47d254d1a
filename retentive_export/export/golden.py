"""golden.npz: a short run of the PyTorch reference, so that an artifact can be validated with no framework present.

Arrays: frame (uint8 [H, W, 3], for a vision model), visual_embeds and deep as the reference computed them; input_ids,
token_meta, position_ids, visual_rows of every token fed; boundaries [steps + 1]: step i feeds tokens boundaries[i] ..
boundaries[i + 1]; logits [steps, vocab] float32 after every step; state.<name>: the state after the last step (of the
first and the last layer only, if the whole would exceed 32 MiB), bfloat16 as float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from retentive_export.cache.loop import CacheLoop
from retentive_export.export.decoder import DecoderGraph, state_names
from retentive_export.export.prompts import Sample, TokenStream
from retentive_export.export.reference import ReferenceRun, chunks
from retentive_export.spec.arrays import Array

__all__ = ["golden_run"]

WHOLE_STATE = 32 << 20


def golden_run(
    graph: DecoderGraph, stream: TokenStream, sample: Sample, features: tuple[Any, Any], steps: int
) -> dict[str, Array]:
    """Prefill the stream in chunks, then decode `steps` tokens greedily."""
    loop = CacheLoop(graph.geometry, graph.gate, graph.layers, key_scales=graph.key_scales, bases=graph.bases)
    loop.reset()
    run = ReferenceRun(graph, loop, *features)
    logits: list[Array] = []
    boundaries = [0]
    for part in chunks(len(stream.input_ids), graph.geometry.chunk):
        logits.append(run.step(stream, part)[0, -1].numpy())
        boundaries.append(part.stop)
    for _ in range(steps):
        stream = stream.extended(int(logits[-1].argmax()))
        part = slice(len(stream.input_ids) - 1, len(stream.input_ids))
        logits.append(run.step(stream, part)[0, -1].numpy())
        boundaries.append(part.stop)
    arrays: dict[str, Array] = {
        "input_ids": stream.input_ids,
        "token_meta": stream.token_meta,
        "position_ids": stream.position_ids,
        "visual_rows": stream.visual_rows,
        "boundaries": np.asarray(boundaries, np.int64),
        "logits": np.stack(logits).astype(np.float32),
    }
    if sample.picture is not None:
        arrays["frame"] = sample.picture
        for name, tensor in zip(("visual_embeds", "deep"), features, strict=True):
            if tensor is not None:
                arrays[name] = tensor.float().numpy()
    return arrays | _state(loop)


def _state(loop: CacheLoop) -> dict[str, Array]:
    names = state_names(loop.geometry, loop.layers, "past")
    whole = loop.layers * loop.geometry.state_bytes <= WHOLE_STATE
    kept = {"0", str(loop.layers - 1)}
    return {
        f"state.{name}": (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
        for name, tensor in zip(names, loop.flat(), strict=True)
        if whole or name.split(".")[1] in kept
    }
