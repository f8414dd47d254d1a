"""The part of `cuda.bindings.runtime` that the backends use, on host memory.

What is queued runs when the stream is synchronised and not before; what is captured runs when its graph is launched;
fresh memory is poisoned. A session that forgets to wait, or reads what nothing has written, computes nonsense.
"""

from __future__ import annotations

import ctypes
import enum
from collections.abc import Callable
from typing import Any

Work = Callable[[], None]
POISON = 0xA5
ALIGNMENT = 256


class Error(enum.IntEnum):
    cudaSuccess = 0
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class CopyKind(enum.IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class Attribute(enum.IntEnum):
    cudaDevAttrComputeCapabilityMajor = 0
    cudaDevAttrComputeCapabilityMinor = 1


class CaptureMode(enum.IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class FakeCuda:
    """One device of one compute capability, with as many streams as are asked for.

    memory: address -> bytes, of device allocations that were not freed. captures, launches: of graphs.
    """

    cudaError_t = Error
    cudaMemcpyKind = CopyKind
    cudaDeviceAttr = Attribute
    cudaStreamCaptureMode = CaptureMode
    cudaStreamNonBlocking = 1
    cudaHostAllocDefault = 0

    def __init__(self, capability: tuple[int, int] = (8, 6), limit: int = 1 << 32) -> None:
        self.capability, self.limit = capability, limit
        self.memory: dict[int, int] = {}
        self.pages: dict[int, int] = {}
        self.queues: dict[int, list[Work]] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.recording: list[Work] | None = None
        self.captures = self.launches = self.allocations = 0
        self._kept: list[Any] = []  # freed memory too: what writes there later must not hit the test

    def _fresh(self, nbytes: int) -> int:
        buffer = (ctypes.c_uint8 * (nbytes + ALIGNMENT))()
        ctypes.memset(buffer, POISON, nbytes + ALIGNMENT)
        self._kept.append(buffer)
        return -(-ctypes.addressof(buffer) // ALIGNMENT) * ALIGNMENT

    def _holds(self, address: int, nbytes: int) -> bool:
        return any(start <= address and address + nbytes <= start + size for start, size in self.memory.items())

    def enqueue(self, stream: int, work: Work) -> None:
        """Queue work, or record it."""
        (self.queues[stream] if self.recording is None else self.recording).append(work)

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        return Error.cudaSuccess, 1

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        return (Error.cudaSuccess if device == 0 else Error.cudaErrorInvalidDevice,)

    def cudaDeviceGetAttribute(self, attribute: Attribute, device: int) -> tuple[Any, ...]:
        return Error.cudaSuccess, self.capability[attribute]

    def cudaGetErrorString(self, error: Error) -> tuple[Any, ...]:
        return Error.cudaSuccess, error.name.encode()

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        stream = 7000 + len(self.queues)
        self.queues[stream] = []
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        del self.queues[stream]
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if self.recording is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        work, self.queues[stream] = self.queues[stream], []
        for each in work:
            each()
        return (Error.cudaSuccess,)

    def cudaMalloc(self, nbytes: int) -> tuple[Any, ...]:
        if sum(self.memory.values()) + nbytes > self.limit:
            return Error.cudaErrorMemoryAllocation, 0
        address = self._fresh(nbytes)
        self.memory[address] = nbytes
        self.allocations += 1
        return Error.cudaSuccess, address

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return (Error.cudaSuccess,)

    def cudaHostAlloc(self, nbytes: int, flags: int) -> tuple[Any, ...]:
        address = self._fresh(nbytes)
        self.pages[address] = nbytes
        return Error.cudaSuccess, address

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.pages[address]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind: CopyKind, stream: int) -> tuple[Any, ...]:
        device = to if kind == CopyKind.cudaMemcpyHostToDevice else source
        if not self._holds(device, nbytes):
            return (Error.cudaErrorIllegalAddress,)
        self.enqueue(stream, lambda: ctypes.memmove(to, source, nbytes))  # type: ignore[func-returns-value]
        return (Error.cudaSuccess,)

    def cudaMemsetAsync(self, address: int, byte: int, nbytes: int, stream: int) -> tuple[Any, ...]:
        if not self._holds(address, nbytes):
            return (Error.cudaErrorIllegalAddress,)
        self.enqueue(stream, lambda: ctypes.memset(address, byte, nbytes))  # type: ignore[func-returns-value]
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: CaptureMode) -> tuple[Any, ...]:
        self.recording = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        recorded, self.recording = self.recording, None
        return (Error.cudaSuccess, recorded) if recorded else (Error.cudaErrorStreamCaptureInvalidated, None)

    def cudaGraphInstantiate(self, recorded: list[Work], flags: int) -> tuple[Any, ...]:
        self.captures += 1
        self.graphs[self.captures] = recorded
        return Error.cudaSuccess, self.captures

    def cudaGraphDestroy(self, recorded: list[Work]) -> tuple[Any, ...]:
        return (Error.cudaSuccess,)

    def cudaGraphLaunch(self, graph: int, stream: int) -> tuple[Any, ...]:
        self.launches += 1
        self.queues[stream].extend(self.graphs[graph])
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, graph: int) -> tuple[Any, ...]:
        del self.graphs[graph]
        return (Error.cudaSuccess,)
