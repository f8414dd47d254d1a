"""What the benchmarks share: the machine's description, its copy bandwidth, timing of a captured graph, JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

__all__ = ["Captured", "copy_bandwidth", "kernel_times", "machine", "note", "summary", "time_calls", "write_json"]

WARM_UP = 3
PACKAGES = ("torch", "transformers", "triton", "numpy")


def note(text: str) -> None:
    """A line of progress, with the time since the process began to import this module."""
    print(f"[{time.perf_counter() - _STARTED:7.1f} s] {text}", flush=True)


_STARTED = time.perf_counter()


def machine(device: torch.device) -> dict[str, Any]:
    """GPU, driver and versions; on the CPU its name instead."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    if device.type != "cuda":
        return {"gpu": None, "cpu": platform.processor() or platform.machine(), **found}
    properties = torch.cuda.get_device_properties(device)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True, check=False).stdout.split("\n")[0].strip()
    return {
        "gpu": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "driver": driver or None,
        "cuda": torch.version.cuda,
        **found,
    }


class Captured:
    """A function as one CUDA graph; on the CPU the function itself.

    It runs WARM_UP times before the capture, which records it without running it.
    """

    def __init__(self, function: Callable[[], Any], device: torch.device) -> None:
        self.device, self._function = device, function
        self._graph: torch.cuda.CUDAGraph | None = None
        if device.type != "cuda":
            return
        ahead = torch.cuda.Stream(device)
        ahead.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(ahead):
            for _ in range(WARM_UP):
                function()
        torch.cuda.current_stream(device).wait_stream(ahead)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            function()

    def __call__(self) -> None:
        if self._graph is None:
            self._function()
        else:
            self._graph.replay()


def time_calls(function: Callable[[], Any], repeats: int, device: torch.device) -> list[float]:
    """Milliseconds of each of `repeats` calls, after WARM_UP others; on a GPU between events on its stream."""
    for _ in range(WARM_UP):
        function()
    if device.type != "cuda":
        spent = []
        for _ in range(repeats):
            started = time.perf_counter()
            function()
            spent.append(1e3 * (time.perf_counter() - started))
        return spent
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(repeats + 1)]
    torch.cuda.synchronize(device)
    marks[0].record()
    for mark in marks[1:]:
        function()
        mark.record()
    torch.cuda.synchronize(device)
    return [before.elapsed_time(after) for before, after in pairwise(marks)]


def kernel_times(function: Callable[[], Any], repeats: int = 3) -> list[dict[str, Any]]:
    """Kernels of one call on the GPU: name, calls, and microseconds of each on the mean; those that cost most first.

    A kernel that starts before the one ahead of it has ended (programmatic dependent launch) counts its wait as well,
    and streams beside each other both count: the sum may exceed the call's time.
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            function()
        torch.cuda.synchronize()
    spent: dict[str, list[float]] = {}
    for event in profiler.events():
        spent.setdefault(event.name, []).append(event.device_time)
    rows = [
        {"kernel": name, "calls": len(times) / repeats, "microseconds": round(statistics.fmean(times), 3)}
        for name, times in spent.items()
    ]
    return sorted(rows, key=lambda row: -row["calls"] * row["microseconds"])


def summary(times: Iterable[float], digits: int = 4) -> dict[str, float]:
    """Median and spread of repeated times, in their unit."""
    ordered = sorted(times)
    last = len(ordered) - 1
    picked = {
        "median": statistics.median(ordered),
        "p10": ordered[round(0.1 * last)],
        "p90": ordered[round(0.9 * last)],
    }
    return {**{name: round(x, digits) for name, x in picked.items()}, "repeats": len(ordered)}


def copy_bandwidth(device: torch.device, size: int = 2 << 30) -> float:
    """Bytes per second of a copy within the device's memory, those read and those written both counted."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = time_calls(lambda: target.copy_(source), 20, device)
    return 2 * size / (1e-3 * statistics.median(times))


def write_json(path: Path, data: Any) -> None:
    """Whole or not at all: a benchmark that is stopped leaves its last complete state."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".partial")
    beside.write_text(json.dumps(data, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(beside, path)
