"""What the benchmarks share, where a GPU is not needed to see it."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from benchmarks.measure import kernel_times


def test_kernel_times_are_means_per_call_the_costly_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two calls of a function with three short kernels and a long one."""
    calls = []

    @contextmanager
    def profile(activities):  # type: ignore[no-untyped-def]
        assert activities == [torch.profiler.ProfilerActivity.CUDA]
        yield SimpleNamespace(events=lambda: [event for _ in calls for event in events])

    events = [SimpleNamespace(name="short", device_time=time) for time in (1.0, 2.0, 3.0)]
    events.insert(1, SimpleNamespace(name="long", device_time=50.0))
    monkeypatch.setattr("torch.profiler.profile", profile)
    monkeypatch.setattr("torch.cuda.synchronize", lambda: None)
    assert kernel_times(lambda: calls.append(1), repeats=2) == [
        {"kernel": "long", "calls": 1.0, "microseconds": 50.0},
        {"kernel": "short", "calls": 3.0, "microseconds": 2.0},
    ]
    assert len(calls) == 2
