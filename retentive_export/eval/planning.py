"""From an arm and a share of the full cache's bytes to the geometry that runs. All byte counts are `spec.plan`'s."""

from __future__ import annotations

from dataclasses import dataclass, replace

from retentive_export.errors import RecipeError
from retentive_export.eval.arms import RECIPE, Arm
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import TextShape, VisionLayout
from retentive_export.spec.overrides import apply_overrides
from retentive_export.spec.plan import CachePlan, plan_cache
from retentive_export.spec.recipe import Recipe, parse_recipe

__all__ = ["CacheSettings", "Planned", "plan_arm"]


@dataclass(frozen=True, kw_only=True)
class CacheSettings:
    """What all arms share.

    dtype: of exact rows and of the full cache that the budget is a share of. sinks: protected first tokens. windows:
    sizes to try for the recent window (and chunk), the largest first: the first that leaves half of the rows to the
    selection is taken, or else the last that fits; empty: the task's.
    """

    dtype: str = "float16"
    sinks: int = 4
    windows: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Planned:
    """geometry: for a batch of one. gate: the policy's. selection: the score's name. state_bytes, full_bytes: of a
    session."""

    geometry: CacheGeometry
    gate: GateConfig
    layers: int
    selection: str
    state_bytes: int
    full_bytes: int


def plan_arm(
    recipe: Recipe,
    arm: Arm,
    budget: float,
    tokens: int,
    text: TextShape,
    vision: VisionLayout | None,
    settings: CacheSettings,
) -> Planned:
    """The largest cache of the arm within `budget` times the bytes of a full cache of `tokens` tokens.

    Raises:
        RecipeError: not even the smallest one fits; says how many bytes that would take.
    """
    plan: CachePlan | None = None
    error: RecipeError | None = None
    for window in settings.windows:
        base = {"context": tokens, "budget.fraction": budget}
        data = recipe.to_dict()
        data["model"]["dtype"] = settings.dtype
        if arm.policy == RECIPE:
            words = [f"cache.{key}={value}" for key, value in base.items()]
        else:
            data["cache"], words = {}, arm.cache(base, sinks=settings.sinks, window=window)
        candidate = parse_recipe(apply_overrides(data, words), origin=f"arm {arm.name}")
        try:
            plan = plan_cache(candidate, text, vision, export=False)
        except RecipeError as refused:
            error = refused
            continue
        chosen = candidate.cache.policy if arm.policy == RECIPE else arm.selection
        protected = plan.geometry.sinks + plan.geometry.window
        if arm.selection == "full" or 2 * protected <= plan.geometry.rows:
            break
    if plan is None:
        assert error is not None
        raise error
    return Planned(
        geometry=replace(plan.geometry, chunk=min(plan.geometry.chunk, plan.geometry.window)),
        gate=plan.gate,
        layers=plan.layers,
        selection=chosen,
        state_bytes=plan.state_bytes,
        full_bytes=plan.full_cache_bytes,
    )
