"""From hidden states at scored places to one number per dialogue."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from retentive_export.eval.bounded import Shadow
from retentive_export.eval.engine import Engine
from retentive_export.eval.statistics import Summary, Values, summarise
from retentive_export.eval.streams import Batch

__all__ = ["Scores", "Scored"]

LOGITS_AT_ONCE = 2048


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scored places of a batch from some column on: (stream, column) pairs, and the full cache's hidden states.

    stream, column: [n] int64. target, unit: [n] int64. hidden: [n, hidden].
    """

    stream: Tensor
    column: Tensor
    target: Tensor
    unit: Tensor
    hidden: Tensor

    @classmethod
    def of(cls, batch: Batch, hidden: Tensor, start: int) -> Scored:
        """hidden: [B, N, hidden] of the full cache's run."""
        stream, column = torch.nonzero(batch.predicts >= 0, as_tuple=True)
        early = column < start - 1  # what the last token before the break predicts is the first after it
        later = column >= start
        if bool(early.any()):
            later &= ~torch.isin(_keys(batch, stream, column), _keys(batch, stream[early], column[early]))
        stream, column = stream[later], column[later]
        return cls(
            stream=stream,
            column=column,
            target=batch.predicts[stream, column],
            unit=batch.unit[stream, column],
            hidden=hidden[stream, column],
        )


def _keys(batch: Batch, stream: Tensor, column: Tensor) -> Tensor:
    """One number per (stream, unit)."""
    return stream * (int(batch.unit.max()) + 1) + batch.unit[stream, column]


@dataclass
class Scores:
    """Collects batches of one cell.

    Lists hold one array per batch: per token stream, unit, right, agrees, kl, nll.
    """

    kinds: list[tuple[str, ...]] = field(default_factory=list)
    tokens: dict[str, list[Values]] = field(default_factory=lambda: defaultdict(list))
    errors: list[Values] = field(default_factory=list)
    masses: list[Values] = field(default_factory=list)

    def add(self, engine: Engine, batch: Batch, scored: Scored, hidden: Tensor) -> None:
        """One batch: the arm's hidden states [n, hidden] at the scored places."""
        first = len(self.kinds)
        self.kinds += batch.kinds
        for start in range(0, len(scored.stream), LOGITS_AT_ONCE):
            part = slice(start, start + LOGITS_AT_ONCE)
            ours = torch.log_softmax(engine.logits(hidden[part]), dim=-1)
            full = torch.log_softmax(engine.logits(scored.hidden[part]), dim=-1)
            target = scored.target[part]
            self._put("stream", scored.stream[part] + first)
            self._put("unit", scored.unit[part])
            self._put("right", ours.argmax(-1) == target)
            self._put("agreement", ours.argmax(-1) == full.argmax(-1))
            self._put("kl", (full.exp() * (full - ours)).sum(-1).clamp(min=0))
            self._put("nll", -ours.gather(-1, target[:, None]).squeeze(-1))

    def add_errors(self, shadow: Shadow, batch: Batch, start: int) -> None:
        """Local errors at the scored places of the watched streams; the shadow's steps begin at column `start`."""
        errors, masses = torch.cat(shadow.errors, dim=1), torch.cat(shadow.masses, dim=1)
        asked = batch.predicts[: shadow.streams, start:] >= 0
        for index in range(shadow.streams):
            if bool(asked[index].any()):
                self.errors.append(errors[index, asked[index]].double().mean(dim=0).cpu().numpy())
                self.masses.append(masses[index, asked[index]].double().mean(dim=(0, 1)).cpu().numpy())

    def per_dialogue(self) -> dict[str, Values]:
        """Metric -> one value per dialogue; accuracy is the share of units whose every token is right."""
        flat = {name: np.concatenate(parts) for name, parts in self.tokens.items()}
        stream = flat["stream"].astype(np.int64)
        count = len(self.kinds)
        tokens = np.bincount(stream, minlength=count)
        asked = tokens > 0
        values = {
            name: (np.bincount(stream, flat[name], minlength=count) / np.maximum(tokens, 1))[asked]
            for name in ("kl", "agreement", "nll")
        }
        right = self._units(flat)
        return {"accuracy": np.array([np.mean(list(units.values())) for units in right.values()]), **values}

    def per_kind(self) -> dict[str, float]:
        """Kind of question -> accuracy."""
        flat = {name: np.concatenate(parts) for name, parts in self.tokens.items()}
        kinds: dict[str, list[float]] = defaultdict(list)
        for stream, units in self._units(flat).items():
            for unit, right in units.items():
                kinds[self.kinds[stream][unit]].append(right)
        return {kind: float(np.mean(right)) for kind, right in sorted(kinds.items())}

    def units(self) -> int:
        """How many questions were scored."""
        flat = {name: np.concatenate(self.tokens[name]) for name in ("stream", "unit", "right")}
        return sum(len(units) for units in self._units(flat).values())

    def layer_errors(self) -> list[Summary]:
        """Of every layer, over the watched dialogues."""
        if not self.errors:
            return []
        table = np.stack(self.errors)
        return [summarise(table[:, layer]) for layer in range(table.shape[1])]

    def log_mass(self) -> Summary | None:
        """Over the watched dialogues."""
        return summarise(np.array(self.masses)) if self.masses else None

    def _put(self, name: str, values: Tensor) -> None:
        self.tokens[name].append(values.double().cpu().numpy())

    @staticmethod
    def _units(flat: dict[str, Values]) -> dict[int, dict[int, float]]:
        """stream -> unit -> 1 if all its tokens are right, else 0."""
        units: dict[int, dict[int, float]] = {}
        for stream, unit, right in zip(flat["stream"], flat["unit"], flat["right"], strict=True):
            answers = units.setdefault(int(stream), {})
            answers[int(unit)] = min(answers.get(int(unit), 1.0), float(right))
        return dict(sorted(units.items()))
