"""An arm for tests: it takes the time that its specification says, and can fail where it says."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

__all__ = ["open_arm"]


class FakeArm:
    """spec: `step_ms`, `feed_ms_per_token`; `die_at`: tokens after which the process kills itself; `safe`: does not."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec, self.seen = spec, 0
        self.facts: dict[str, Any] = {
            "versions": {"fake": "1"},
            "weights_bytes": spec.get("weights_bytes", 1000),
            "state_bytes": spec.get("state_bytes"),
            "kv_bytes_per_token": spec.get("kv_bytes_per_token"),
        }

    def feed(self, ids: Sequence[int]) -> None:
        self._take(len(ids), self.spec.get("feed_ms_per_token", 0.0) * len(ids))

    def step(self, token: int) -> None:
        self._take(1, self.spec.get("step_ms", 1.0))

    def set_threads(self, threads: int) -> None:
        self.spec = {**self.spec, "step_ms": self.spec.get("step_ms", 1.0) * (1 + 1 / threads)}

    def _take(self, tokens: int, milliseconds: float) -> None:
        self.seen += tokens
        if self.spec.get("fails_at", self.seen + 1) <= self.seen:
            raise ValueError("the fake arm was told to fail")
        if not self.spec.get("safe") and self.spec.get("die_at", self.seen + 1) <= self.seen:
            os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(1e-3 * milliseconds)


def open_arm(spec: dict[str, Any], threads: int) -> FakeArm:
    """See `FakeArm`."""
    return FakeArm(spec)
