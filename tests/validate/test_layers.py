"""The log of states: which layer drifts first, from which step on, and in what."""

from __future__ import annotations

import numpy as np
import pytest

from retentive_export.errors import NumericalError
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.validate.layers import StateLimits, StateLog

GEOMETRY = CacheGeometry(kv_heads=2, q_heads=2, head_dim=4, exact_rows=5, window=1, track_entropy=False)
LIMITS = StateLimits(victims=0.05, default=0.1, kinds={"importance": 0.01})


def state(**changes: float) -> dict[str, np.ndarray]:
    """Three layers of ones; `changes`: layer and tensor -> what is added to one number of it."""
    tensors = {}
    for layer in range(3):
        for spec in GEOMETRY.state():
            array = np.ones(spec.shape, spec.dtype)
            array[0, 0, 1] += np.asarray(changes.get(f"{spec.name}_{layer}", 0), spec.dtype)
            tensors[f"past.{layer}.{spec.name}"] = array
    return tensors


def logged(*states: dict[str, np.ndarray], limits: StateLimits = LIMITS) -> StateLog:
    log = StateLog(GEOMETRY, limits)
    for step, ours in enumerate(states):
        log.add(step + 4, ours, state())
    return log


def test_the_lowest_layer_and_the_first_step() -> None:
    """Layer 2 is over its limit earlier, layer 1 below it later: both are told, each with what it was."""
    below, one, two = logged(
        state(importance_0=0.009, key_rows_1=0.05),
        state(value_rows_2=0.3),
        state(importance_1=0.02, key_rows_1=0.11),
    ).layers()
    assert (below.layer, below.drifts, below.first_step, below.cause) == (0, False, None, None)
    assert below.excess == pytest.approx((0.9, 0, 0), rel=1e-4)
    assert (one.first_step, one.cause) == (6, "importance")
    assert one.excess == pytest.approx((0.5, 0, 2), rel=1e-4)
    assert one.state_error["key_rows"] == pytest.approx(0.11, rel=1e-5)
    assert (two.first_step, two.cause) == (5, "value_rows")
    assert two.excess[1] == pytest.approx(3, rel=1e-5)


def test_victims_count_and_their_rows_do_not() -> None:
    """One of 2 x 5 rows holds another token: a tenth, twice the limit; what the row holds is not compared."""
    layer = logged(state(row_meta_1=3, key_rows_1=50)).layers()[1]
    assert (layer.differing_rows, layer.victim_share, layer.cause) == (1, 0.1, "victims")
    assert layer.excess == pytest.approx((2,))
    assert layer.state_error["key_rows"] == 0
    lenient = StateLimits(victims=None, default=0.1, kinds={})
    assert not logged(state(row_meta_1=3), limits=lenient).layers()[1].drifts


def test_a_state_that_is_not_finite() -> None:
    with pytest.raises(NumericalError, match=r"past\.2\.key_rows' holds NaN or infinity after step 4"):
        logged(state(key_rows_2=np.nan))


def test_layers_that_the_reference_lacks() -> None:
    """golden.npz of a large model holds the first and the last layer alone."""
    log = StateLog(GEOMETRY, LIMITS)
    log.add(0, state(), {name: array for name, array in state().items() if ".1." not in name})
    assert [layer.layer for layer in log.layers()] == [0, 2]
