"""The parent's end of a worker: start it, ask it, notice when it dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

__all__ = ["ArmFailed", "WorkerProcess"]

_ROOT = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class ArmFailed(Exception):
    """An arm cannot go on. signal: the name of the signal that killed its process, if one did."""

    def __init__(self, message: str, killed_by: str | None = None) -> None:
        super().__init__(message)
        self.killed_by = killed_by


class WorkerProcess:
    """One arm in a process of its own, under `python`, with the thread pools of its libraries at most `threads`
    wide."""

    def __init__(self, spec: dict[str, Any], threads: int, *, python: str = sys.executable) -> None:
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        environment |= dict.fromkeys(THREAD_VARIABLES, str(threads))
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed below
        command = [python, "-m", "retentive_export.bench.worker"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self._errors}
        try:
            self._process = subprocess.Popen(command, env=environment, text=True, **pipes)
        except OSError as error:
            self._errors.close()
            raise ArmFailed(f"{python} cannot be started: {error.strerror}") from None
        self.threads = threads
        try:
            self.facts: dict[str, Any] = self._ask(do="open", spec=spec, threads=threads)["facts"]
        except BaseException:
            self.close()
            raise

    def feed(self, ids: Sequence[int]) -> dict[str, Any]:
        """Append tokens; seconds and peak_bytes."""
        return self._ask(do="feed", ids=list(ids))

    def decode(self, ids: Sequence[int]) -> dict[str, Any]:
        """Append tokens one by one; steps: seconds of each, and peak_bytes."""
        return self._ask(do="decode", ids=list(ids))

    def set_threads(self, threads: int) -> None:
        """Go on with another number of threads."""
        if threads != self.threads:
            self._ask(do="threads", threads=threads)
            self.threads = threads

    def _ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArmFailed(answer["error"])
        return answer

    def _death(self) -> ArmFailed:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().strip().splitlines()
        if code < 0:
            name = signal.Signals(-code).name
            return ArmFailed(f"its process was killed by {name}", killed_by=name)
        return ArmFailed(f"its process ended with code {code}: {said[-1] if said else 'it said nothing'}")

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    continue
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
