"""Runs every arm on every task at every budget."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from retentive_export.backends.torch_decoder import torch_device
from retentive_export.errors import RecipeError
from retentive_export.eval.arms import Arm
from retentive_export.eval.bounded import Compressor, Shadow, WatchedLoop, compress, roomy
from retentive_export.eval.engine import Engine
from retentive_export.eval.environment import environment
from retentive_export.eval.measure import Scored, Scores
from retentive_export.eval.planning import CacheSettings, Planned, plan_arm
from retentive_export.eval.reference import FullLoop
from retentive_export.eval.result import Cell, Evaluation, Run
from retentive_export.eval.scores import Oracle, selection
from retentive_export.eval.streams import Batch, collate
from retentive_export.eval.tasks import Task
from retentive_export.spec.recipe_files import load_recipe

__all__ = ["Column", "Settings", "evaluate"]

REFERENCE_CHUNK = 32
PREFILL_CHUNK = 64
CHECKPOINT_SECONDS = 60.0

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run, besides the tasks and the arms.

    budgets: shares of the full cache's bytes. dialogues: streams per task. batch: of them at a time. watched: streams
    of each batch whose attention is compared with an exact one; 0 for none. cache: what all arms share. commit: to be
    recorded where there is no checkout to ask.
    """

    budgets: tuple[float, ...] = (0.5, 0.2, 0.1, 0.05, 0.025)
    dialogues: int = 200
    batch: int = 50
    watched: int = 2
    seed: int = 0
    device: str = "cpu"
    cache: CacheSettings = field(default_factory=CacheSettings)
    commit: str | None = None


@dataclass(frozen=True)
class Column:
    """A task and a moment of compression."""

    task: Task
    when: str


def evaluate(
    columns: Sequence[Column],
    arms: Sequence[Arm],
    settings: Settings,
    *,
    progress: Progress | None = None,
    checkpoint: Callable[[Evaluation], None] | None = None,
) -> Evaluation:
    """Measure every arm in every column at every budget.

    Args:
        progress: called with a line now and then. checkpoint: called once a minute or so with all cells that
            are finished.

    Raises:
        RecipeError: a moment that a task does not have, or nothing to run. DeviceError: no such device.
    """
    for column in columns:
        if column.when not in column.task.moments:
            raise RecipeError(
                f"task {column.task.name} has no moment {column.when!r}",
                hint=f"one of: {', '.join(column.task.moments)}",
            )
    if not columns or not arms:
        raise RecipeError("nothing to evaluate: give at least one task and one arm")
    device = torch_device(settings.device)
    run = Run(environment=environment(device, settings.commit), settings=_record(columns, settings))
    result = Evaluation(runs=[run], cells=[])
    for model in dict.fromkeys(_model(column) for column in columns):
        engine = Engine(load_recipe(*model), device)
        for column in (one for one in columns if _model(one) == model):
            measuring = _Run(engine, column, arms, settings, progress or (lambda line: None))
            before, saved = list(result.cells), time.monotonic()
            for cells in measuring.measured():
                result.cells = before + cells
                if checkpoint is not None and time.monotonic() - saved > CHECKPOINT_SECONDS:
                    checkpoint(result)
                    saved = time.monotonic()
    return result


def _model(column: Column) -> tuple[str, tuple[str, ...]]:
    """Recipe and overrides of the model that a column runs on."""
    return column.task.recipe, column.task.overrides


def _record(columns: Sequence[Column], settings: Settings) -> dict[str, Any]:
    """The settings as the results keep them."""
    cache = settings.cache
    return {
        "budgets": list(settings.budgets),
        "dialogues": settings.dialogues,
        "seed": settings.seed,
        "cache_dtype": cache.dtype,
        "sinks": cache.sinks,
        "windows": {column.task.name: list(cache.windows or column.task.windows) for column in columns},
        "tasks": {column.task.name: column.task.facts() for column in columns},
    }


@dataclass
class _Work:
    """A cell that is being measured."""

    arm: Arm
    cell: Cell
    plan: Planned
    scores: Scores = field(default_factory=Scores)


class _Run:
    """One column, all arms."""

    def __init__(self, engine: Engine, column: Column, arms: Sequence[Arm], settings: Settings, say: Progress) -> None:
        self.engine, self.task, self.when = engine, column.task, column.when
        self.arms, self.settings, self.say = arms, settings, say
        self.streams = column.task.streams(engine, settings.dialogues, settings.seed)
        self.tokens = max(len(one.input_ids) for one in self.streams)
        self.cache = replace(settings.cache, windows=settings.cache.windows or column.task.windows)

    def measured(self) -> Iterator[list[Cell]]:
        """All finished cells, again and again, until they are all there.

        Batch by batch: a batch's full run and roomy caches serve all arms. Cells are finished in the last batch.
        """
        works = list(self._plan())
        done = [work.cell for work in works if work.cell.refused is not None]
        size = self.settings.batch
        batches = [self.streams[at : at + size] for at in range(0, len(self.streams), size)]
        for number, streams in enumerate(batches):
            began = time.monotonic()
            batch = collate(streams, self.engine.adapter, self.engine.layout, self.engine.device)
            for work in _BatchRun(self, batch).measure([work for work in works if work.cell.refused is None]):
                if number == len(batches) - 1:
                    done.append(self._finish(work))
                    yield done
            seconds = time.monotonic() - began
            self.say(f"{self.task.name} {self.when}: batch {number + 1} of {len(batches)}, {seconds:.0f} s")
        order = {id(work.cell): place for place, work in enumerate(works)}
        yield sorted(done, key=lambda cell: order[id(cell)])

    def _plan(self) -> Iterator[_Work]:
        for arm in self.arms:
            for budget in (1.0,) if arm.selection == "full" else self.settings.budgets:
                cell = Cell(
                    task=self.task.name,
                    when=self.when,
                    budget=budget,
                    arm=arm.name,
                    group=arm.group,
                    headline=self.task.headline,
                    tokens=self.tokens,
                )
                engine = self.engine
                known = (engine.recipe, arm, budget, self.tokens, engine.text, engine.layout, self.cache)
                try:
                    plan = plan_arm(*known)
                except RecipeError as refused:
                    cell.refused = refused.message
                    yield _Work(arm, cell, None)  # type: ignore[arg-type]  # a refused cell is never run
                    continue
                cell.state_bytes, cell.full_bytes = plan.state_bytes, plan.full_bytes
                cell.rows, cell.window = plan.geometry.rows, plan.geometry.window
                yield _Work(arm, cell, plan)

    def _finish(self, work: _Work) -> Cell:
        cell, scores = work.cell, work.scores
        cell.values = {name: [float(x) for x in values] for name, values in scores.per_dialogue().items()}
        cell.dialogues, cell.units = len(cell.values["kl"]), scores.units()
        cell.layer_error, cell.log_mass, cell.kinds = scores.layer_errors(), scores.log_mass(), scores.per_kind()
        cell.seconds = round(cell.seconds, 2)
        work.scores = Scores()  # its arrays are not needed any more
        return cell


class _BatchRun:
    """One batch of a column: the full run once, a roomy cache per kind of statistics, then every arm."""

    def __init__(self, run: _Run, batch: Batch) -> None:
        self.run, self.engine, self.batch = run, run.engine, batch
        number = run.task.moments[run.when]
        self.start = 0 if number is None else batch.breaks[number]
        self.scored, self.oracles = self._reference()
        self._roomy: dict[object, list[dict[str, Tensor]]] = {}

    def measure(self, works: Sequence[_Work]) -> Iterator[_Work]:
        """Run every arm on the batch, one after the other."""
        for work in works:
            began = time.monotonic()
            hidden, shadow = self._arm(work)
            work.scores.add(self.engine, self.batch, self.scored, hidden)
            if shadow is not None:
                work.scores.add_errors(shadow, self.batch, self.start)
            work.cell.seconds += time.monotonic() - began
            yield work

    def _reference(self) -> tuple[Scored, dict[str, Oracle]]:
        batch = self.batch
        watch = any(arm.group == "ceiling" for arm in self.run.arms)
        loop = FullLoop(self.engine.text.layers, watch=watch)
        parts = list(batch.chunks(0, REFERENCE_CHUNK if watch else 4 * REFERENCE_CHUNK))
        hidden = torch.cat([self.engine.hidden(batch, part, loop) for part in parts], dim=1)
        return Scored.of(batch, hidden, self._first_scored()), loop.oracles(batch, parts) if watch else {}

    def _first_scored(self) -> int:
        """Text is scored behind its context whenever its cache is compressed, so that the moments compare."""
        return self.batch.breaks[0] if self.run.task.headline == "kl" and self.batch.breaks else self.start

    def _arm(self, work: _Work) -> tuple[Tensor, Shadow | None]:
        """Hidden states [n, hidden] at the scored places."""
        batch, engine, plan = self.batch, self.engine, work.plan
        size, layers = batch.input_ids.shape[0], plan.layers
        geometry = replace(plan.geometry, batch=size)
        chosen = selection(plan.selection, plan.gate, self.oracles)
        constants = engine.constants(geometry, self.run.tokens)
        watched = min(self.run.settings.watched, size)
        shadow = Shadow(watched, layers) if watched else None
        loop = WatchedLoop(
            geometry, plan.gate, layers, chosen=chosen, constants=constants, shadow=shadow, device=engine.device
        )
        with torch.inference_mode():
            if self.start:
                room = roomy(geometry, self.start)
                states = self._prefill(work, room)
                target = Compressor(geometry=geometry, gate=plan.gate, chosen=chosen, constants=constants)
                loop.state, _ = compress(states, room, target)
                if shadow is not None:
                    shadow.seed(states)
            else:
                loop.reset()
            parts = [engine.hidden(batch, part, loop) for part in batch.chunks(self.start, geometry.chunk)]
            hidden = torch.cat(parts, dim=1)
            return hidden[self.scored.stream, self.scored.column - self.start], shadow

    def _prefill(self, work: _Work, room: object) -> list[dict[str, Tensor]]:
        """The roomy cache's states before the compression; arms whose statistics are the same share them."""
        geometry = work.plan.geometry
        key = (work.plan.gate, geometry.track_importance, geometry.track_entropy, geometry.readout == "moments")
        if key not in self._roomy:
            chosen = selection("uniform", work.plan.gate)  # nothing leaves
            roomy_loop = WatchedLoop(
                room,  # type: ignore[arg-type]
                work.plan.gate,
                work.plan.layers,
                chosen=chosen,
                device=self.engine.device,
            )
            roomy_loop.reset()
            for part in self.batch.chunks(0, PREFILL_CHUNK):
                if part.start >= self.start:
                    break
                self.engine.hidden(self.batch, part, roomy_loop)
            self._roomy[key] = roomy_loop.state
        return self._roomy[key]
