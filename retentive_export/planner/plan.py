"""From a recipe and a target to bytes, fit and speed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from retentive_export.planner.estimates import decoder_activations, tokens_per_second, vision_activations, workspace
from retentive_export.planner.fit import BoardPlan, Point, largest, largest_budget
from retentive_export.planner.limits import check_kernels
from retentive_export.planner.shape import ModelShape, model_shape
from retentive_export.planner.state import StateBytes, split_state
from retentive_export.planner.weights import WeightBytes, weight_bytes
from retentive_export.spec.plan import CachePlan, check_cache, plan_cache
from retentive_export.spec.recipe import BudgetSection, Recipe
from retentive_export.spec.targets import Board, Target
from retentive_export.spec.weights import WeightsSection, check_weights

__all__ = ["Assumptions", "Memory", "Plan", "plan_recipe"]

_SHORTEST = 1024
_LONGEST = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a plan takes for granted.

    margin: share of a board's memory that must stay free. efficiency: share of its bandwidth that decode reaches; None:
    the target's.
    """

    margin: float = 0.1
    efficiency: float | None = None


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one session. weights and state are exact, the others estimates."""

    weights: int
    state: int
    activations: int
    workspace: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.state + self.activations + self.workspace


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A recipe on a target. weight_bytes, state: the parts of `memory`'s. boards: one per board of the target."""

    recipe: str
    target: Target
    model: ModelShape
    dtype: str
    weights: WeightsSection
    weight_bytes: WeightBytes
    cache: CachePlan
    memory: Memory
    state: StateBytes
    moved: int
    assumptions: Assumptions
    boards: tuple[BoardPlan, ...]


def plan_recipe(
    recipe: Recipe, target: Target, *, boards: tuple[Board, ...] | None = None, assumptions: Assumptions | None = None
) -> Plan:
    """What `recipe` takes on `target`.

    Args:
        boards: instead of the target's own.
        assumptions: margin and efficiency.

    Raises:
        RecipeError, ModelError: the recipe or its model cannot be planned; see `model_shape`, `plan_cache`,
            `check_weights`, `check_cache` and `check_kernels`.
    """
    assumed = assumptions or Assumptions()
    recipe = recipe.on(target.engines)
    check_weights(recipe.weights, recipe.model.dtype, target)
    check_cache(recipe.cache, target.engines, target.name)
    shape = model_shape(recipe.model)
    cache = plan_cache(recipe, shape.text, shape.frame)
    check_kernels(cache.geometry, target)
    sizes = weight_bytes(shape, recipe.weights, recipe.model.dtype, engines=target.engines != "none")
    weights = sizes.with_bases(cache)
    sums = _Sums(shape=shape, weights=weights, dtype=recipe.model.dtype, chunk=recipe.cache.chunk, target=target)
    memory = sums.memory(cache.geometry.rows, cache.state_bytes)
    chosen = target.boards if boards is None else boards
    return Plan(
        recipe=recipe.name,
        target=target,
        model=shape,
        dtype=recipe.model.dtype,
        weights=recipe.weights,
        weight_bytes=weights,
        cache=cache,
        memory=memory,
        state=split_state(cache),
        moved=sums.moved(cache.state_bytes),
        assumptions=assumed,
        boards=tuple(_board(one, recipe, cache, sums, memory, assumed) for one in chosen),
    )


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Bytes as functions of the cache."""

    shape: ModelShape
    weights: WeightBytes
    dtype: str
    chunk: int
    target: Target

    def memory(self, rows: int, state: int) -> Memory:
        # Operators are kernels of their own in an engine, and standard nodes everywhere else.
        fused = self.target.engines != "none"
        decoder = decoder_activations(self.shape, self.dtype, rows, self.chunk, fused=fused)
        return Memory(
            weights=self.weights.total,
            state=state,
            activations=decoder + vision_activations(self.shape, self.dtype, fused=fused),
            workspace=workspace(self.shape, rows, self.chunk, fused=fused),
        )

    def moved(self, cache_bytes: int) -> int:
        """Bytes that a decode step reads: weights once, and the cache."""
        return self.weights.per_token + cache_bytes


def _board(
    board: Board, recipe: Recipe, cache: CachePlan, sums: _Sums, memory: Memory, assumed: Assumptions
) -> BoardPlan:
    usable = board.memory - sums.target.reserved - round(assumed.margin * board.memory)
    efficiency = sums.target.efficiency if assumed.efficiency is None else assumed.efficiency
    full = partial(_full_bytes, cache)

    def full_fits(tokens: int) -> bool:
        return sums.memory(tokens, full(tokens)).total <= usable

    def budget(allowed: int) -> CachePlan:
        section = recipe.cache.model_copy(update={"budget": BudgetSection(bytes=max(1, allowed))})
        return plan_cache(recipe.model_copy(update={"cache": section}), sums.shape.text, sums.shape.frame)

    def needed(planned: CachePlan) -> int:
        return sums.memory(planned.geometry.rows, planned.state_bytes).total

    def speed(cache_bytes: int) -> float:
        return tokens_per_second(sums.moved(cache_bytes), board.bandwidth, efficiency)

    points = tuple(
        Point(
            context=tokens,
            full_bytes=full(tokens),
            state_bytes=cache.state_bytes,
            full_tokens_per_second=speed(full(tokens)),
            tokens_per_second=speed(cache.state_bytes),
            full_fits=full_fits(tokens),
        )
        for tokens in _contexts(cache, sums.shape.text.max_positions)
    )
    return BoardPlan(
        board=board,
        usable=usable,
        spare=usable - memory.total,
        largest_budget=None if cache.capacity is not None else largest_budget(usable, budget, needed),
        largest_context=largest(_LONGEST, full_fits),
        efficiency=efficiency,
        points=points,
    )


def _full_bytes(cache: CachePlan, tokens: int) -> int:
    return cache.layers * cache.geometry.full_cache_bytes(tokens)


def _contexts(cache: CachePlan, trained: int) -> list[int]:
    """Powers of two up to what the model was trained for, or a session holds, and the recipe's own context."""
    longest = cache.capacity or max(trained, cache.context)
    powers, tokens = [], _SHORTEST
    while tokens <= longest:
        powers.append(tokens)
        tokens *= 2
    return sorted({*powers, cache.context})
