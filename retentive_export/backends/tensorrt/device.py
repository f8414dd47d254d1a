"""The little of CUDA that a session needs: memory, one stream, graphs.

Behind a protocol, so that sessions can be tested on a machine without a GPU.
"""

from __future__ import annotations

import ctypes
import importlib.util
import weakref
from typing import Any, Protocol

import numpy as np

from retentive_export.errors import DeviceError, MissingExtraError
from retentive_export.spec.arrays import Array

__all__ = ["CudaDevice", "Device", "compute_capability"]


class Device(Protocol):
    """A device, and one stream on it. Copies and fills are queued on the stream; memory lives as long as the device."""

    stream: int

    def allocate(self, nbytes: int) -> int:
        """Address of new device memory."""

    def pinned(self, nbytes: int) -> Array:
        """Page-locked host memory, uint8 [nbytes], which copies may read and write while the host goes on."""

    def copy_in(self, address: int, array: Array) -> None:
        """Host to device: all bytes of a contiguous uint8 array."""

    def copy_out(self, array: Array, address: int) -> None:
        """Device to host."""

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        """Set every byte."""

    def synchronize(self) -> None:
        """Wait for everything that was queued."""

    def begin_capture(self) -> None:
        """Record what is queued from here on instead of running it."""

    def end_capture(self) -> Any:
        """A graph of what was recorded."""

    def launch(self, graph: Any) -> None:
        """Queue a graph."""


def _runtime() -> Any:
    """The module `cuda.bindings.runtime`.

    Raises:
        MissingExtraError: it is not installed.
    """
    if importlib.util.find_spec("cuda") is None or importlib.util.find_spec("cuda.bindings") is None:
        raise MissingExtraError.of("cuda-bindings", "cuda")
    from cuda.bindings import runtime

    return runtime


def _call(cuda: Any, function: Any, *arguments: Any) -> Any:
    """Call, and return what comes behind the status: nothing, one value, or a tuple.

    Raises:
        DeviceError: the status is not success.
    """
    status, *values = function(*arguments)
    if status != cuda.cudaError_t.cudaSuccess:
        text = cuda.cudaGetErrorString(status)[1]
        raise DeviceError(f"{function.__name__}: {text.decode() if isinstance(text, bytes) else text} ({int(status)})")
    return values[0] if len(values) == 1 else tuple(values) or None


def compute_capability(device_id: int = 0) -> tuple[int, int]:
    """Compute capability of a GPU, such as (8, 7).

    Raises:
        MissingExtraError: cuda-bindings is not installed. DeviceError: there is no such GPU.
    """
    cuda = _runtime()
    try:
        count = int(_call(cuda, cuda.cudaGetDeviceCount))
    except DeviceError as error:
        raise DeviceError(
            f"no GPU can be used here: {error.message}",
            hint="nvidia-smi shows GPU and driver; the backend onnxruntime runs on the CPU",
        ) from None
    if not 0 <= device_id < count:
        raise DeviceError(f"device_id is {device_id}, and this machine has {count} GPUs, numbered from 0")
    attribute = cuda.cudaDeviceAttr
    numbers = (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
    major, minor = (int(_call(cuda, cuda.cudaDeviceGetAttribute, number, device_id)) for number in numbers)
    return major, minor


class CudaDevice:
    """A GPU through cuda-bindings. One instance belongs to one thread.

    Raises:
        MissingExtraError, DeviceError: see `compute_capability`.
    """

    def __init__(self, device_id: int = 0) -> None:
        self.compute_capability = compute_capability(device_id)
        self._cuda = cuda = _runtime()
        _call(cuda, cuda.cudaSetDevice, device_id)
        self.stream = int(_call(cuda, cuda.cudaStreamCreateWithFlags, cuda.cudaStreamNonBlocking))
        self._memory: list[int] = []
        self._pages: list[int] = []
        self._graphs: list[Any] = []
        weakref.finalize(self, _release, cuda, self.stream, self._memory, self._pages, self._graphs)

    def allocate(self, nbytes: int) -> int:
        """See `Device`."""
        address = int(_call(self._cuda, self._cuda.cudaMalloc, nbytes))
        self._memory.append(address)
        return address

    def pinned(self, nbytes: int) -> Array:
        """See `Device`."""
        address = int(_call(self._cuda, self._cuda.cudaHostAlloc, nbytes, self._cuda.cudaHostAllocDefault))
        self._pages.append(address)
        memory: Any = (ctypes.c_uint8 * nbytes).from_address(address)
        memory.device = self  # an array of it keeps the device, and so the memory
        return np.frombuffer(memory, np.uint8)

    def copy_in(self, address: int, array: Array) -> None:
        """See `Device`."""
        self._copy(address, array.ctypes.data, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice)

    def copy_out(self, array: Array, address: int) -> None:
        """See `Device`."""
        self._copy(array.ctypes.data, address, array.nbytes, self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost)

    def _copy(self, to: int, source: int, nbytes: int, kind: Any) -> None:
        _call(self._cuda, self._cuda.cudaMemcpyAsync, to, source, nbytes, kind, self.stream)

    def fill(self, address: int, byte: int, nbytes: int) -> None:
        """See `Device`."""
        _call(self._cuda, self._cuda.cudaMemsetAsync, address, byte, nbytes, self.stream)

    def synchronize(self) -> None:
        """See `Device`."""
        _call(self._cuda, self._cuda.cudaStreamSynchronize, self.stream)

    def begin_capture(self) -> None:
        """See `Device`."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _call(self._cuda, self._cuda.cudaStreamBeginCapture, self.stream, mode)

    def end_capture(self) -> Any:
        """See `Device`."""
        recorded = _call(self._cuda, self._cuda.cudaStreamEndCapture, self.stream)
        graph = _call(self._cuda, self._cuda.cudaGraphInstantiate, recorded, 0)
        _call(self._cuda, self._cuda.cudaGraphDestroy, recorded)
        self._graphs.append(graph)
        return graph

    def launch(self, graph: Any) -> None:
        """See `Device`."""
        _call(self._cuda, self._cuda.cudaGraphLaunch, graph, self.stream)


def _release(cuda: Any, stream: int, memory: list[int], pages: list[int], graphs: list[Any]) -> None:
    """Give everything back. At the end of the process the driver may have gone already: statuses do not matter."""
    cuda.cudaStreamSynchronize(stream)
    for graph in graphs:
        cuda.cudaGraphExecDestroy(graph)
    for address in memory:
        cuda.cudaFree(address)
    for page in pages:
        cuda.cudaFreeHost(page)
    cuda.cudaStreamDestroy(stream)
