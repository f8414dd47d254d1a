"""From a recipe to the cache: the largest geometry within the bytes asked for, and never a byte above them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retentive_export.errors import RecipeError
from retentive_export.spec.layout import TextShape, VisionLayout
from retentive_export.spec.plan import CachePlan, plan_cache
from retentive_export.spec.recipe import Recipe, parse_recipe


def text_shape(layers: int = 3, kv_heads: int = 2, groups: int = 2, head_dim: int = 16) -> TextShape:
    return TextShape(
        **{"layers": layers, "kv_heads": kv_heads, "q_heads": kv_heads * groups, "head_dim": head_dim},
        **{"hidden": 64, "vocab": 100, "max_positions": 4096},
    )


def vision_layout(rows: int, columns: int) -> VisionLayout:
    tokens = rows * columns
    return VisionLayout(
        **{"frame": (16 * rows, 16 * columns), "tokens": tokens, "grid": (rows, columns), "block_ids": [7] * tokens},
        block_cells=[(i // columns, i % columns) for i in range(tokens)],
        position_axes=1,
        position_offsets=[list(range(tokens))],
        position_advance=tokens,
    )


def recipe_of(**cache: Any) -> Recipe:
    return parse_recipe({"model": {"source": "x"}, "cache": cache})


CACHES = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(["retentive", "coverage", "streaming_llm", "h2o", "tova"]),
        "readout": st.sampled_from(["mass", "residual", "none"]),
        "sinks": st.integers(0, 4),
        "window": st.integers(1, 12),
        "chunk": st.integers(1, 12),
        "rows": st.fixed_dictionaries(
            {
                "dtype": st.sampled_from(["model", "int8", "int4"]),
                "exact": st.sampled_from([0, 0, 4, 16, 20]),
                "latent": st.sampled_from(
                    [
                        None,
                        None,
                        {"rank": 2},
                        {"rank": 4, "dtype": "int4", "front": 16},
                        {"rank": 3, "dtype": "model"},
                        {"rank": 4, "dtype": "mixed", "int8": 2, "int4": 2},
                    ]
                ),
            }
        ),
        "memory": st.fixed_dictionaries(
            {
                "grid": st.sampled_from([None, None, [2, 2], [3, 5]]),
                "recall": st.sampled_from([None, None, 0, 3]),
                "store": st.sampled_from(["exact", "coarse"]),
            }
        ),
    }
)
MODELS = st.tuples(
    st.builds(text_shape, st.integers(1, 3), st.integers(1, 2), st.integers(1, 2), st.sampled_from([2, 16, 64])),
    st.sampled_from([None, vision_layout(2, 3), vision_layout(8, 8), vision_layout(3, 40)]),
)

ALLOWED = st.one_of(st.integers(1, 3_000), st.integers(1, 60_000))


def planned(cache: dict[str, Any], model: tuple[Any, Any], **budget: Any) -> CachePlan | None:
    try:
        return plan_cache(recipe_of(**cache, budget=budget), *model)
    except RecipeError:
        return None


@settings(max_examples=250, deadline=None, derandomize=True)
@given(CACHES, MODELS, ALLOWED, st.integers(0, 2_000))
def test_bytes_are_used_and_never_exceeded(cache: dict[str, Any], model: Any, allowed: int, more: int) -> None:
    plan, richer = planned(cache, model, bytes=allowed), planned(cache, model, bytes=allowed + more)
    if plan is None:
        # Refused: then no number of rows gives a cache within these bytes.
        by_rows = (planned(cache, model, rows=rows) for rows in range(1, 120))
        assert all(one.state_bytes > allowed for one in by_rows if one is not None)
        return
    assert plan.state_bytes == plan.layers * plan.geometry.state_bytes <= allowed
    assert richer is not None
    assert richer.geometry.rows >= plan.geometry.rows, "more bytes gave fewer rows"
    for rows in range(plan.geometry.rows + 1, plan.geometry.rows + 40):
        larger = planned(cache, model, rows=rows)
        assert larger is None or larger.state_bytes > allowed, f"{rows} rows would fit too"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CACHES, MODELS, st.integers(1, 200))
def test_rows_are_exact(cache: dict[str, Any], model: Any, rows: int) -> None:
    plan = planned(cache, model, rows=rows)
    assume(plan is not None)
    assert plan is not None
    geometry = plan.geometry
    assert geometry.rows == rows
    assert geometry.local_rows >= cache["sinks"] + cache["window"]
    assert plan.capacity is None
    assert planned(cache, model, bytes=plan.state_bytes).geometry.rows >= rows  # type: ignore[union-attr]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(CACHES, MODELS, st.floats(0.001, 1.0), st.integers(16, 4096))
def test_fractions_are_bytes_of_the_context(cache: dict[str, Any], model: Any, share: float, context: int) -> None:
    plan = planned({**cache, "context": context}, model, fraction=share)
    text = model[0]
    full = text.layers * text.kv_heads * context * 2 * text.head_dim * 4
    allowed = math.floor(share * full)
    other = planned({**cache, "context": context}, model, bytes=max(1, allowed))
    if plan is None:
        assert other is None or allowed == 0
        return
    assert plan.full_cache_bytes == full
    assert plan.state_bytes <= allowed
    assert other is not None
    assert other.geometry == plan.geometry


@pytest.mark.parametrize("dtype", ["model", "int8", "int4"])
def test_full_holds_the_context(dtype: str) -> None:
    plan = plan_cache(recipe_of(policy="full", context=100, rows={"dtype": dtype}), text_shape(), vision_layout(8, 8))
    assert plan.capacity == plan.geometry.local_rows == plan.geometry.rows == plan.context == 100
    assert (plan.geometry.readout, plan.geometry.memory_rows) == ("none", 0)


def test_default_memory_follows_the_frame() -> None:
    plan = plan_cache(recipe_of(budget={"rows": 160}, window=32), text_shape(), vision_layout(8, 16))
    assert plan.geometry.memory_grid == (3, 6)  # at most 20 anchors, patches of the frame's shape
    assert plan.geometry.recall_rows == 10
    text_only = plan_cache(recipe_of(budget={"rows": 160}, window=32), text_shape(), None)
    assert text_only.geometry.memory_grid == (0, 0)


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        ({"budget": {"rows": 20}, "window": 32, "readout": "none"}, ["20 local rows", "sinks + window = 4 + 32", "36"]),
        ({"window": 16, "chunk": 17}, ["chunk is 17", "window is 16"]),
        (
            {"budget": {"bytes": 1000}},
            ["cache.budget.bytes is 1000", "smallest cache with sinks 4 + window 32", "bytes"],
        ),
        ({"budget": {"fraction": 0.001}}, ["cache.budget.fraction is 0.001 of 4096 tokens", "smallest"]),
        ({"policy": "snapkv"}, ["cache.policy 'snapkv'", "reference only"]),
        ({"policy": "lru"}, ["'lru'", "must be one of coverage, full, h2o"]),
        (
            {"memory": {"grid": [2, 2]}},
            ["cache.memory.grid is [2, 2]", "takes no frames", "leave cache.memory.grid null"],
        ),
        ({"memory": {"recall": 0}, "budget": {"rows": 50}}, ["readout 'mass' needs memory rows"]),
    ],
)
def test_refusals_say_what_and_what_would_do(cache: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        plan_cache(recipe_of(**cache), text_shape(), None)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("name", ["snapkv", "momentkv", "key_norm"])
def test_policies_without_an_operator_are_planned_for_the_reference_alone(name: str) -> None:
    recipe = recipe_of(policy=name, readout="mass", budget={"fraction": 0.5}, context=1024)
    with pytest.raises(RecipeError, match="PyTorch reference only"):
        plan_cache(recipe, text_shape(), None)
    plan = plan_cache(recipe, text_shape(), None, export=False)
    assert plan.geometry.readout == ("moments" if name == "momentkv" else "mass")
    assert 0 <= plan.full_cache_bytes // 2 - plan.state_bytes < plan.layers * plan.geometry.state_bytes // 8
