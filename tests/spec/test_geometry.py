"""Bytes and row spaces of the geometry, constants of the gate, the table of policies: all without torch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import BYTES, CacheGeometry, TensorSpec
from retentive_export.spec.policies import POLICIES, policy_spec

VALID = {"kv_heads": 2, "q_heads": 4, "head_dim": 8, "exact_rows": 8, "sinks": 2, "window": 4, "chunk": 4}
TIERED = {**VALID, "coarse_rows": 4}
MASS = {**VALID, "readout": "mass", "recall_rows": 2}

REFUSED = [
    (VALID, {"kv_heads": 0}, "kv_heads is 0"),
    (VALID, {"batch": 0}, "batch is 0"),
    (VALID, {"window": 0}, "window is 0"),
    (VALID, {"chunk": 0}, "chunk is 0"),
    (VALID, {"sinks": -1}, "sinks is -1"),
    (VALID, {"recall_rows": -2}, "recall_rows is -2"),
    (VALID, {"q_heads": 5}, "q_heads 5 is not a multiple of kv_heads 2"),
    (VALID, {"memory_grid": (-1, 2)}, "not a grid"),
    (VALID, {"frame_grid": (0, 2)}, "not a grid"),
    (VALID, {"chunk": 5}, "chunk is 5 and window is 4"),
    (VALID, {"exact_rows": 5}, r"leaves 5 local rows, fewer than sinks \+ window"),
    (TIERED, {"exact_rows": 5}, "exact_rows is 5"),
    (TIERED, {"coarse_rows": 3}, "coarse_rows is 3, fewer than a chunk of 4"),
    (TIERED, {"coarse_dtype": "int4", "head_dim": 7}, "head_dim 7 is odd"),
    (VALID, {"recall_rows": 2}, "2 memory rows with readout 'none'"),
    (VALID, {"memory_grid": (2, 3), "readout": "residual"}, "6 memory rows with readout 'residual'"),
    (VALID, {"readout": "mass"}, "readout 'mass' needs memory rows"),
    (MASS, {"memory_store": "coarse"}, "memory_store is 'coarse'"),
]


@pytest.mark.parametrize(("base", "change", "message"), REFUSED)
def test_impossible_geometries_are_refused(base: dict, change: dict, message: str) -> None:
    CacheGeometry(**base)
    with pytest.raises(RecipeError, match=message):
        CacheGeometry(**{**base, **change})


def test_hint_of_a_small_budget_says_what_would_do() -> None:
    with pytest.raises(RecipeError) as error:
        CacheGeometry(**{**MASS, "exact_rows": 4})
    assert "at least 8 rows" in str(error.value)


sizes = st.integers(0, 9)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3), st.sampled_from([2, 8, 64])),
    st.tuples(sizes, sizes, sizes, st.integers(1, 4)),
    st.sampled_from(["float32", "float16", "bfloat16"]),
    st.sampled_from(["int8", "int4"]),
    st.sampled_from(["none", "mass", "residual", "moments"]),
    st.sampled_from(["exact", "coarse"]),
    st.tuples(st.booleans(), st.booleans()),
)
def test_bytes_are_the_sum_over_rows(
    shape: tuple, rows: tuple, dtype: str, coarse_dtype: str, readout: str, store: str, track: tuple
) -> None:
    """state_bytes equals a formula written row by row; row spaces and stores add up."""
    batch, kv_heads, groups, dim = shape
    exact, coarse, sinks, window = rows
    memory = (2, 2, 3) if readout == "mass" else (0, 0, 0)
    try:
        geometry = CacheGeometry(
            batch=batch,
            kv_heads=kv_heads,
            q_heads=kv_heads * groups,
            head_dim=dim,
            dtype=dtype,
            exact_rows=exact,
            coarse_rows=coarse,
            coarse_dtype=coarse_dtype,
            memory_grid=memory[:2],
            frame_grid=(4, 4),
            recall_rows=memory[2],
            memory_store=store,
            sinks=sinks,
            window=window,
            readout=readout,
            track_importance=track[0],
            track_entropy=track[1],
        )
    except RecipeError:
        assert (
            exact + coarse < sinks + window
            or (exact and coarse and (exact < sinks + window or coarse < 1))
            or (sum(memory) and store == "coarse" and not coarse)
        )
        return
    merged = memory[0] * memory[1] + memory[2]
    exact_store = exact + (merged if store == "exact" else 0)
    coarse_store = coarse + (merged if store == "coarse" else 0)
    code_bytes = dim // 2 if coarse_dtype == "int4" else dim
    per_head = exact_store * 2 * dim * BYTES[dtype] + coarse_store * (2 * code_bytes + 4)
    per_head += (exact + coarse + merged) * 8 + (exact + coarse) * 4 * sum(track) + merged * 4
    per_head += {"residual": 8 * dim * dim, "moments": 4 * (1 + 2 * dim + dim * dim)}.get(readout, 0)
    assert geometry.state_bytes == batch * kv_heads * per_head
    assert geometry.groups == groups
    assert geometry.rows == geometry.local_rows + geometry.memory_rows == exact + coarse + merged
    assert (geometry.exact_store_rows, geometry.coarse_store_rows) == (exact_store, coarse_store)
    assert geometry.tiers == tuple(t for t in ((0, exact), (exact, coarse)) if t[1])
    assert len({spec.name for spec in geometry.state()}) == len(geometry.state())
    assert all(spec.shape[:2] == (batch, kv_heads) for spec in geometry.state())
    packed = coarse_store and coarse_dtype == "int4"
    codes = {"key_codes": 0x88, "value_codes": 0x88} if packed else {}  # code 0 in both halves of a byte
    assert {spec.name: spec.fill for spec in geometry.state() if spec.fill} == {"row_meta": -1, **codes}


def test_full_cache_bytes() -> None:
    geometry = CacheGeometry(batch=2, kv_heads=8, q_heads=16, head_dim=128, exact_rows=4, dtype="bfloat16")
    assert geometry.full_cache_bytes(4096) == 2 * 8 * 4096 * 2 * 128 * 2


def test_tensor_spec_bytes() -> None:
    spec = TensorSpec(name="x", shape=(2, 3, 5), dtype="int32")
    assert spec.nbytes == math.prod(spec.shape) * 4


@pytest.mark.parametrize("field", ["lambda_", "importance_decay", "entropy_decay"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_and_decays_are_between_0_and_1(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"gate.{field.rstrip('_')} is {value}"):
        GateConfig(**{field: value})


@pytest.mark.parametrize("field", ["importance_gain", "entropy_gain"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_gains_are_finite_and_not_negative(field: str, value: float) -> None:
    with pytest.raises(RecipeError, match=f"gate.{field} is {value}"):
        GateConfig(**{field: value})


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_sigmoid_gates_and_beta_are_finite(value: float) -> None:
    with pytest.raises(RecipeError, match=f"gate.beta is {value}"):
        GateConfig(beta=value)
    for name in ("weight", "bias"):
        with pytest.raises(RecipeError, match=f"a gate's {name} is {value}"):
            SigmoidGate(**{name: value})


def test_policy_table() -> None:
    base = GateConfig(lambda_=0.75, beta=0.5, absorption=SigmoidGate(enabled=True))
    for name, spec in POLICIES.items():
        assert policy_spec(name) is spec
        gate = spec.gate(base)
        assert gate.beta == 0.5
        assert gate.absorption.enabled == spec.track_importance  # what is not tracked cannot gate
        geometry = CacheGeometry(**{**VALID, **spec.geometry_flags})
        assert geometry.track_importance == spec.track_importance
        assert geometry.readout == (spec.readout or "none")
    with pytest.raises(RecipeError, match="policy is 'lru', and must be one of coverage, full, h2o"):
        policy_spec("lru")


def test_spec_needs_no_torch() -> None:
    code = (
        "import sys, retentive_export.spec.policies, retentive_export.spec.geometry; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
