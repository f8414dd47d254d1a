"""Measured decode speed beside the prediction: the JSON that benchmarks/decode_loop.py writes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export.errors import InputError

__all__ = ["MeasuredArm", "read_measured"]


@dataclass(frozen=True, kw_only=True)
class MeasuredArm:
    """One arm of a measurement.

    name: such as "full" or "20% rows". cache_bytes, moved_bytes: of one step. milliseconds: median per token.
    """

    name: str
    batch: int
    context: int
    cache_bytes: int
    moved_bytes: int
    milliseconds: float

    def predicted_milliseconds(self, bandwidth: float, efficiency: float) -> float:
        """Per step, from its bytes, GB/s and the share of them that is reached."""
        return 1e3 * self.moved_bytes / (efficiency * bandwidth * 1e9)

    def efficiency(self, bandwidth: float) -> float:
        """The share of the bandwidth that was reached: what a prediction should have assumed."""
        return 1e3 * self.moved_bytes / (self.milliseconds * bandwidth * 1e9)


def read_measured(path: str | Path) -> tuple[str, tuple[MeasuredArm, ...]]:
    """The model's shape by name, and the arms.

    Raises:
        InputError: the file is not a result of decode_loop.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        return str(data["shape"]["name"]), tuple(_arm(one) for one in data["arms"])
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{path} is not a result of decode_loop: {error!r}",
            hint="python -m benchmarks.decode_loop --out FILE writes one",
        ) from None


def _arm(data: dict[str, Any]) -> MeasuredArm:
    return MeasuredArm(
        name=str(data["arm"]),
        batch=int(data["batch"]),
        context=int(data["context"]),
        cache_bytes=int(data["cache_bytes"]),
        moved_bytes=int(data["moved_bytes"]),
        milliseconds=float(data["ms_per_token"]["median"]),
    )
