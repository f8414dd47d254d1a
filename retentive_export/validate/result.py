"""The result of a validation: every quantity, its limit, and whether it keeps it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from retentive_export.spec.manifest import Manifest
from retentive_export.spec.recipe import Thresholds
from retentive_export.validate.layers import VICTIMS, LayerReport, StateLimits, StateLog
from retentive_export.validate.metrics import StepReport

__all__ = ["Check", "ValidationReport", "WeightLimits", "first_divergence", "state_limits", "weight_limits"]

STATISTICS = ("importance", "entropy")


@dataclass(frozen=True, kw_only=True)
class Check:
    """One quantity, the limit it must keep (None: for information), and whether it does."""

    name: str
    value: float | int | str
    limit: float | None = None
    holds: bool = True


@dataclass(frozen=True, kw_only=True)
class WeightLimits:
    """Quantised weights compute another function than the reference's: what decides then. format: of the weights. kl:
    mean over all steps, in nats. disagreement: share of steps with another greedy token."""

    format: str
    kl: float
    disagreement: float


@dataclass(frozen=True, kw_only=True)
class ValidationReport:
    """The whole comparison of one side with a reference.

    artifact: the manifest's name. backend, against: the two sides; "reference" is PyTorch on the CPU, "golden" the
    file. lockstep: every step started from the reference's state; otherwise each side ran on its own. prefill: how many
    of the steps feed the prompt. first_divergence: first step whose greedy token differs or whose logit error is over
    the limit; None if there is none. layers: states after the steps in `compared_steps`, of the layers that the
    reference holds. vision_error: tensor -> largest absolute difference over the reference's largest magnitude.
    logit_limit: the manifest's threshold, limits: of the state. state_decides: whether victims and state must keep
    their limit; in half precision near-ties between victims fall either way, and from the first one on the two states
    hold other tokens, so that only logits and features decide. weights: of quantised weights, whose limits then decide
    in place of the logit error's.
    """

    artifact: str
    backend: str
    against: str
    lockstep: bool
    prefill: int
    steps: tuple[StepReport, ...]
    first_divergence: int | None
    layers: tuple[LayerReport, ...]
    compared_steps: tuple[int, ...]
    vision_error: dict[str, float]
    logit_limit: float
    limits: StateLimits
    state_decides: bool
    weights: WeightLimits | None = None

    @classmethod
    def of(
        cls,
        manifest: Manifest,
        steps: tuple[StepReport, ...],
        log: StateLog,
        *,
        backend: str,
        against: str,
        lockstep: bool,
        prefill: int,
        vision_error: dict[str, float],
    ) -> ValidationReport:
        """What was compared, judged by the manifest's thresholds and by the limits of `log`."""
        logit_limit = manifest.thresholds.resolved(manifest.dtype).logit_error
        assert logit_limit is not None
        weights = weight_limits(manifest)
        return cls(
            artifact=manifest.name,
            backend=backend,
            against=against,
            lockstep=lockstep,
            prefill=prefill,
            steps=steps,
            first_divergence=first_divergence(steps, math.inf if weights else logit_limit),
            layers=log.layers(),
            compared_steps=tuple(log.steps),
            vision_error=vision_error,
            logit_limit=logit_limit,
            limits=log.limits,
            state_decides=manifest.dtype == "float32" and weights is None,
            weights=weights,
        )

    @property
    def logit_error(self) -> float:
        """Of the worst step."""
        return max(step.logit_error for step in self.steps)

    @property
    def agreement(self) -> float:
        """Share of steps whose greedy token is the reference's."""
        return sum(step.agrees for step in self.steps) / len(self.steps)

    @property
    def mean_kl(self) -> float:
        """Over all steps, in nats."""
        return sum(step.kl for step in self.steps) / len(self.steps)

    @property
    def differing_rows(self) -> dict[int, int]:
        """layer -> rows that hold another token (different victims), in the worst compared step."""
        return {layer.layer: layer.differing_rows for layer in self.layers}

    @property
    def victim_share(self) -> float:
        """The largest share of a layer's rows that hold another token."""
        return max((layer.victim_share for layer in self.layers), default=0.0)

    @property
    def state_error(self) -> dict[str, float]:
        """Tensor kind -> error of the worst layer."""
        kinds = self.layers[0].state_error if self.layers else {}
        return {kind: max(layer.state_error[kind] for layer in self.layers) for kind in kinds}

    @property
    def first_layer(self) -> LayerReport | None:
        """The lowest layer that drifts: where the difference enters."""
        return next((layer for layer in self.layers if layer.drifts), None)

    @property
    def passed(self) -> bool:
        """Whether every limit is kept."""
        return not self.failures()

    def failures(self) -> tuple[str, ...]:
        """Quantities over their limit, as sentences."""
        return tuple(f"{c.name} is {c.value:.3g}, limit {c.limit:.3g}" for c in self.checks() if not c.holds)

    def drift(self) -> str | None:
        """Where the difference enters, as words; None if no layer's state is over its limit."""
        if (layer := self.first_layer) is None:
            return None
        cause = str(layer.cause)
        value = layer.victim_share if cause == VICTIMS else layer.state_error[cause]
        limit = self.limits.of(cause)
        return f"layer {layer.layer}, {cause} {value:.3g} (limit {limit:.3g}), from step {layer.first_step} on"

    def checks(self) -> tuple[Check, ...]:
        """Every quantity in the order in which a table shows them."""
        divergence = "none" if self.first_divergence is None else self.first_divergence
        norm_ratio = max((step.norm_ratio for step in self.steps), key=lambda ratio: abs(ratio - 1))
        told = [
            Check(name="steps", value=len(self.steps)),
            Check(name="greedy agreement", value=self.agreement),
            Check(name="first diverging step", value=divergence),
            Check(name="smallest cosine", value=min(step.cosine for step in self.steps)),
            Check(name="norm ratio furthest from 1", value=norm_ratio),
            Check(name="largest absolute difference", value=max(step.max_abs for step in self.steps)),
            Check(name="largest KL (nats)", value=max(step.kl for step in self.steps)),
        ]
        if self.layers:
            told.append(Check(name="rows that differ", value=sum(self.differing_rows.values())))
            told.append(Check(name="first layer that drifts", value=self.drift() or "none"))
        if self.weights:
            told.append(Check(name="logit error", value=self.logit_error))
        limited = self._logit_quantities()
        limited += [(f"vision error: {name}", error, self._exact()) for name, error in self.vision_error.items()]
        return (
            *told,
            *(Check(name=n, value=v, limit=limit, holds=v <= limit) for n, v, limit in limited),
            *self._state_checks(),
        )

    def _logit_quantities(self) -> list[tuple[str, float, float]]:
        if self.weights is None:
            return [("logit error", self.logit_error, self.logit_limit)]
        prefix = f"{self.weights.format} weights:"
        return [
            (f"{prefix} mean KL (nats)", self.mean_kl, self.weights.kl),
            (f"{prefix} greedy disagreement", 1 - self.agreement, self.weights.disagreement),
        ]

    def _exact(self) -> float:
        """Limit where no quantised rows are in the way."""
        return min(self.logit_limit, self.limits.default)

    def _state_checks(self) -> list[Check]:
        if not self.layers:
            return []
        state = [("victims that differ, share", self.victim_share, self.limits.of(VICTIMS))]
        state += [(f"state error: {kind}", error, self.limits.of(kind)) for kind, error in self.state_error.items()]
        if not self.state_decides:
            return [Check(name=name, value=value) for name, value, _ in state]
        return [Check(name=n, value=v, limit=limit, holds=limit is None or v <= limit) for n, v, limit in state]


def weight_limits(manifest: Manifest) -> WeightLimits | None:
    """By the manifest's thresholds; None where weights are not quantised."""
    if manifest.weights is None:
        return None
    limits = manifest.thresholds.resolved(manifest.dtype)
    return WeightLimits(format=manifest.weights.format, kl=limits.weight_kl, disagreement=limits.weight_disagreement)


def state_limits(manifest: Manifest, *, lockstep: bool) -> StateLimits:
    """Limits of the state by the manifest's thresholds.

    From equal states a step cannot change statistics or victims by a rounded code, so there they keep the limit of the
    dtype, without the code level that quantised rows are allowed; else at most that of int4 rows, since attention
    averages over many codes. A state_error of the recipe's own holds for all of them.
    """
    limits = manifest.thresholds.resolved(manifest.dtype)
    assert limits.state_error is not None
    decides = manifest.dtype == "float32"
    given = (manifest.recipe.get("thresholds") or {}).get("state_error")
    exact = limits.state_error
    if given is None:
        most = Thresholds().resolved(manifest.dtype, "model" if lockstep else "int4").state_error
        exact = min(exact, most or exact)
    return StateLimits(
        victims=exact if decides else None, default=limits.state_error, kinds=dict.fromkeys(STATISTICS, exact)
    )


def first_divergence(steps: tuple[StepReport, ...], limit: float) -> int | None:
    """First step whose greedy token differs or whose logit error is over the limit (infinite: tokens alone)."""
    return next((i for i, step in enumerate(steps) if not step.agrees or step.logit_error > limit), None)
