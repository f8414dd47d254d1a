"""One run: every arm in a process of its own, fed the same tokens, decoding in turn so that noise hits all alike."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from retentive_export.bench.bandwidth import copy_bandwidth
from retentive_export.bench.client import ArmFailed, WorkerProcess
from retentive_export.bench.machine import describe_machine
from retentive_export.bench.peers import PEERS, Unavailable, weight_format
from retentive_export.bench.plan import ArmPlan, BenchSettings, artifact_arm
from retentive_export.bench.result import Absent, ArmResult, BenchReport, Group, Point, Spread
from retentive_export.bench.words import SOURCE, token_ids
from retentive_export.errors import InputError
from retentive_export.spec.geometry import BYTES
from retentive_export.spec.manifest import Manifest

__all__ = ["measure_group", "run_bench", "with_floors"]

Note = Callable[[str], None]


def _silent(text: str) -> None:
    """No progress."""


def run_bench(artifacts: Sequence[Path], settings: BenchSettings, note: Note = _silent) -> BenchReport:
    """Measure artifacts, and beside those of one model and weight format the peers.

    Raises:
        ArtifactError: a directory is no artifact. InputError: no arm at all could run.
    """
    started = time.monotonic()
    grouped: dict[tuple[str, str], list[tuple[ArmPlan, Manifest, Path]]] = {}
    for path in artifacts:
        arm, manifest = artifact_arm(path, settings, sys.executable)
        key = (str(manifest.recipe["model"]), weight_format(manifest))
        grouped.setdefault(key, []).append((arm, manifest, path))
    bandwidth: dict[int, list[float]] = {threads: [] for threads in settings.threads}
    groups = []
    for (_, weights), members in grouped.items():
        plans = [arm for arm, _, _ in members]
        manifest = members[0][1]
        found, absent = _peers(manifest, settings, note)
        ids = token_ids(members[0][2], max(settings.contexts), settings.text)
        arms, failed = measure_group([*plans, *found], ids, settings, bandwidth, note)
        groups.append(Group(model=manifest.name, weights=weights, arms=arms, absent=(*absent, *failed)))
    if not any(group.arms for group in groups):
        reasons = "; ".join(f"{one.name}: {one.reason}" for group in groups for one in group.absent)
        raise InputError(f"nothing could be measured: {reasons}")
    return BenchReport(
        groups=tuple(with_floors(group, bandwidth) for group in groups),
        machine=describe_machine(),
        settings=_recorded(settings),
        copy_bandwidth={threads: max(values) for threads, values in bandwidth.items() if values},
        seconds=time.monotonic() - started,
    )


def with_floors(group: Group, bandwidth: Mapping[int, Sequence[float]]) -> Group:
    """The group with every point's floor, from the best copy bandwidth of the run: another process's traffic makes a
    copy slower, and would make the floor look nearer than it is."""

    def floored(point: Point) -> Point:
        if point.moved_bytes is None:
            return point
        return replace(point, floor_ms=1e3 * point.moved_bytes / max(bandwidth[point.threads]))

    arms = (replace(arm, points=tuple(map(floored, arm.points))) for arm in group.arms)
    return replace(group, arms=tuple(arms))


def _recorded(settings: BenchSettings) -> dict[str, Any]:
    """The settings as plain data; no paths of this machine."""
    names = ("contexts", "threads", "headline", "rounds", "tokens", "warm_up")
    values = {name: getattr(settings, name) for name in names}
    source = SOURCE if settings.text is None else settings.text.name
    return {**values, "peers": sorted(settings.peers), "text": source, "backend": settings.backend}


def _peers(manifest: Manifest, settings: BenchSettings, note: Note) -> tuple[list[ArmPlan], list[Absent]]:
    """Arms of the peers that can run the artifact's model, and those that cannot."""
    plans, absent, plan = [], [], manifest.plan()
    for name, python in settings.peers.items():
        peer = PEERS[name]
        note(f"{peer.title}: preparing")
        try:
            spec = peer.spec(manifest, settings.folder, python)
        except Unavailable as error:
            note(f"{peer.title}: {error}")
            absent.append(Absent(name=peer.title, reason=str(error)))
            continue
        half = name == "llama_cpp"  # its default
        per_token = plan.layers * plan.geometry.full_cache_bytes(1)
        plans.append(
            ArmPlan(
                name=peer.title,
                spec=spec,
                python=python,
                ours=False,
                limit=min(plan.context, manifest.text.max_positions),
                weights_bytes=_stored_bytes(spec),
                state_bytes=None,
                kv_bytes_per_token=per_token * 2 // BYTES[manifest.dtype] if half else per_token,
                note=spec.get("weights"),
            )
        )
    return plans, absent


def _stored_bytes(spec: dict[str, Any]) -> int | None:
    """Size of the weights' files, to what a token reads of them within a table's few kilobytes of rounding."""
    if "gguf" in spec:
        return Path(spec["gguf"]).stat().st_size
    folder = Path(spec.get("model") or spec["checkpoint"])
    sizes = [path.stat().st_size for pattern in ("*.safetensors", "*.data") for path in folder.glob(pattern)]
    return sum(sizes) or None


@dataclass
class _Running:
    """An arm while it runs. seen: tokens that it holds."""

    plan: ArmPlan
    worker: WorkerProcess
    note: str | None
    seen: int = 0
    feed_seconds: float = 0.0
    peak: int = 0
    points: list[Point] = field(default_factory=list)
    stopped: str | None = None
    took: list[list[float]] = field(default_factory=list)

    def reaches(self, context: int) -> bool:
        return self.stopped is None and (self.plan.limit is None or context <= self.plan.limit)


def measure_group(
    plans: Sequence[ArmPlan],
    ids: Sequence[int],
    settings: BenchSettings,
    bandwidth: dict[int, list[float]],
    note: Note = _silent,
) -> tuple[tuple[ArmResult, ...], tuple[Absent, ...]]:
    """Measure arms in turn; results, and the arms that could not be opened. Floors are left to `with_floors`. Copy
    bandwidths are added to `bandwidth`."""
    with ExitStack() as stack:
        running, absent = [], []
        for plan in plans:
            note(f"{plan.name}: opening")
            try:
                arm = _open(plan, settings.threads[0], stack)
            except ArmFailed as error:
                note(f"{plan.name}: {error}")
                absent.append(Absent(name=plan.name, reason=str(error)))
                continue
            running.append(arm)
        headline = settings.headline or _headline(running, settings.contexts)
        for context in settings.contexts:
            active = [arm for arm in running if arm.reaches(context)]
            numbers = settings.threads if context == headline else settings.threads[:1]
            _prefill(active, ids, context - settings.stretch * len(numbers), settings.threads[0], note)
            for threads in numbers:
                bandwidth.setdefault(threads, []).append(copy_bandwidth(threads))
                _decode(active, ids, threads, settings, note)
                _record(active, context, threads, threads == settings.threads[0], settings)
        return tuple(_result(arm) for arm in running), tuple(absent)


def _open(plan: ArmPlan, threads: int, stack: ExitStack) -> _Running:
    """Start the arm. One whose process was killed while it read a few tokens is tried once more in its safe form."""
    try:
        return _started(plan, threads, stack, plan.note)
    except ArmFailed as error:
        if error.killed_by is None or plan.spec.get("safe"):
            raise
        safe = replace(plan, spec={**plan.spec, "safe": True})
        words = f"without repacked weights: with them its process was killed by {error.killed_by}"
        return _started(safe, threads, stack, "; ".join(filter(None, [plan.note, words])))


def _started(plan: ArmPlan, threads: int, stack: ExitStack, note: str | None) -> _Running:
    """Open the arm once for trial, on a few tokens, and once for good."""
    if not plan.ours:
        with WorkerProcess(plan.spec, threads, python=plan.python) as trial:
            trial.feed([1] * 64)
            trial.decode([1])
    worker = stack.enter_context(WorkerProcess(plan.spec, threads, python=plan.python))
    return _Running(plan, worker, note)


def _headline(running: Sequence[_Running], contexts: Sequence[int]) -> int:
    """The largest context that every arm reaches; the smallest one if there is no such."""
    shared = [context for context in contexts if all(arm.reaches(context) for arm in running)]
    return max(shared, default=min(contexts))


def _prefill(arms: Sequence[_Running], ids: Sequence[int], until: int, threads: int, note: Note) -> None:
    for arm in arms:
        with _Stopping(arm, note):
            arm.worker.set_threads(threads)
            answer = arm.worker.feed(ids[arm.seen : until])
            arm.feed_seconds += answer["seconds"]
            arm.seen = until
            note(f"{arm.plan.name}: {until} tokens, {arm.feed_seconds:.1f} s")


def _decode(arms: Sequence[_Running], ids: Sequence[int], threads: int, settings: BenchSettings, note: Note) -> None:
    """Rounds in which every arm decodes the same tokens, each time beginning with another arm."""
    for arm in arms:
        arm.took = []
        with _Stopping(arm, note):
            arm.worker.set_threads(threads)
    count = settings.warm_up + settings.tokens
    for turn in range(settings.rounds):
        first = turn % max(1, len(arms))
        for arm in (*arms[first:], *arms[:first]):
            if arm.stopped is not None:
                continue
            with _Stopping(arm, note):
                answer = arm.worker.decode(ids[arm.seen : arm.seen + count])
                arm.seen += count
                arm.peak = answer["peak_bytes"]
                arm.took.append([1e3 * seconds for seconds in answer["steps"][settings.warm_up :]])


def _record(arms: Sequence[_Running], context: int, threads: int, first: bool, settings: BenchSettings) -> None:
    for arm in arms:
        if arm.stopped is not None or len(arm.took) < settings.rounds:
            continue
        arm.points.append(
            Point(
                context=context,
                threads=threads,
                milliseconds=Spread.of([value for part in arm.took for value in part]),
                rounds=tuple(statistics.median(part) for part in arm.took),
                first_token_seconds=arm.feed_seconds if first else None,
                peak_bytes=arm.peak,
                moved_bytes=arm.plan.moved_bytes(context),
                floor_ms=None,
            )
        )


class _Stopping:
    """An arm that fails stops; the others go on."""

    def __init__(self, arm: _Running, note: Note) -> None:
        self._arm, self._note = arm, note

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, ArmFailed):
            return False
        self._arm.stopped = f"after {self._arm.seen} tokens: {error}"
        self._note(f"{self._arm.plan.name}: {self._arm.stopped}")
        return True


def _result(arm: _Running) -> ArmResult:
    plan = arm.plan
    return ArmResult(
        name=plan.name,
        kind=plan.spec["kind"],
        ours=plan.ours,
        bounded=plan.state_bytes is not None,
        facts=arm.worker.facts,
        points=tuple(arm.points),
        note=arm.note,
        stopped=arm.stopped,
    )
