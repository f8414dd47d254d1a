"""From a recipe and a model's sizes to the exact cache: rows, memory, bytes. Torch-free."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol

from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import TextShape
from retentive_export.spec.policies import policy_spec
from retentive_export.spec.recipe import CacheSection, Recipe, RowsSection

__all__ = ["CachePlan", "FrameGrid", "plan_cache"]


class FrameGrid(Protocol):
    """All that the cache's sizes need of a frame: a `VisionLayout` has it, and so has a planner without a tokenizer."""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the frame's cells."""


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """The cache of a whole session.

    Attributes:
        geometry, gate: of every layer. layers: attention layers.
        policy: its name. capacity: tokens after which a session is full; None when there is no such number.
        context: tokens that the plain cache in comparisons holds.
    """

    geometry: CacheGeometry
    gate: GateConfig
    layers: int
    policy: str
    capacity: int | None
    context: int

    @property
    def state_bytes(self) -> int:
        """Bytes of a session's state."""
        return self.layers * self.geometry.state_bytes

    @property
    def full_cache_bytes(self) -> int:
        """Bytes of a plain KV cache of `context` tokens in the model's dtype."""
        return self.layers * self.geometry.full_cache_bytes(self.context)


def plan_cache(
    recipe: Recipe, text: TextShape, vision: FrameGrid | None, *, batch: int = 1, export: bool = True
) -> CachePlan:
    """Resolve a recipe's cache section for a model.

    Args:
        vision: the frame's grid; None for a text-only model.
        export: False plans for the PyTorch reference, which runs every policy.

    Raises:
        RecipeError: the policy cannot be exported, or the budget does not hold what must be protected.
    """
    cache = recipe.cache
    spec = policy_spec(cache.policy)
    if export and not spec.exportable:
        raise RecipeError(
            f"cache.policy {cache.policy!r} runs in the PyTorch reference only: its score has no operator",
            hint="export one of: retentive, coverage, full, streaming_llm, h2o, tova",
        )
    common: dict[str, object] = {
        "batch": batch,
        "kv_heads": text.kv_heads,
        "q_heads": text.q_heads,
        "head_dim": text.head_dim,
        "dtype": recipe.model.dtype,
        "frame_grid": vision.grid if vision else (1, 1),
        **spec.geometry_flags,
    }
    gate = spec.gate(cache.gate.config())
    if vision is None and spec.track_entropy and gate.lambda_ > 0:
        # Without visual rows H is 0 in every row: R = lambda * alpha orders them as alpha does.
        common["track_entropy"], gate = False, replace(gate, lambda_=1.0)
    if cache.policy == "full":
        geometry = _build(cache, common, cache.context, keep_all=True)
        capacity: int | None = cache.context
    else:
        geometry = _within_budget(cache, common, text.layers, has_vision=vision is not None)
        capacity = None
    return CachePlan(
        geometry=geometry,
        gate=gate,
        layers=text.layers,
        policy=cache.policy,
        capacity=capacity,
        context=cache.context,
    )


def _build(
    cache: CacheSection, common: dict[str, object], rows: int, *, keep_all: bool = False, has_vision: bool = False
) -> CacheGeometry:
    """Geometry with `rows` rows in all, memory included; RecipeError when they do not suffice."""
    readout = "none" if keep_all else common.get("readout", cache.readout)  # a policy may require one
    grid, recall = _memory(cache, rows, common, has_vision) if readout == "mass" else ((0, 0), 0)
    exact, coarse, latents = _tiers(cache.rows, rows - grid[0] * grid[1] - recall)
    latent = cache.rows.latent
    return CacheGeometry(
        **{name: value for name, value in common.items() if name != "readout"},  # type: ignore[arg-type]
        exact_rows=exact,
        coarse_rows=coarse,
        coarse_dtype="int4" if cache.rows.dtype == "int4" else "int8",
        latent_rows=latents,
        latent_rank=latent.rank if latent else 0,
        latent_dtype=latent.dtype if latent else "int8",
        latent_int8=latent.int8 if latent else 0,
        latent_int4=latent.int4 if latent else 0,
        memory_grid=grid,
        recall_rows=recall,
        memory_store="latent" if latents else cache.memory.store,
        sinks=cache.sinks,
        window=cache.window,
        chunk=cache.chunk,
        readout=readout,  # type: ignore[arg-type]
    )


def _tiers(section: RowsSection, local: int) -> tuple[int, int, int]:
    """Exact, coarse and latent rows among `local` ones; the last tier that the recipe has takes the rest."""
    local = max(local, 0)
    if section.latent is not None and local <= section.latent.front:
        raise RecipeError(
            f"cache.rows.latent.front is {section.latent.front}, and the budget leaves {local} local rows: none for "
            "latents",
            hint="raise the budget, or lower the front or the memory",
        )
    front = local if section.latent is None else section.latent.front
    exact = front if section.dtype == "model" else min(section.exact, front)
    return exact, front - exact, local - front


def _memory(cache: CacheSection, rows: int, common: dict[str, object], has_vision: bool) -> tuple[tuple[int, int], int]:
    """Anchors' grid and recall rows; where the recipe leaves them open, 1/8 and 1/16 of the rows."""
    frame = common["frame_grid"]
    assert isinstance(frame, tuple)
    grid = cache.memory.grid
    if grid is None:
        grid = _grid_of(rows // 8, frame) if has_vision else (0, 0)
    elif not has_vision and grid[0] * grid[1]:
        raise RecipeError(
            f"cache.memory.grid is {list(grid)}, and the model takes no frames", hint="leave cache.memory.grid null"
        )
    recall = cache.memory.recall
    return grid, max(1, rows // 16) if recall is None else recall


def _grid_of(count: int, frame: tuple[int, int]) -> tuple[int, int]:
    """A grid of at most `count` anchors with about the frame's proportions."""
    if count < 1:
        return (0, 0)
    rows = max(1, min(frame[0], round(math.sqrt(count * frame[0] / frame[1]))))
    rows = min(rows, count)
    return rows, min(frame[1], count // rows)


def _within_budget(cache: CacheSection, common: dict[str, object], layers: int, *, has_vision: bool) -> CacheGeometry:
    budget = cache.budget
    if budget.rows is not None:
        return _build(cache, common, budget.rows, has_vision=has_vision)
    smallest = _at_least(cache.sinks + cache.window, cache, common, has_vision)
    if budget.bytes is not None:
        allowed, said = budget.bytes, f"cache.budget.bytes is {budget.bytes}"
    else:
        assert budget.fraction is not None
        allowed = math.floor(budget.fraction * layers * smallest.full_cache_bytes(cache.context))
        said = f"cache.budget.fraction is {budget.fraction} of {cache.context} tokens, {allowed} bytes"
    if layers * smallest.state_bytes > allowed:
        raise RecipeError(
            f"{said}, and the smallest cache with sinks {cache.sinks} + window {cache.window} takes "
            f"{layers * smallest.state_bytes} bytes in {layers} layers",
            hint="raise the budget or the context, or lower sinks, window or the memory",
        )
    best, high = smallest, smallest.rows + allowed  # a row takes more than a byte
    low = best.rows
    while high - low > 1:
        middle = (low + high) // 2
        geometry = _at_least(middle, cache, common, has_vision)
        if layers * geometry.state_bytes <= allowed:
            best, low = geometry, middle
        else:
            high = middle
    return best


def _at_least(rows: int, cache: CacheSection, common: dict[str, object], has_vision: bool) -> CacheGeometry:
    """The cache with the fewest rows, from `rows` on, that the geometry accepts: some leave a tier too small."""
    front = cache.rows.latent.front if cache.rows.latent else 0
    limit = rows + 4 * (cache.sinks + cache.window + cache.rows.exact + front + cache.chunk) + 64
    if cache.readout == "mass":
        grid = cache.memory.grid or (0, 0)
        limit += 2 * (grid[0] * grid[1] + (cache.memory.recall or 0))
    error: RecipeError | None = None
    for candidate in range(rows, limit + 1):
        try:
            return _build(cache, common, candidate, has_vision=has_vision)
        except RecipeError as refused:
            error = refused
    assert error is not None
    raise error
