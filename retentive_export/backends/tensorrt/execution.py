"""One engine on one device: its contexts, its buffers, and a step of T tokens.

Decode (T = 1) and prefill have an execution context each, because a captured CUDA graph belongs to its context's state;
the two never run at once, and share one block of scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from retentive_export.backends.base import DecoderInputs
from retentive_export.backends.checks import step_inputs
from retentive_export.backends.tensorrt.buffers import ALIGNMENT, plan_arena, state_addresses, to_bytes, to_host
from retentive_export.backends.tensorrt.device import Device
from retentive_export.errors import DeviceError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import TensorContract

__all__ = ["Context", "Decoder", "Encoder"]

Why = Callable[[], str]
"""The last complaint of TensorRT's log."""


class Context:
    """An execution context whose buffers are bound once.

    Args:
        context: an `IExecutionContext` on the profile that it stays on.
        addresses: of every input and output. inputs, outputs: host copies of those that a step moves, uint8 arrays
            in page-locked memory at the largest T. graph: record a CUDA graph in the second run and replay it from
            then on; another shape discards it.
    """

    def __init__(
        self,
        context: Any,
        device: Device,
        addresses: dict[str, int],
        inputs: dict[str, Array],
        outputs: dict[str, Array],
        *,
        graph: bool,
        why: Why,
    ) -> None:
        self._context, self._device, self._addresses = context, device, addresses
        self._inputs, self._outputs = inputs, outputs
        self._wants_graph, self._why = graph, why
        self._graph: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._runs = 0
        for name, address in addresses.items():
            self._check(context.set_tensor_address(name, address), f"take the address of {name}")

    def run(self, shapes: dict[str, tuple[int, ...]], sizes: dict[str, int]) -> None:
        """Copy the first `sizes[name]` bytes of every moved input, compute, copy the outputs, wait.

        Raises:
            DeviceError: TensorRT or CUDA refuses.
        """
        for name, shape in shapes.items():
            if self._shapes.get(name) != shape:
                self._check(self._context.set_input_shape(name, shape), f"take {name} of shape {list(shape)}")
                self._shapes[name], self._graph, self._runs = shape, None, 0
        # The first run lets TensorRT settle what it puts off until then, which a capture must not hold.
        if self._graph is None and self._wants_graph and self._runs > 0 and self._capturable():
            self._graph = self._capture(sizes)
        if self._graph is None:
            self._enqueue(sizes)
        else:
            self._device.launch(self._graph)
        self._device.synchronize()
        self._runs += 1

    def _capture(self, sizes: dict[str, int]) -> Any:
        self._device.begin_capture()
        try:
            self._enqueue(sizes)
        except DeviceError:
            with suppress(DeviceError):  # the stream must leave the capture; the first error is the one to tell
                self._device.end_capture()
            raise
        return self._device.end_capture()

    def _enqueue(self, sizes: dict[str, int]) -> None:
        for name, nbytes in sizes.items():
            self._device.copy_in(self._addresses[name], self._inputs[name][:nbytes])
        self._check(self._context.execute_async_v3(self._device.stream), "run the engine")
        for name, array in self._outputs.items():
            self._device.copy_out(array, self._addresses[name])

    def _capturable(self) -> bool:
        """TensorRT-RTX tells whether its kernels are compiled; TensorRT has nothing to tell."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return ask is None or bool(ask(self._device.stream))

    def _check(self, done: bool, what: str) -> None:
        if not done:
            raise DeviceError(f"TensorRT cannot {what}: {self._why()}")


class Decoder:
    """State on the device, and steps on it.

    Args:
        contract: of the decoder. chunk: largest T. fills: state tensor -> the value of an empty one, 0 or -1.
        contexts: of decode and of prefill. scratch: bytes of memory that both may use.
    """

    def __init__(
        self,
        contract: Sequence[TensorContract],
        chunk: int,
        fills: dict[str, int],
        contexts: tuple[Any, Any],
        scratch: int,
        device: Device,
        *,
        cuda_graph: bool,
        why: Why,
    ) -> None:
        self._device, self._fills, self._chunk = device, fills, chunk
        self._tensors = [tensor for tensor in contract if tensor.role == "input"]
        self._moved = plan_arena([t for t in contract if t.role in ("input", "output")], chunk)
        self._state = plan_arena([tensor for tensor in contract if tensor.role == "state_in"])
        self._state_addresses = self._state.addresses(device.allocate(self._state.nbytes))
        addresses = self._moved.addresses(device.allocate(self._moved.nbytes)) | self._state_addresses
        addresses |= state_addresses(contract, self._state_addresses)
        pages = {name: device.pinned(slot.nbytes) for name, slot in self._moved.slots.items()}
        self._inputs = {tensor.name: pages[tensor.name] for tensor in self._tensors}
        outputs = {name: page for name, page in pages.items() if name not in self._inputs}
        self._logits = pages["logits"].view(np.float32).reshape(self._moved.slots["logits"].shape)
        memory = device.allocate(max(scratch, ALIGNMENT))
        for context in contexts:
            context.set_device_memory(memory, scratch)
        self._decode, self._prefill = (
            Context(context, device, addresses, self._inputs, outputs, graph=graph, why=why)
            for context, graph in zip(contexts, (cuda_graph, False), strict=True)
        )
        self.reset()

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's tensors."""
        return sum(slot.nbytes for slot in self._state.slots.values())

    def step(self, inputs: DecoderInputs) -> Array:
        """See `Backend.step`."""
        shapes, sizes = {}, {}
        for name, given, shape in step_inputs(inputs, self._tensors, self._chunk):
            slot = self._moved.slots[name]
            shapes[name], sizes[name] = shape, slot.nbytes // int(np.prod(slot.shape)) * int(np.prod(shape))
            self._inputs[name][: sizes[name]] = 0 if given is None else to_bytes(given, slot.dtype)
        context = self._decode if inputs.input_ids.shape[1] == 1 else self._prefill
        context.run(shapes, sizes)
        return self._logits

    def reset(self) -> None:
        """See `Backend.reset`."""
        for name, slot in self._state.slots.items():
            fill = self._fills[name.split(".")[-1]]
            assert fill in (0, -1)  # the same byte all over
            self._device.fill(self._state_addresses[name], fill & 0xFF, slot.nbytes)
        self._device.synchronize()

    def state(self) -> dict[str, Array]:
        """See `Backend.state`."""
        raw = {name: np.empty(slot.nbytes, np.uint8) for name, slot in self._state.slots.items()}
        for name, array in raw.items():
            self._device.copy_out(array, self._state_addresses[name])
        self._device.synchronize()
        return {name: to_host(raw[name], slot.dtype, slot.shape) for name, slot in self._state.slots.items()}

    def load_state(self, tensors: dict[str, Array]) -> None:
        """Replace the state by tensors that were checked."""
        raw = {name: to_bytes(tensors[name], slot.dtype) for name, slot in self._state.slots.items()}
        for name, array in raw.items():
            self._device.copy_in(self._state_addresses[name], array)
        self._device.synchronize()

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """State tensor -> shape, dtype."""
        return {name: (slot.shape, slot.dtype) for name, slot in self._state.slots.items()}


class Encoder:
    """The vision engine: one frame a run."""

    def __init__(self, contract: Sequence[TensorContract], context: Any, device: Device, *, why: Why) -> None:
        self._arena = plan_arena(contract)
        addresses = self._arena.addresses(device.allocate(self._arena.nbytes))
        pages = {name: device.pinned(slot.nbytes) for name, slot in self._arena.slots.items()}
        self._frame = pages.pop("frames")
        self._outputs = pages
        self._context = Context(context, device, addresses, {"frames": self._frame}, pages, graph=False, why=why)

    def __call__(self, frame: Array) -> tuple[Array, ...]:
        """frame [H, W, 3] uint8 -> visual_embeds [1, tokens, hidden] (, deep [1, layers, tokens, hidden])."""
        self._frame[:] = np.ascontiguousarray(frame).reshape(-1)
        self._context.run({}, {"frames": self._frame.nbytes})
        slots = self._arena.slots
        return tuple(to_host(page, slots[name].dtype, slots[name].shape) for name, page in self._outputs.items())
