"""State in preallocated buffers on one device, each bound as input and as output, so that a step updates it in place.

Why this is right: in the graph every write of a state tensor depends on all reads of its old value (the pass
`order_reads_before_writes` adds the edges that the maths does not have). ONNX Runtime starts a node only after the
nodes that it depends on; CUDA nodes and copies between CPU and device go to one stream, which keeps that order.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from retentive_export.backends.onnxruntime_provider import Place
from retentive_export.errors import InputError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import TensorContract

__all__ = ["DTYPES", "StateBuffers"]

DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
}


class StateBuffers:
    """The state tensors of one session, allocated once.

    Args:
        contract: the decoder's tensors; those of role state_in and state_out are used.
        fills: kind of tensor (`row_meta`) -> the value that fills it when the state is empty.
        place: the device that holds them.
    """

    def __init__(self, contract: Sequence[TensorContract], fills: Mapping[str, int], place: Place) -> None:
        import onnxruntime as ort

        self._tensors = {tensor.name: tensor for tensor in contract if tensor.role == "state_in"}
        self._outputs = {tensor.alias: tensor.name for tensor in contract if tensor.role == "state_out"}
        self._fills = fills
        self._place = place
        self._values = {
            name: ort.OrtValue.ortvalue_from_numpy(self._empty(tensor), place.provider, place.device_id)
            for name, tensor in self._tensors.items()
        }

    def _empty(self, tensor: TensorContract) -> Array:
        """An empty state's tensor, on the host."""
        shape, fill = [int(n) for n in tensor.shape], self._fills[tensor.name.split(".")[-1]]
        dtype = DTYPES[tensor.dtype]
        return np.full(shape, fill, dtype) if fill else np.zeros(shape, dtype)

    def bind(self, binding: Any) -> None:
        """Bind every buffer as input and as output, once and for all."""
        for name, value in self._values.items():
            binding.bind_ortvalue_input(name, value)
            binding.bind_ortvalue_output(self._outputs[name], value)

    def rebind(self, binding: Any) -> None:
        """Before every step. An input whose first reader runs on another device is copied there when it is bound; bound
        once, every step would read that first copy. Where no copy is needed, this costs half a microsecond a tensor."""
        if self._place.provider != "cpu":
            for name, value in self._values.items():
                binding.bind_ortvalue_input(name, value)

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(
            math.prod(value.shape()) * np.dtype(DTYPES[self._tensors[name].dtype]).itemsize
            for name, value in self._values.items()
        )

    def addresses(self) -> dict[str, int]:
        """Where each buffer lies on its device."""
        return {name: value.data_ptr() for name, value in self._values.items()}

    def reset(self) -> None:
        """Fill every buffer with its empty value, in place."""
        empty: dict[tuple[Any, ...], Array] = {}
        for name, tensor in self._tensors.items():
            kind = (name.split(".")[-1], *tensor.shape)
            if kind not in empty:
                empty[kind] = self._empty(tensor)
            self._values[name].update_inplace(empty[kind])

    def read(self) -> dict[str, Array]:
        """Copies of all tensors."""
        return {name: value.numpy().copy() for name, value in self._values.items()}

    def write(self, tensors: Mapping[str, Array]) -> None:
        """Replace all tensors, in place.

        Raises:
            InputError: a tensor is missing, has another shape or dtype, or is not finite; the state stays as it was.
        """
        for name, tensor in self._tensors.items():
            given, dtype = tensors.get(name), np.dtype(DTYPES[tensor.dtype])
            if given is None:
                raise InputError(f"the state lacks {name!r}: it was saved from another artifact")
            if list(given.shape) != tensor.shape or given.dtype != dtype:
                raise InputError(
                    f"state {name!r} is {given.dtype} {list(given.shape)}, and this artifact's is "
                    f"{dtype} {tensor.shape}"
                )
            if given.dtype.kind == "f" and not np.isfinite(given).all():
                raise InputError(f"state {name!r} holds NaN or infinity")
        for name, value in self._values.items():
            value.update_inplace(np.ascontiguousarray(tensors[name]))
