"""A session's state by purpose. The parts add up to the state exactly."""

from __future__ import annotations

from dataclasses import dataclass

from retentive_export.spec.geometry import CacheGeometry, TensorSpec
from retentive_export.spec.plan import CachePlan

__all__ = ["StateBytes", "split_state"]

_EXACT = ("key_rows", "value_rows")
_COARSE = ("key_codes", "value_codes", "value_scale")
_LATENT = ("latent_codes",)
_BOOKKEEPING = ("row_meta", "importance", "entropy")


@dataclass(frozen=True, kw_only=True)
class StateBytes:
    """Bytes of a session's state.

    rows: keys, values and scales of local tokens. memory: of memory rows, with their masses, or the state matrices.
    bookkeeping: positions, cells and statistics of all rows.
    """

    rows: int
    memory: int
    bookkeeping: int

    @property
    def total(self) -> int:
        """All of it: `CachePlan.state_bytes`."""
        return self.rows + self.memory + self.bookkeeping


def split_state(plan: CachePlan) -> StateBytes:
    """The parts of a plan's state."""
    geometry = plan.geometry
    parts = {"rows": 0, "memory": 0, "bookkeeping": 0}
    for tensor in geometry.state():
        in_memory = _memory_bytes(tensor, geometry)
        parts["memory"] += in_memory
        parts["bookkeeping" if tensor.name in _BOOKKEEPING else "rows"] += tensor.nbytes - in_memory
    return StateBytes(**{name: plan.layers * size for name, size in parts.items()})


def _memory_bytes(tensor: TensorSpec, geometry: CacheGeometry) -> int:
    """Bytes of a tensor that belong to the memory: its rows in the store that has them, or what only the memory has."""
    if tensor.name in _BOOKKEEPING:
        return 0
    if tensor.name in _LATENT:
        return 0
    if tensor.name not in (*_EXACT, *_COARSE):
        return tensor.nbytes
    holds = tensor.name in {"exact": _EXACT, "coarse": _COARSE, "latent": ()}[geometry.memory_store]
    return tensor.nbytes // tensor.shape[2] * geometry.memory_rows if holds else 0
