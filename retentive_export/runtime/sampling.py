"""Choosing the next token."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from retentive_export.errors import InputError, NumericalError

__all__ = ["Sampler"]


class Sampler:
    """Greedy (temperature 0), or temperature and nucleus (top-p) sampling from a seeded generator.

    Args:
        temperature: logits are divided by it; 0 takes the largest logit, the lower id at a tie.
        top_p: the smallest set of tokens whose probabilities sum to at least this is sampled from.
        seed: of numpy's PCG64; equal seeds give equal tokens.
    """

    def __init__(self, *, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0) -> None:
        if temperature < 0 or not np.isfinite(temperature):
            raise InputError(f"temperature is {temperature}, and must be 0 or more")
        if not 0 < top_p <= 1:
            raise InputError(f"top_p is {top_p}, and must be above 0 and at most 1")
        if seed < 0:
            raise InputError(f"seed is {seed}, and must be 0 or more")
        self.temperature, self.top_p = temperature, top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: npt.NDArray[np.float32]) -> int:
        """Next token id from logits [vocab].

        Raises:
            NumericalError: a logit is NaN or infinite.
        """
        if not np.isfinite(logits).all():
            raise NumericalError(
                "the model's logits hold NaN or infinity", hint="check the weights and their precision"
            )
        if self.temperature == 0:
            return int(logits.argmax())
        wide = logits.astype(np.float64)
        with np.errstate(over="ignore"):  # a tiny temperature sends all but the largest to -inf
            scaled = (wide - wide.max()) / self.temperature
        probabilities = np.exp(scaled)
        probabilities /= probabilities.sum()
        order = np.argsort(-probabilities, kind="stable")
        ranked = probabilities[order]
        before = np.cumsum(ranked) - ranked
        ranked = np.where(before < self.top_p, ranked, 0.0)
        return int(order[self._random.choice(len(order), p=ranked / ranked.sum())])
