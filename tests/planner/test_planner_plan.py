"""Bytes of a plan are those of a session; the largest that fits does fit, and one more does not."""

from __future__ import annotations

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from retentive_export.errors import InputError, RecipeError
from retentive_export.planner import Assumptions, Plan, limits, plan_recipe, read_measured
from retentive_export.planner.estimates import decoder_activations, tokens_per_second, workspace
from retentive_export.planner.state import split_state
from retentive_export.runtime import Session
from retentive_export.spec.plan import plan_cache
from retentive_export.spec.recipe import Recipe, parse_recipe
from retentive_export.spec.recipe_files import load_recipe, recipe_names
from retentive_export.spec.targets import Board, load_targets, target
from tests.conftest import text_recipe, vision_recipe

MACHINE = Board(name="machine", memory=16 * 10**9, bandwidth=100.0)
DTYPES = {"bfloat16": "uint16"}


def planned(recipe: Recipe, board: Board = MACHINE, on: str = "jetson-orin", **assumed: Any) -> Plan:
    return plan_recipe(recipe, target(on), boards=(board,), assumptions=Assumptions(**assumed))


def allocated(plan: Plan) -> int:
    """Bytes of all state tensors, made."""
    tensors = (np.empty(one.shape, DTYPES.get(one.dtype, one.dtype)) for one in plan.cache.geometry.state())
    return plan.cache.layers * sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize("kind", ["text", "vision", "full"])
def test_state_bytes_are_a_sessions(kind: str, request: pytest.FixtureRequest) -> None:
    artifact = request.getfixturevalue(f"{kind}_artifact")
    model = request.getfixturevalue("vision_model" if kind == "vision" else "text_model")
    fields = {
        "text": lambda: text_recipe(model),
        "vision": lambda: vision_recipe(model),
        "full": lambda: text_recipe(model, policy="full", context=64, budget={"fraction": 1.0}),
    }
    plan = planned(parse_recipe(fields[kind]()))
    session = Session.open(artifact, threads=1)
    assert plan.cache == session.manifest.plan()
    assert plan.model.text == session.manifest.text
    assert plan.memory.state == session.state_bytes == sum(array.nbytes for array in session.backend.state().values())
    assert (plan.boards[0].largest_budget is None) is (kind == "full")


@pytest.mark.parametrize("name", recipe_names())
def test_state_bytes_of_the_recipes(name: str) -> None:
    """Of every recipe that the package carries, Qwen3-VL-4B's among them."""
    plan = planned(load_recipe(name))
    assert plan.memory.state == allocated(plan) == plan.state.total


def test_published_sizes_of_qwen3_vl_4b() -> None:
    """The paper's setting: a full cache of 2.24 GiB, and 0.46 GiB at a budget of 20 %."""
    plan = planned(load_recipe("qwen3-vl-4b"))
    assert plan.cache.full_cache_bytes == 36 * 8 * 16384 * 2 * 128 * 2
    assert plan.cache.full_cache_bytes / plan.memory.state == pytest.approx(5.0, abs=0.01)
    assert plan.memory.weights == 2 * 4_437_815_808


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.sampled_from(["retentive", "streaming_llm", "h2o", "full"]),
    st.sampled_from(["mass", "residual", "none"]),
    st.sampled_from(["model", "int8", "int4"]),
    st.sampled_from(["exact", "coarse"]),
    st.sampled_from([0, 80]),
    st.integers(80, 3000),
)
def test_parts_of_the_state_add_up(policy: str, readout: str, dtype: str, store: str, exact: int, rows: int) -> None:
    cache = {"policy": policy, "readout": readout, "rows": {"dtype": dtype, "exact": exact}, "budget": {"rows": rows}}
    recipe = parse_recipe(
        {
            "model": {"source": "Qwen/Qwen3-VL-2B-Instruct", "dtype": "float16", "frame": [256, 256]},
            "cache": {**cache, "context": 512, "memory": {"store": store}},
        }
    )
    try:
        plan = planned(recipe)
    except RecipeError:
        assume(False)
    parts, geometry = split_state(plan.cache), plan.cache.geometry
    assert parts.total == plan.cache.state_bytes
    assert (parts.memory > 0) is (geometry.memory_rows > 0 or geometry.readout == "residual")
    values = geometry.local_rows * geometry.head_dim * 2
    size = values * {"model": 2.0, "int8": 1.0, "int4": 0.5}[dtype]
    if not exact and store == "exact":
        scales = 4 * geometry.coarse_rows
        assert parts.rows == plan.cache.layers * geometry.kv_heads * (size + scales)


@pytest.mark.parametrize("on", ["cpu", "jetson-orin"])
@pytest.mark.parametrize("gigabytes", [8, 12, 24])
def test_the_largest_budget_fits_and_one_more_row_does_not(on: str, gigabytes: int) -> None:
    fixed = ["cache.memory.grid=[4, 4]", "cache.memory.recall=8"]
    plan = planned(load_recipe("qwen3-vl-2b", fixed), Board(name="b", memory=gigabytes * 10**9, bandwidth=1.0), on)
    board = plan.boards[0]
    assert board.largest_budget is not None

    def needed(rows: int) -> int:
        larger = load_recipe(
            "qwen3-vl-2b", ["cache.memory.grid=[4, 4]", "cache.memory.recall=8", f"cache.budget.rows={rows}"]
        )
        return planned(larger, on=on).memory.total

    rows = board.largest_budget.rows
    assert needed(rows) <= board.usable < needed(rows + 1)
    assert board.fits is (needed(plan.cache.geometry.rows) <= board.usable)


@pytest.mark.parametrize("on", ["cpu", "jetson-orin"])
def test_the_largest_full_cache_fits_and_one_more_token_does_not(on: str) -> None:
    board = planned(load_recipe("qwen3-vl-2b"), on=on).boards[0]
    plain = ["cache.policy=full", "cache.rows.dtype=model"]

    def needed(tokens: int) -> int:
        plan = planned(load_recipe("qwen3-vl-2b", [*plain, f"cache.context={tokens}"]), on=on)
        return plan.memory.total - plan.memory.state + plan.cache.full_cache_bytes

    assert needed(board.largest_context) <= board.usable < needed(board.largest_context + 1)


def test_margin_and_reserved_memory_count() -> None:
    recipe = load_recipe("qwen3-vl-2b")
    tight, loose = (planned(recipe, margin=margin).boards[0] for margin in (0.25, 0.0))
    assert loose.usable == MACHINE.memory - target("jetson-orin").reserved
    assert loose.usable - tight.usable == MACHINE.memory // 4
    assert loose.spare - tight.spare == MACHINE.memory // 4


def test_what_does_not_fit() -> None:
    plan = planned(load_recipe("qwen3-vl-8b"))
    board = plan.boards[0]
    assert (board.fits, board.largest_budget, board.largest_context) == (False, None, 0)
    assert board.spare == board.usable - plan.memory.total < 0


def test_speed_is_bytes_over_bandwidth() -> None:
    plan = planned(load_recipe("qwen3-vl-8b"), efficiency=0.5)
    head = 151936 * 4096
    per_step = 2 * (plan.model.parameters.layers + head) + plan.memory.state  # the embedding of 8B is not the head
    assert plan.moved == per_step
    points = {point.context: point for point in plan.boards[0].points}
    own = points[plan.cache.context]
    assert own.tokens_per_second == pytest.approx(0.5 * 100e9 / per_step)
    assert own.full_bytes == plan.cache.full_cache_bytes
    assert own.full_tokens_per_second == pytest.approx(0.5 * 100e9 / (per_step - own.state_bytes + own.full_bytes))
    contexts = sorted(points)
    assert contexts == [1024 << power for power in range(9)]
    full = [points[context].full_tokens_per_second for context in contexts]
    assert all(earlier > later for earlier, later in itertools.pairwise(full))
    assert len({point.tokens_per_second for point in points.values()}) == 1


def test_a_session_that_evicts_nothing_ends_with_its_capacity() -> None:
    recipe = load_recipe("reference-vlm", ["cache.policy=full", "cache.context=3000"])
    points = planned(recipe, on="cpu").boards[0].points
    assert [point.context for point in points] == [1024, 2048, 3000]


def test_the_prediction_meets_published_speeds() -> None:
    """Published for AGX Orin with 4-bit weights and 2,048 tokens of past: 88.7, 50.8 and 30.6 tokens/s for 2B, 4B, 8B.

    Their bytes are layers at 4.15 bits, a float16 head and a float16 cache; 70 % of the bandwidth is within 12 %.
    """
    for name, published in (("qwen3-vl-2b", 88.7), ("qwen3-vl-4b", 50.8), ("qwen3-vl-8b", 30.6)):
        shape = planned(load_recipe(name)).model
        head = shape.parameters.head or shape.parameters.embedding
        cache = 2048 * shape.text.layers * shape.text.kv_heads * 2 * shape.text.head_dim * 2
        moved = round(shape.parameters.layers * 4.15 / 8) + 2 * head + cache
        orin = target("jetson-orin")
        assert tokens_per_second(moved, orin.boards[0].bandwidth, orin.efficiency) == pytest.approx(published, rel=0.12)


def test_estimates_grow_with_what_they_depend_on() -> None:
    shape = planned(load_recipe("qwen3-vl-4b")).model
    fused = decoder_activations(shape, "float16", 4096, 64, fused=True)
    assert fused == 64 * (2 * 2560 + 3 * 9728) * 2 + 151936 * 4
    scores = decoder_activations(shape, "float16", 4096, 64, fused=False) - fused
    assert scores == 3 * 32 * 64 * (4096 + 64) * 4
    assert workspace(shape, 4096, 64, fused=False) == 0
    assert workspace(shape, 8192, 64, fused=True) - workspace(shape, 4096, 64, fused=True) == 8 * 4096 * 16


def test_every_recipe_on_every_target() -> None:
    """Each has a plan, one per board; what fits a smaller board of a target fits a larger one."""
    for name, known in itertools.product(recipe_names(), load_targets().values()):
        plan = plan_recipe(load_recipe(name), known)
        assert [one.board for one in plan.boards] == list(known.boards)
        by_size = sorted(plan.boards, key=lambda one: one.board.memory)
        assert [one.fits for one in by_size] == sorted(one.fits for one in by_size)


def test_plan_cache_needs_no_more_than_a_grid(vision_model: Path) -> None:
    """A planner's frame and an exporter's layout give one cache, whatever the frame's shape."""
    from retentive_export.models import load_model

    adapter = load_model(vision_model)
    for frame in ((32, 48), (64, 32), (96, 96)):
        recipe = parse_recipe(
            {**vision_recipe(vision_model), "model": {"source": str(vision_model), "frame": list(frame)}}
        )
        expected = plan_cache(recipe, adapter.text_shape(), adapter.vision_layout(frame))
        assert planned(recipe).cache == expected


def arm(**changes: Any) -> dict[str, Any]:
    fields = {"arm": "20% rows", "batch": 1, "context": 16384, "cache_bytes": 10**9, "moved_bytes": 9 * 10**9}
    return {**fields, "ms_per_token": {"median": 6.0, "p10": 5.9}, **changes}


def test_measurements_beside_the_prediction(tmp_path: Path) -> None:
    path = tmp_path / "decode-loop.json"
    path.write_text(json.dumps({"shape": {"name": "qwen3-vl-4b"}, "arms": [arm(), arm(arm="full")]}))
    name, (first, second) = read_measured(path)
    assert (name, second.name, first.context) == ("qwen3-vl-4b", "full", 16384)
    assert first.efficiency(2000.0) == pytest.approx(0.75)  # 9 GB in 6 ms are 1.5 TB/s of 2 TB/s
    assert first.predicted_milliseconds(2000.0, 0.75) == pytest.approx(6.0)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"shape": {"name": "x"}, "arms": [{"arm": "full"}]}', "null"])
def test_other_files_are_no_measurements(text: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(InputError, match="not a result of decode_loop"):
        read_measured(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_measured(tmp_path / "absent.json")


def test_what_the_kernels_do_not_compute_is_refused(tmp_path: Path) -> None:
    """For engines alone, and with the limits that the kernels state."""
    header = (Path(__file__).resolve().parents[2] / "plugins/include/retentive/params.h").read_text()
    assert f"#define RETENTIVE_MAX_STEPS {limits.MOST_CHUNK}\n" in header
    assert f"#define RETENTIVE_MAX_HEAD_DIM {limits.MOST_HEAD_DIM}\n" in header
    wide = ["cache.chunk=1032", "cache.window=1100"]
    with pytest.raises(RecipeError, match=r"cache\.chunk is 1032, .* 'jetson-orin' take at most 1024") as error:
        plan_recipe(load_recipe("qwen3-vl-4b", wide), target("jetson-orin"))
    assert error.value.hint == "--set cache.chunk=1024"
    plan_recipe(load_recipe("qwen3-vl-4b", wide), target("onnx"))
    geometry = plan_recipe(load_recipe("qwen3-vl-4b"), target("jetson-orin")).cache.geometry
    for size in (264, 100):
        with pytest.raises(RecipeError, match=rf"head size is {size}, .* multiples of 8 up to 256"):
            limits.check_kernels(dataclasses.replace(geometry, head_dim=size), target("h100"))
        limits.check_kernels(dataclasses.replace(geometry, head_dim=size), target("cpu"))
