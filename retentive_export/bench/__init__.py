"""Decode speed of artifacts, and of peers beside them: time per token against context, peak memory, the byte floor.

report = run_bench([Path("out/bounded"), Path("out/full")], BenchSettings(peers={"llama_cpp": sys.executable}))

Nothing is imported before it is asked for: a peer's worker runs under the peer's own interpreter.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retentive_export.bench.peers import PEERS
    from retentive_export.bench.plan import BenchSettings
    from retentive_export.bench.result import (
        Absent,
        ArmResult,
        BenchReport,
        Comparison,
        Group,
        Point,
        Spread,
        flatness,
    )
    from retentive_export.bench.run import run_bench

__all__ = [
    "PEERS",
    "Absent",
    "ArmResult",
    "BenchReport",
    "BenchSettings",
    "Comparison",
    "Group",
    "Point",
    "Spread",
    "flatness",
    "run_bench",
]

_HOMES = {"PEERS": "peers", "BenchSettings": "plan", "run_bench": "run"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'result')}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
