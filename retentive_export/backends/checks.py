"""What every backend refuses, in the same words: steps, frames and states that the artifact does not take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

from retentive_export.backends.base import DecoderInputs
from retentive_export.errors import InputError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest, TensorContract

__all__ = ["check_frames", "check_state", "step_inputs"]


def step_inputs(
    inputs: DecoderInputs, tensors: Iterable[TensorContract], chunk: int
) -> Iterator[tuple[str, Array | None, tuple[int, ...]]]:
    """(name, given array, its shape with this step's T) of every input; None stands for zeros.

    Raises:
        InputError: T is not 1 to `chunk`, or an array has another shape.
    """
    steps = inputs.input_ids.shape[1]
    if not 1 <= steps <= chunk:
        raise InputError(f"a step of {steps} tokens: the graph takes 1 to {chunk}")
    for tensor in tensors:
        given = getattr(inputs, tensor.name)
        shape = tuple(steps if n == "T" else int(n) for n in tensor.shape)
        if given is not None and given.shape != shape:
            raise InputError(f"{tensor.name} has shape {given.shape}, and the graph takes {shape}")
        yield tensor.name, given, shape


def check_frames(manifest: Manifest, frames: Array) -> None:
    """frames must be uint8 [N, H, W, 3] of the artifact's size.

    Raises:
        InputError: they are not, or the model takes none.
    """
    layout = manifest.vision
    if layout is None:
        raise InputError(f"{manifest.name} is a text-only model: it takes no frames")
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*layout.frame, 3):
        raise InputError(
            f"frames are {frames.dtype} {list(frames.shape)}, and the vision graph takes uint8 "
            f"[N, {layout.frame[0]}, {layout.frame[1]}, 3]",
            hint="resize the picture (run --resize does), or build with --set model.frame=[height,width]",
        )


def check_state(tensors: Mapping[str, Array], own: Iterable[tuple[str, tuple[int, ...], npt.DTypeLike]]) -> None:
    """Hold that `tensors` can replace a state whose tensors are `own`: (name, shape, dtype).

    Raises:
        InputError: a tensor is missing, has another shape or dtype, or is not finite.
    """
    for name, shape, dtype in own:
        given = tensors.get(name)
        if given is None:
            raise InputError(f"the state lacks {name!r}: it was saved from another artifact")
        if given.shape != shape or given.dtype != dtype:
            raise InputError(
                f"state {name!r} is {given.dtype} {list(given.shape)}, and this artifact's is "
                f"{np.dtype(dtype)} {list(shape)}"
            )
        if given.dtype.kind == "f" and not np.isfinite(given).all():
            raise InputError(f"state {name!r} holds NaN or infinity")
