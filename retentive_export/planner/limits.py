"""What the CUDA kernels do not compute: refused before anything is built for a target with engines."""

from __future__ import annotations

from retentive_export.errors import RecipeError
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.targets import Target

__all__ = ["MOST_CHUNK", "MOST_HEAD_DIM", "check_kernels"]

MOST_CHUNK = 1024
"""RETENTIVE_MAX_STEPS of plugins/include/retentive/params.h."""
MOST_HEAD_DIM = 256
"""RETENTIVE_MAX_HEAD_DIM of the same file."""
_GROUP = 8
"""A head size is a multiple of it."""


def check_kernels(geometry: CacheGeometry, target: Target) -> None:
    """Hold that the plugins take a cache; targets without engines take any.

    Raises:
        RecipeError: the chunk or the model's head size is beyond them.
    """
    if target.engines == "none":
        return
    if geometry.chunk > MOST_CHUNK:
        raise RecipeError(
            f"cache.chunk is {geometry.chunk}, and the plugins of target {target.name!r} take at most {MOST_CHUNK} "
            "tokens in a step",
            hint=f"--set cache.chunk={MOST_CHUNK}",
        )
    if geometry.head_dim > MOST_HEAD_DIM or geometry.head_dim % _GROUP:
        raise RecipeError(
            f"the model's head size is {geometry.head_dim}, and the plugins of target {target.name!r} take multiples "
            f"of {_GROUP} up to {MOST_HEAD_DIM}",
            hint="--target cpu runs it with ONNX Runtime",
        )
