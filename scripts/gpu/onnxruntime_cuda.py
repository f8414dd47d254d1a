"""ONNX Runtime's CUDA provider against its CPU provider, on finished artifacts: parity first, then ms per token.

    python scripts/gpu/onnxruntime_cuda.py out/reference-vlm out/smollm2 --output result.json

Needs onnxruntime-gpu and the artifacts; no torch. Of every artifact:

1. Parity. The rows are filled, then one prefill chunk and `--steps` decode steps run on both providers, each from the
   CPU's state; every step evicts. Logits (over their range) and state tensors must keep the manifest's thresholds, in
   float32 the victims too.
2. Time of a decode step and of a prefill chunk on both, which nodes ran on the CPU, device memory.
3. The golden run on the candidate alone, running freely, as `retentive-export validate --provider cuda`.

`--candidate cpu` compares the CPU provider with itself: it tests this script where there is no GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from retentive_export.backends import DecoderInputs
from retentive_export.backends.onnxruntime import FLAVOUR, OnnxRuntimeBackend
from retentive_export.backends.onnxruntime_provider import PROVIDERS, open_session
from retentive_export.backends.onnxruntime_state import DTYPES
from retentive_export.runtime import Session
from retentive_export.spec.arrays import Array
from retentive_export.validate import validate_golden
from retentive_export.validate.state import compare_states, differing_rows


class Parity:
    """A backend that steps both providers from the reference's state and keeps the largest differences."""

    def __init__(self, reference: OnnxRuntimeBackend, candidate: OnnxRuntimeBackend) -> None:
        self.reference, self.candidate, self.manifest = reference, candidate, reference.manifest
        self.encode, self.state_bytes = reference.encode, reference.state_bytes
        self.comparing = False
        self.steps: Counter[int] = Counter()
        self.worst: dict[str, float] = defaultdict(float)
        self.first: dict[str, int] = {}
        self.unmoved = 0

    def step(self, inputs: DecoderInputs) -> Array:
        if not self.comparing:
            return self.reference.step(inputs)
        before = self.reference.state()
        self.candidate.load_state(before)
        self.steps[inputs.input_ids.shape[1]] += 1
        expected, made = self.reference.step(inputs), self.candidate.step(inputs)
        geometry = self.manifest.plan().geometry
        ours, theirs = self.candidate.state(), self.reference.state()
        error = float(np.abs(made - expected).max()) / float(np.ptp(expected))
        self._keep("logit error", error if np.isfinite(made).all() else float("inf"))
        rows = geometry.batch * geometry.kv_heads * geometry.rows
        self._keep("victims that differ, share", max(differing_rows(ours, theirs).values()) / rows)
        for kind, error in compare_states(geometry, ours, theirs).items():
            self._keep(f"state error: {kind}", error)
        self.unmoved += not all(differing_rows(theirs, before).values())
        return expected

    def _keep(self, name: str, value: float) -> None:
        self.worst[name] = max(self.worst[name], value)
        if value > self._limit(name):
            self.first.setdefault(name, self.steps.total())

    def _limit(self, name: str) -> float:
        limits = self.manifest.thresholds.resolved(self.manifest.dtype)
        assert limits.logit_error is not None
        assert limits.state_error is not None
        return limits.logit_error if name == "logit error" else limits.state_error

    def failures(self) -> list[str]:
        """What is over the manifest's thresholds."""
        told = [f"{self.unmoved} steps left a layer's rows as they were: no eviction"] if self.unmoved else []
        for name, step in self.first.items():
            if self.manifest.dtype == "float32" or name == "logit error":
                limit = self._limit(name)
                told.append(f"{name} is {self.worst[name]:.3g}, limit {limit:.3g}, first exceeded at step {step}")
        return told


class Timed:
    """A backend that measures its steps: tokens in a step -> seconds, in order."""

    def __init__(self, backend: OnnxRuntimeBackend) -> None:
        self.backend, self.manifest, self.encode = backend, backend.manifest, backend.encode
        self.seconds: dict[int, list[float]] = defaultdict(list)

    def step(self, inputs: DecoderInputs) -> Array:
        started = time.perf_counter()
        logits = self.backend.step(inputs)
        self.seconds[inputs.input_ids.shape[1]].append(time.perf_counter() - started)
        return logits

    def milliseconds(self, tokens: int, warmup: int) -> dict[str, float]:
        """Median and spread of the steps of `tokens` tokens, after the first `warmup` ones."""
        values = 1e3 * np.array(self.seconds[tokens][warmup:])
        low, median, high = np.percentile(values, [10, 50, 90])
        return {
            "steps": len(values),
            "median_ms": round(float(median), 3),
            "p10_ms": round(float(low), 3),
            "p90_ms": round(float(high), 3),
        }


def drive(session: Session, random: np.random.Generator, prompt: int, decode: int) -> None:
    """Feed `prompt` random tokens in chunks, then `decode` random ones, one a step."""
    allowed = np.setdiff1d(np.arange(session.manifest.text.vocab), session.dialogue.stop_ids)

    def sample(logits: Array) -> int:
        return int(random.choice(allowed))

    ids = [sample(allowed) for _ in range(prompt)]
    for _ in session.generate(ids, sample, decode + 1):  # type: ignore[arg-type]
        pass


def check_parity(reference: OnnxRuntimeBackend, candidate: OnnxRuntimeBackend, steps: int, seed: int) -> Parity:
    """Part 1 of the module's docstring."""
    pair, random = Parity(reference, candidate), np.random.default_rng(seed)
    session, geometry = Session(pair, None), reference.manifest.plan().geometry
    if session.vision is not None:
        session.observe(random.integers(0, 256, (*session.vision.frame, 3), dtype=np.uint8))
    drive(session, random, -(-geometry.rows // geometry.chunk) * geometry.chunk, 0)
    for name, meta in reference.state().items():
        if name.endswith("row_meta") and (meta[:, :, : geometry.local_rows, 0] < 0).any():
            raise SystemExit(f"{name} has empty rows after {session.tokens_seen} tokens: eviction was not reached")
    pair.comparing = True
    drive(session, random, geometry.chunk, steps)
    return pair


def measure_time(backend: OnnxRuntimeBackend, decode: int, warmup: int, seed: int) -> dict[str, Any]:
    """Milliseconds of a prefill chunk and of a decode step with full rows."""
    timed, geometry = Timed(backend), backend.manifest.plan().geometry
    chunks = max(warmup + 20, -(-geometry.rows // geometry.chunk))
    backend.reset()
    drive(Session(timed, None), np.random.default_rng(seed), chunks * geometry.chunk, warmup + decode)
    return {
        "provider": backend.place.provider,
        "decode": timed.milliseconds(1, warmup),
        "prefill": {"tokens": geometry.chunk, **timed.milliseconds(geometry.chunk, chunks - 20)},
    }


def placement(backend: OnnxRuntimeBackend) -> dict[str, Any]:
    """Where the nodes of a decode step ran, from ONNX Runtime's own profile of one step."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = open_session(backend._directory / backend.manifest.graphs[FLAVOUR], backend.place, options)
        feeds = backend.state()
        for name, tensor in backend._inputs.items():
            feeds[name] = np.zeros([1 if n == "T" else int(n) for n in tensor.shape], DTYPES[tensor.dtype])
        session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran: Counter[tuple[str, str]] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            ran[event["args"]["provider"], event["args"]["op_name"]] += 1
    nodes: Counter[str] = Counter()
    for (provider, _), count in ran.items():
        nodes[provider] += count
    result: dict[str, Any] = {"nodes": dict(nodes)}
    if backend.place.provider == "cuda":
        result["on_cpu"] = {op: n for (provider, op), n in sorted(ran.items()) if provider == PROVIDERS["cpu"]}
        result["copies"] = {op: n for (_, op), n in sorted(ran.items()) if op.startswith("Memcpy")}
    if hasattr(session, "get_input_memory_infos"):
        places = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
        result["state_read_from"] = dict(Counter(m.name for value, m in places if value.name.startswith("past.")))
    return result


def nvidia_smi(field: str, device: int = 0) -> str | None:
    """One field of the device, or None where there is no GPU."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits", "-i", str(device)]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def measure(directory: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything about one artifact."""
    memory: dict[str, str | None] = {"before": nvidia_smi("memory.used")}
    say(f"{directory}: opening")
    candidate = OnnxRuntimeBackend(directory, provider=arguments.candidate, threads=arguments.threads)
    memory["opened"] = nvidia_smi("memory.used")
    reference = OnnxRuntimeBackend(directory, threads=arguments.threads, verify=False)
    manifest = reference.manifest
    if (capacity := manifest.plan().capacity) is not None:
        raise SystemExit(f"{directory} holds {capacity} tokens and evicts none: give a bounded artifact")
    geometry = manifest.plan().geometry
    say("parity")
    pair = check_parity(reference, candidate, arguments.steps, arguments.seed)
    result: dict[str, Any] = {
        "name": manifest.name,
        "dtype": manifest.dtype,
        "layers": manifest.plan().layers,
        "rows": geometry.rows,
        "chunk": geometry.chunk,
        "state_bytes": manifest.state_bytes,
        "parity": {
            "steps": {str(tokens): count for tokens, count in pair.steps.items()},
            "worst": {name: float(f"{value:.3g}") for name, value in pair.worst.items()},
            "failures": pair.failures(),
        },
    }
    say(json.dumps(result["parity"]))
    for role, backend in (("candidate", candidate), ("reference", reference)):
        result[role] = measure_time(backend, arguments.timed, arguments.warmup, arguments.seed)
        say(json.dumps(result[role]))
    memory["after"] = nvidia_smi("memory.used")
    result["device_memory_mib"] = memory
    result["placement"] = placement(candidate)
    say(json.dumps(result["placement"]))
    golden = validate_golden(directory, provider=arguments.candidate)
    result["golden"] = {"passed": golden.passed, "failures": list(golden.failures()), "logit_error": golden.logit_error}
    say(json.dumps(result["golden"]))
    return result


def say(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def environment(arguments: argparse.Namespace) -> dict[str, Any]:
    """Machine, versions, commit."""
    commit = arguments.commit
    if commit is None:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
        commit = done.stdout.strip() or None
    models = [line.split(":")[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "gpu": nvidia_smi("name"),
        "driver": nvidia_smi("driver_version"),
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "onnxruntime": ort.__version__,
        "cuda_of_onnxruntime": getattr(ort, "cuda_version", None) or None,
        "commit": commit,
        "note": arguments.note,
        "options": {key: getattr(arguments, key) for key in ("steps", "timed", "warmup", "seed", "threads")},
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Measure every artifact; exit code 1 if one of them fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifacts", nargs="+", type=Path)
    parser.add_argument("--candidate", choices=sorted(PROVIDERS), default="cuda")
    parser.add_argument("--steps", type=int, default=64, help="decode steps that are compared")
    parser.add_argument("--timed", type=int, default=200, help="decode steps that are timed")
    parser.add_argument("--warmup", type=int, default=20, help="steps before them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, help="of the CPU provider; the default is ONNX Runtime's choice")
    parser.add_argument("--commit", help="where there is no git repository")
    parser.add_argument("--note", help="goes into the report")
    parser.add_argument("--output", type=Path, help="write the JSON here as well")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    report = {"environment": environment(arguments), "artifacts": results}
    for directory in arguments.artifacts:
        results.append(measure(directory, arguments))
        if arguments.output:
            arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))
    bad = [r["name"] for r in results if r["parity"]["failures"] or not r["golden"]["passed"]]
    if bad:
        raise SystemExit(f"failed: {', '.join(bad)}")


if __name__ == "__main__":
    main()
