"""Where two runs part: the states of every layer, compared after each step.

With equal tokens, and equal features of the pictures, a layer's state depends on itself and on the layers below it
alone. So whatever went wrong, the lowest layer that drifts has a cause of its own or in the part of the model between
the layer below and it; layers above may merely inherit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from retentive_export.errors import NumericalError
from retentive_export.spec.arrays import Array
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.validate.state import compare_states, differing_rows

__all__ = ["VICTIMS", "LayerReport", "StateLimits", "StateLog"]

VICTIMS = "victims"
"""Name of the quantity "rows that hold another token", beside the kinds of state tensors."""


@dataclass(frozen=True, kw_only=True)
class StateLimits:
    """Largest differences that pass. victims: share of a layer's rows that hold another token, None: not judged.
    default: error of a kind of state tensor that `kinds` does not name."""

    victims: float | None
    default: float
    kinds: Mapping[str, float]

    def of(self, quantity: str) -> float | None:
        """Limit of `VICTIMS` or of a kind of state tensor; None: it is not judged."""
        return self.victims if quantity == VICTIMS else self.kinds.get(quantity, self.default)


@dataclass(frozen=True, kw_only=True)
class LayerReport:
    """One layer's state over all compared steps.

    differing_rows: rows, over batch and KV heads, that hold another token, in the worst step; victim_share: that over
    all rows. state_error: kind of tensor -> error (`validate.state`) in the worst step. excess: per compared step, the
    quantity furthest over its limit, divided by the limit: above 1 it drifts. first_step: first step that does, None:
    none; cause: the quantity furthest over its limit then.
    """

    layer: int
    differing_rows: int
    victim_share: float
    state_error: dict[str, float]
    excess: tuple[float, ...]
    first_step: int | None
    cause: str | None

    @property
    def drifts(self) -> bool:
        """Whether a quantity was over its limit."""
        return self.first_step is not None


class StateLog:
    """Comparisons of two states of one artifact, step after step.

    `steps` are the compared ones; `limits`: what a layer is judged by.
    """

    def __init__(self, geometry: CacheGeometry, limits: StateLimits) -> None:
        self._geometry, self.limits = geometry, limits
        self._rows = geometry.batch * geometry.kv_heads * geometry.rows
        self._seen: dict[int, list[tuple[int, dict[str, float]]]] = {}
        self.steps: list[int] = []

    def add(self, step: int, ours: Mapping[str, Array], reference: Mapping[str, Array]) -> None:
        """Compare the states after a step, in the layers that `reference` holds.

        Raises:
            NumericalError: a tensor of ours holds NaN or infinity, which no limit would catch.
        """
        self.steps.append(step)
        for layer, rows in differing_rows(ours, reference).items():
            part = {name: array for name, array in reference.items() if name.startswith(f"past.{layer}.")}
            for name in part:
                if ours[name].dtype.kind == "f" and not np.isfinite(ours[name]).all():
                    raise NumericalError(f"the state {name!r} holds NaN or infinity after step {step}")
            self._seen.setdefault(layer, []).append((rows, compare_states(self._geometry, ours, part)))

    def layers(self) -> tuple[LayerReport, ...]:
        """One report per compared layer, the lowest first."""
        return tuple(self._layer(layer) for layer in sorted(self._seen))

    def _layer(self, layer: int) -> LayerReport:
        seen = self._seen[layer]
        worst = [self._worst(rows / self._rows, errors) for rows, errors in seen]
        over = next((index for index, (excess, _) in enumerate(worst) if excess > 1), None)
        most = max(rows for rows, _ in seen)
        return LayerReport(
            layer=layer,
            differing_rows=most,
            victim_share=most / self._rows,
            state_error={kind: max(errors[kind] for _, errors in seen) for kind in seen[0][1]},
            excess=tuple(excess for excess, _ in worst),
            first_step=None if over is None else self.steps[over],
            cause=None if over is None else worst[over][1],
        )

    def _worst(self, share: float, errors: Mapping[str, float]) -> tuple[float, str]:
        """The quantity furthest over its limit: by which factor, and its name."""
        judged = [(value, self.limits.of(name), name) for name, value in ((VICTIMS, share), *errors.items())]
        return max(((value / limit, name) for value, limit, name in judged if limit is not None), default=(0.0, ""))
