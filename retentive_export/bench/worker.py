"""A process that holds one arm: JSON lines in on stdin, JSON lines out on what was stdout.

`python -m retentive_export.bench.worker`. It needs this package on its path and the arm's own runtime, nothing else: a
peer may live in an environment of its own. Everything that libraries print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any, TextIO

from retentive_export.bench.arms.base import MODULES, Arm
from retentive_export.bench.memory import peak_bytes

__all__ = ["main"]


class Worker:
    """Answers one request after the other; the first one opens the arm."""

    def __init__(self) -> None:
        self.arm: Arm | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks; seconds of it, and the process's peak memory afterwards."""
        started = time.perf_counter()
        result: dict[str, Any] = {}
        if request["do"] == "open":
            module = importlib.import_module(f"retentive_export.bench.arms.{MODULES[request['spec']['kind']]}")
            self.arm = module.open_arm(request["spec"], request["threads"])
            result["facts"] = self.arm.facts
        else:
            assert self.arm is not None
            if request["do"] == "feed":
                self.arm.feed(request["ids"])
            elif request["do"] == "threads":
                self.arm.set_threads(request["threads"])
            elif request["do"] == "decode":
                result["steps"] = [_timed(self.arm, token) for token in request["ids"]]
            else:
                raise ValueError(f"do={request['do']!r}")
        return {"seconds": time.perf_counter() - started, "peak_bytes": peak_bytes(), **result}


def _timed(arm: Arm, token: int) -> float:
    started = time.perf_counter()
    arm.step(token)
    return time.perf_counter() - started


def main() -> None:
    """Serve until stdin ends."""
    out = _private_stdout()
    worker = Worker()
    for line in sys.stdin:
        try:
            answer = worker.answer(json.loads(line))
        except Exception as error:  # whatever a peer raises is that arm's result, not the harness's end
            answer = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:500]}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _private_stdout() -> TextIO:
    """The stream that the parent reads; file descriptor 1 itself becomes stderr."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return out


if __name__ == "__main__":
    main()
