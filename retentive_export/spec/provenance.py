"""What a result or an artifact says of where it was made: processor, commit, versions. Torch-free."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

__all__ = ["commit", "processor", "versions"]


def processor() -> str:
    """The processor's name."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """Of the checkout that this package lies in, with a + where files differ from it; None outside of one."""
    root = Path(__file__).resolve().parents[2]
    ask = ["git", "-C", str(root), "describe", "--always", "--abbrev=7", "--dirty=+", "--exclude=*"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout.strip() or None


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Package -> version, of those that are installed."""
    found = {}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
