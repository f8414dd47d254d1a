"""Copy bandwidth of the machine's memory, with the number of threads that the arms have."""

from __future__ import annotations

import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

__all__ = ["copy_bandwidth"]

BYTES = 1 << 29
REPEATS = 7


def copy_bandwidth(threads: int, size: int = BYTES, repeats: int = REPEATS) -> float:
    """Bytes per second of a copy of `size` bytes, those read and those written both counted; median of `repeats`."""
    source, target = np.ones(size, np.uint8), np.ones(size, np.uint8)
    bounds = np.linspace(0, size, threads + 1).astype(int)
    parts = [(target[a:b], source[a:b]) for a, b in pairwise(bounds)]
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(repeats):
            started = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(*pair), parts))
            times.append(time.perf_counter() - started)
    return 2 * size / statistics.median(times)
