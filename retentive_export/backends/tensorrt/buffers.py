"""Which buffer lies where on the device, of which type, and how its bytes become arrays on the host.

State lies in one arena. `past.<layer>.<tensor>` and `present.<layer>.<tensor>` have one address: a step updates the
state in place, and nothing is copied between steps.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from retentive_export.backends.tensorrt.layers import FLAVOUR
from retentive_export.spec.arrays import Array
from retentive_export.spec.geometry import BYTES
from retentive_export.spec.manifest import TensorContract

__all__ = ["ALIGNMENT", "Arena", "Slot", "host_dtype", "plan_arena", "state_addresses", "to_bytes", "to_host"]

ALIGNMENT = 256
"""What TensorRT and the kernels ask of an address, in bytes."""

_HOST: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.float32,  # NumPy has no bfloat16; every one is a float32
    "int8": np.int8,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
}


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Place of one tensor: `offset` bytes from the arena's start. shape: at the largest T. dtype: as the host sees it;
    the device may call the same bytes by another name."""

    shape: tuple[int, ...]
    dtype: str
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class Arena:
    """Tensors in one allocation of `nbytes` bytes, each aligned."""

    slots: dict[str, Slot]
    nbytes: int

    def addresses(self, base: int) -> dict[str, int]:
        """Tensor -> address, when the arena starts at `base`."""
        return {name: base + slot.offset for name, slot in self.slots.items()}


def plan_arena(tensors: Iterable[TensorContract], chunk: int = 1) -> Arena:
    """Lay tensors out one behind the other, with room for T = chunk."""
    slots: dict[str, Slot] = {}
    end = 0
    for tensor in tensors:
        assert BYTES[tensor.dtype_in(FLAVOUR)] == BYTES[tensor.dtype]
        shape = tuple(chunk if isinstance(n, str) else n for n in tensor.shape)
        slots[tensor.name] = Slot(shape=shape, dtype=tensor.dtype, offset=end)
        end += -(-slots[tensor.name].nbytes // ALIGNMENT) * ALIGNMENT
    return Arena(slots=slots, nbytes=end)


def state_addresses(contract: Iterable[TensorContract], inputs: Mapping[str, int]) -> dict[str, int]:
    """Addresses of the state outputs: each has its input's."""
    return {tensor.name: inputs[tensor.alias] for tensor in contract if tensor.role == "state_out" and tensor.alias}


def host_dtype(dtype: str) -> Any:
    """NumPy's type for a tensor of type `dtype`; bfloat16 is float32 on the host."""
    return np.dtype(_HOST[dtype])


def to_bytes(array: Array, dtype: str) -> Array:
    """The tensor's bytes as the device has them, uint8 [nbytes]; float32 is rounded to the nearest bfloat16, ties to
    even.

    Raises:
        TypeError: the array's type cannot be cast safely, such as floats to integers.
    """
    values = np.ascontiguousarray(array.astype(_HOST[dtype], casting="same_kind", copy=False))
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        quiet = (bits >> 16) | 0x40  # rounding would carry some NaN over into infinity
        values = np.where(np.isnan(values), quiet, rounded).astype(np.uint16)
    return values.reshape(-1).view(np.uint8)


def to_host(raw: Array, dtype: str, shape: tuple[int, ...]) -> Array:
    """An array of its own from the tensor's bytes, uint8 [nbytes]."""
    if dtype == "bfloat16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    return raw.view(_HOST[dtype]).reshape(shape).copy()
