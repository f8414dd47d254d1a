"""Sampling: greedy is argmax, top-p samples from exactly the smallest sufficient set, seeds decide everything."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retentive_export.errors import InputError, NumericalError
from retentive_export.runtime import Sampler

LOGITS = arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32))


def softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    scaled = (logits.astype(np.float64) - logits.max()) / temperature
    return np.exp(scaled) / np.exp(scaled).sum()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LOGITS, st.floats(0.01, 1.0))
def test_temperature_0_is_argmax(logits: np.ndarray, top_p: float) -> None:
    assert Sampler(top_p=top_p)(logits) == int(logits.argmax())


@settings(max_examples=200, deadline=None, derandomize=True)
@given(LOGITS, st.floats(0.05, 5.0), st.floats(0.01, 1.0), st.integers(0, 2**40))
def test_top_p_draws_from_the_smallest_set_that_suffices(
    logits: np.ndarray, temperature: float, top_p: float, seed: int
) -> None:
    probabilities = softmax(logits, temperature)
    sampler = Sampler(temperature=temperature, top_p=top_p, seed=seed)
    for _ in range(5):
        token = sampler(logits)
        likelier = probabilities[probabilities > probabilities[token]].sum()
        assert likelier < top_p + 1e-9, "the tokens above this one suffice already"


def test_shares_are_the_renormalised_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    sampler = Sampler(temperature=1.0, top_p=0.8, seed=1)
    counts = np.bincount([sampler(logits) for _ in range(20_000)], minlength=4) / 20_000
    np.testing.assert_allclose(counts, [0.625, 0.375, 0, 0], atol=0.015)


@pytest.mark.parametrize("temperature", [5e-324, 1e-300, 1e-9, 1e300])
def test_extreme_temperatures(temperature: float) -> None:
    logits = np.array([1.0, 3.0, 3e38, -3e38], np.float32)
    token = Sampler(temperature=temperature, seed=0)(logits)
    assert token == 2 or temperature > 1


def test_seeds_reproduce() -> None:
    logits = np.random.default_rng(0).normal(size=100).astype(np.float32)
    first, again, other = (Sampler(temperature=1.0, seed=seed) for seed in (7, 7, 8))
    tokens = [first(logits) for _ in range(50)]
    assert tokens == [again(logits) for _ in range(50)]
    assert tokens != [other(logits) for _ in range(50)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite(bad: float, temperature: float) -> None:
    with pytest.raises(NumericalError, match="NaN or infinity") as error:
        Sampler(temperature=temperature)(np.array([0.0, bad], np.float32))
    assert error.value.exit_code == 11


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"top_p": 1.1}, "top_p is 1.1"),
        ({"top_p": float("nan")}, "top_p is nan"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_options_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampler(**options)
