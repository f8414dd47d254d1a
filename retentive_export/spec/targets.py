"""Targets: data in `targets.yaml`, never code."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from retentive_export.errors import RecipeError

__all__ = ["Target", "load_targets", "target"]


class Target(BaseModel):
    """One kind of machine. precisions: dtypes of weights and rows that its backend computes with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    description: str
    backend: str | None
    precisions: tuple[str, ...]


def load_targets() -> dict[str, Target]:
    """All known targets by name."""
    data = yaml.safe_load((Path(__file__).parent / "targets.yaml").read_text(encoding="utf-8"))
    return {name: Target(name=name, **fields) for name, fields in data.items()}


def target(name: str, dtype: str | None = None) -> Target:
    """The target called `name`, able to compute in `dtype`.

    Raises:
        RecipeError: no such target, or it lacks the precision.
    """
    known = load_targets()
    if name not in known:
        raise RecipeError(f"target is {name!r}, and must be one of: {', '.join(known)}")
    found = known[name]
    if dtype is not None and dtype not in found.precisions:
        raise RecipeError(
            f"model.dtype is {dtype!r}, and target {name!r} computes in: {', '.join(found.precisions)}",
            hint=f"--set model.dtype={found.precisions[0]}",
        )
    return found
