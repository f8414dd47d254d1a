"""Results as plain data: one cell per task, moment of compression, budget and arm. Torch-free."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.errors import InputError
from retentive_export.eval.statistics import Interval, Summary, Values, mean_interval, paired_difference, paired_ratio
from retentive_export.spec.files import atomic_file

__all__ = ["SCHEMA", "Cell", "Comparison", "Evaluation", "Run", "load_evaluation", "save_evaluation"]

SCHEMA = 1
METRICS = {"accuracy": "higher", "kl": "lower"}
"""Headline of a task -> which way is better."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A cell against another arm of the same column: paired over dialogues. ratio: None where the other is 0."""

    arm: str
    difference: Interval
    ratio: Interval | None


@dataclass(kw_only=True)
class Cell:
    """One arm on one task at one budget.

    Attributes:
        task, when, budget: the column: `when` the cache was compressed, budget as a share of the full cache's bytes.
        arm, group: see `Arm`.
        refused: why the arm cannot run in so few bytes; everything below is then empty.
        state_bytes, full_bytes: of one dialogue. rows, window: of every head and layer. tokens: of the full cache.
        dialogues, units, seconds: how much was measured. run: in which of the evaluation's runs.
        values: metric -> one value per dialogue: accuracy, kl (nats), agreement (greedy tokens equal to the full
            cache's), nll (nats per token).
        layer_error: relative error of every layer's attention output against attention over all that the arm has
            seen; log_mass: absolute error of the log-sum-exp of its logits, mean over layers. Summaries over
            dialogues.
        kinds: kind of question -> accuracy.
    """

    task: str
    when: str
    budget: float
    arm: str
    group: str
    headline: str
    refused: str | None = None
    state_bytes: int = 0
    full_bytes: int = 0
    rows: int = 0
    window: int = 0
    tokens: int = 0
    dialogues: int = 0
    units: int = 0
    seconds: float = 0.0
    run: int = 0
    values: dict[str, list[float]] = field(default_factory=dict)
    layer_error: list[Summary] = field(default_factory=list)
    log_mass: Summary | None = None
    kinds: dict[str, float] = field(default_factory=dict)

    @property
    def column(self) -> tuple[str, str, float]:
        """What the cell is compared within."""
        return self.task, self.when, self.budget

    def array(self, metric: str) -> Values:
        """Values of a metric, one per dialogue."""
        return np.asarray(self.values[metric], np.float64)

    def interval(self, metric: str) -> Interval:
        """Mean of a metric, with its interval."""
        return mean_interval(self.array(metric))

    def against(self, other: Cell, metric: str) -> Comparison:
        """This cell minus and over another one, dialogue by dialogue."""
        ours, theirs = self.array(metric), other.array(metric)
        ratio = paired_ratio(ours, theirs) if theirs.mean() > 0 else None
        return Comparison(arm=other.arm, difference=paired_difference(ours, theirs), ratio=ratio)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What is needed to repeat a measurement.

    environment: command, commit, versions, machine. settings: budgets, tasks, seed and what all arms share.
    """

    environment: dict[str, Any]
    settings: dict[str, Any]


@dataclass(kw_only=True)
class Evaluation:
    """Cells, and the runs that they come from."""

    runs: list[Run]
    cells: list[Cell]

    def column(self, task: str, when: str, budget: float) -> dict[str, Cell]:
        """Arm -> cell, refused ones included."""
        return {cell.arm: cell for cell in self.cells if cell.column == (task, when, budget)}

    def columns(self) -> list[tuple[str, str, float]]:
        """Columns in the order in which they were measured."""
        return list(dict.fromkeys(cell.column for cell in self.cells))

    def groups(self) -> Iterator[tuple[str, str, list[float]]]:
        """(task, when, budgets) of every table."""
        pairs = dict.fromkeys((cell.task, cell.when) for cell in self.cells)
        for task, when in pairs:
            yield task, when, list(dict.fromkeys(c.budget for c in self.cells if (c.task, c.when) == (task, when)))

    def best(self, column: tuple[str, str, float], group: str) -> Cell | None:
        """The best cell of a group in a column, by the task's headline; None where there is none."""
        cells = [c for c in self.column(*column).values() if c.group == group and c.refused is None]
        if not cells:
            return None
        sign = 1 if METRICS[cells[0].headline] == "higher" else -1
        return max(cells, key=lambda cell: sign * cell.interval(cell.headline).value)

    def merged(self, others: Sequence[Evaluation]) -> Evaluation:
        """With the cells of other evaluations; a cell that is there twice is taken from the later one.

        Raises:
            InputError: a column was measured on other dialogues, so that its cells are no pairs.
        """
        runs: list[Run] = []
        cells: dict[tuple[object, ...], Cell] = {}
        for one in (self, *others):
            places = []
            for run in one.runs:
                runs += [] if run in runs else [run]
                places.append(runs.index(run))
            cells |= {(*c.column, c.arm): replace(c, run=places[c.run]) for c in one.cells}
        merged = Evaluation(runs=runs, cells=list(cells.values()))
        merged._check_pairs()
        return merged

    def _check_pairs(self) -> None:
        for task, when, _ in self.groups():
            cells = [c for c in self.cells if (c.task, c.when) == (task, when) and c.refused is None]
            sizes = {(self.runs[c.run].settings.get("seed"), c.dialogues, c.units, c.tokens) for c in cells}
            if len(sizes) > 1:
                seen = "; ".join(str(size) for size in sorted(sizes))
                raise InputError(
                    f"{task}, {when}: measured on different dialogues (seed, dialogues, answers, tokens): {seen}",
                    hint="put together runs of one seed and the same sizes",
                )


def save_evaluation(evaluation: Evaluation, path: Path) -> None:
    """Write as JSON, one cell a line; whole or not at all."""
    head = {"schema": SCHEMA, "runs": [asdict(run) for run in evaluation.runs]}
    lines = ",\n".join(json.dumps(_rounded(asdict(cell)), allow_nan=False) for cell in evaluation.cells)
    text = json.dumps(head, indent=1)[:-2] + f',\n "cells": [\n{lines}\n]\n}}\n'
    with atomic_file(path) as stream:
        stream.write(text.encode())


def load_evaluation(path: Path) -> Evaluation:
    """Inverse of `save_evaluation`.

    Raises:
        InputError: not readable, or of another schema.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            raise InputError(f"{path} has schema {data['schema']}, and this version reads {SCHEMA}")
        cells = [_cell(one) for one in data["cells"]]
        return Evaluation(runs=[Run(**one) for one in data["runs"]], cells=cells)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not an evaluation: {error}") from None


def _cell(data: dict[str, Any]) -> Cell:
    mass = data.pop("log_mass")
    layers = [Summary(**one) for one in data.pop("layer_error")]
    return Cell(**data, layer_error=layers, log_mass=None if mass is None else Summary(**mass))


def _rounded(data: Any) -> Any:
    """Floats to four significant digits: what is below that is noise, and the file is committed."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_rounded(value) for value in data]
    return float(f"{data:.4g}") if isinstance(data, float) else data
