"""Engines of an artifact: every graph is built in a process of its own, and the files are laid out for the artifact."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export import errors
from retentive_export.backends.tensorrt.build import EngineJob, EngineResult
from retentive_export.backends.tensorrt.device import compute_capability
from retentive_export.backends.tensorrt.vendor import VENDORS
from retentive_export.errors import ExportError, RetentiveExportError
from retentive_export.ops.contract import OPS
from retentive_export.spec.manifest import EngineSection, TensorContract, file_entry

__all__ = ["DECODER", "VISION", "EnginePlan", "build_engines", "engine_key", "run_worker"]

DECODER, VISION = "decoder", "vision"
ENGINES, PLUGINS = "engine", "plugins"
LAST_LINES = 6

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class EnginePlan:
    """What to build.

    backend: its name. graphs: graph -> ONNX file, in order. contract: graph -> inputs and outputs, as the manifest has
    them. layers, chunk: of the decoder. plugin_library: the file. earlier: an earlier artifact, whose timing cache is
    used if it is of the same version, kind of GPU and plugins. flags: see `EngineJob`.
    """

    backend: str
    graphs: dict[str, Path]
    contract: dict[str, list[TensorContract]]
    layers: int
    chunk: int
    plugin_library: Path
    earlier: Path
    flags: tuple[str, ...] = ()


def engine_key(backend: str, plugin_library: Path) -> list[Any]:
    """What engines depend on besides their graphs: the vendor's version, the GPU's kind, the plugins, this package.

    Raises:
        MissingExtraError: the vendor's library is not installed. DeviceError: it builds on a GPU, and there is none.
    """
    vendor = VENDORS[backend]
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    return [backend, vendor.version(), _capability(backend), file_entry(plugin_library).sha256, digest.hexdigest()]


def _capability(backend: str) -> tuple[int, int] | None:
    """Compute capability that engines are bound to."""
    return compute_capability() if VENDORS[backend].needs_gpu else None


def _timing_cache(plan: EnginePlan, output: Path, capability: tuple[int, int] | None) -> str | None:
    """Name of the file with measured tactics, to begin with those of the earlier artifact. What they depend on is in
    the name, so that no other build finds them."""
    vendor = VENDORS[plan.backend]
    if not vendor.times_tactics:
        return None
    key = json.dumps([plan.backend, vendor.version(), capability, file_entry(plan.plugin_library).sha256])
    name = f"{ENGINES}/timing-{hashlib.sha256(key.encode()).hexdigest()[:16]}.cache"
    if (plan.earlier / name).is_file():
        shutil.copyfile(plan.earlier / name, output / name)
    return name


def build_engines(plan: EnginePlan, output: Path, progress: Progress) -> EngineSection:
    """Write `engine/*.plan`, the timing cache and `plugins/` below `output`.

    Raises:
        ExportError: see `build_engine`; also when the process that builds ends without a word.
        DeviceError, MissingExtraError: as their names say.
    """
    for folder in (ENGINES, PLUGINS):
        (output / folder).mkdir()
    library = f"{PLUGINS}/{plan.plugin_library.name}"
    shutil.copyfile(plan.plugin_library, output / library)
    capability = _capability(plan.backend)
    cache = _timing_cache(plan, output, capability)
    profiles = VENDORS[plan.backend].profiles(plan.chunk)
    results: dict[str, EngineResult] = {}
    for graph, path in plan.graphs.items():
        is_decoder = graph == DECODER
        job = EngineJob(
            vendor=plan.backend,
            graph=path,
            plan=output / ENGINES / f"{graph}.plan",
            layers=plan.layers if is_decoder else 0,
            contract=plan.contract[graph],
            profiles=profiles if is_decoder else [],
            plugin_library=output / library if is_decoder else None,
            timing_cache=output / cache if cache else None,
            flags=plan.flags,
        )
        results[graph] = run_worker(job, lambda text, graph=graph: progress(f"{graph}: {text}"))  # type: ignore[misc]
    return EngineSection(
        backend=plan.backend,
        version=results[DECODER].version,
        compute_capability=capability,
        graphs={graph: f"{ENGINES}/{graph}.plan" for graph in results},
        plugin_library=library,
        timing_cache=cache,
        profiles=profiles,
        activation_bytes={graph: result.activation_bytes for graph, result in results.items()},
        layers={graph: result.layers for graph, result in results.items()},
        plugin_layers=results[DECODER].plugin_layers,
    )


WORKER = (sys.executable, "-m", "retentive_export.backends.tensorrt.worker")


def run_worker(job: EngineJob, progress: Progress, command: Sequence[str] = WORKER) -> EngineResult:
    """Build one engine in a child process.

    Raises:
        RetentiveExportError: what the child raised. ExportError: it ended without saying why, or its file is damaged.
    """
    vendor = VENDORS[job.vendor]
    answer: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="retentive-engine-") as scratch, tempfile.TemporaryFile() as said:
        environment = vendor.environment(Path(scratch), os.environ)
        package = str(Path(errors.__file__).resolve().parents[1])  # the child must run this very package
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment, text=True
        )
        try:
            assert child.stdin is not None
            assert child.stdout is not None
            _feed(child.stdin, job.model_dump_json())
            for line in child.stdout:
                if not line.endswith("\n"):  # killed in the middle of a line; its exit status tells
                    break
                message = json.loads(line)
                if "progress" in message:
                    progress(message["progress"])
                else:
                    answer = message
            status = child.wait()
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
        said.seek(0)
        words = said.read().decode(errors="replace")
    if "error" in answer:
        raise _error(answer, words)
    if status or "result" not in answer:
        raise _crash(vendor.title, job.graph.name, status, words)
    result = EngineResult.model_validate(answer["result"])
    if not job.plan.is_file() or file_entry(job.plan).sha256 != result.sha256:
        raise ExportError(f"{job.plan.name} is not the file that was built: it changed on the way to the disk")
    return result


def _feed(stream: Any, text: str) -> None:
    """Write and close; a child that has already ended is noticed by its exit status."""
    try:
        with stream:
            stream.write(text)
    except BrokenPipeError:
        pass


def _error(answer: dict[str, Any], words: str) -> RetentiveExportError:
    """What the child raised, and what plugins said: TensorRT-RTX gives them no logger, so they write to stderr."""
    said = [line for line in words.splitlines() if line.startswith(tuple(OPS)) and line not in answer["message"]]
    kind = getattr(errors, answer["error"])
    error: RetentiveExportError = kind("; ".join([answer["message"], *said[-LAST_LINES:]]), hint=answer["hint"])
    return error


def _crash(title: str, graph: str, status: int, words: str) -> ExportError:
    last = " | ".join([line.strip() for line in words.splitlines() if line.strip()][-LAST_LINES:])
    ended = f"signal {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    return ExportError(
        f"{title} crashed while it built {graph} ({ended}){f': {last}' if last else ''}",
        hint="SIGKILL usually means that memory ran out" if status == -signal.SIGKILL else None,
    )
