"""The machine and the versions that a measurement holds for."""

from __future__ import annotations

import os
import platform
from typing import Any

from retentive_export.spec.provenance import commit, processor, versions

__all__ = ["describe_machine"]


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory in bytes, load of the last minute, system, Python, this package's version and commit."""
    return {
        "cpu": processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
        "commit": commit(),
        "retentive-export": versions(["retentive-export"]).get("retentive-export", "unknown"),
    }
