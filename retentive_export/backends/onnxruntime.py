"""ONNX Runtime: state in preallocated buffers, each bound as input and as output, so that a step updates it in place.

Why this is right: in the graph every write of a state tensor depends on all reads of its old value (the pass
`order_reads_before_writes` adds the one edge that the maths does not have).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.backends.base import DecoderInputs
from retentive_export.errors import ArtifactError, InputError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest, TensorContract, read_manifest, verify_files

__all__ = ["OnnxRuntimeBackend"]

_DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int32": np.int32,
    "int64": np.int64,
}
FLAVOUR = "onnxruntime"


class OnnxRuntimeBackend:
    """An artifact opened with ONNX Runtime's CPU provider.

    Args:
        directory: the artifact.
        threads: intra-op threads; None leaves the choice to ONNX Runtime.
        verify: check the sha256 of every file that is loaded.

    Raises:
        ArtifactError: a file is missing or altered, or the artifact has no graph for this backend.
    """

    name = "onnxruntime"

    def __init__(self, directory: Path, *, threads: int | None = None, verify: bool = True) -> None:
        self.manifest: Manifest = read_manifest(directory)
        self._directory = directory
        self._threads = threads
        if FLAVOUR not in self.manifest.graphs:
            raise ArtifactError(f"the artifact has no graph for {FLAVOUR}; it has: {', '.join(self.manifest.graphs)}")
        if self.manifest.dtype not in _DTYPES:
            raise ArtifactError(
                f"{self.manifest.name} is in {self.manifest.dtype}, which ONNX Runtime's CPU provider does not compute",
                hint="build it for the target cpu, with --set model.dtype=float32 or float16",
            )
        if verify:
            verify_files(directory, self.manifest)
        self._plan = self.manifest.plan()
        contract = self.manifest.contract["decoder"]
        self._state_in = [tensor for tensor in contract if tensor.role == "state_in"]
        self._inputs = {tensor.name: tensor for tensor in contract if tensor.role == "input"}
        self._session = self._open(self.manifest.graphs[FLAVOUR])
        self._vision: Any = None
        self._allocate(contract)
        self.reset()

    def _open(self, name: str) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        return ort.InferenceSession(str(self._directory / name), options, providers=["CPUExecutionProvider"])

    def _allocate(self, contract: list[TensorContract]) -> None:
        """Buffers of state, logits and step inputs, and one binding of the constant ones."""
        import onnxruntime as ort

        self._buffers: dict[str, Array] = {}
        self._binding = self._session.io_binding()
        self._values: list[Any] = []
        aliases = {tensor.alias: tensor.name for tensor in contract if tensor.role == "state_out"}
        for tensor in self._state_in:
            buffer = np.zeros([int(n) for n in tensor.shape], _DTYPES[tensor.dtype])
            value = ort.OrtValue.ortvalue_from_numpy(buffer)
            self._values.append(value)
            self._buffers[tensor.name] = value.numpy()
            self._binding.bind_ortvalue_input(tensor.name, value)
            self._binding.bind_ortvalue_output(aliases[tensor.name], value)
        geometry = self._plan.geometry
        self._logits = np.zeros((geometry.batch, 1, self.manifest.text.vocab), np.float32)
        _bind(self._binding.bind_output, "logits", self._logits, self._logits.shape)
        self._staging = {
            name: np.zeros([geometry.chunk if n == "T" else int(n) for n in tensor.shape], _DTYPES[tensor.dtype])
            for name, tensor in self._inputs.items()
        }

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def step(self, inputs: DecoderInputs) -> Array:
        """See `Backend.step`."""
        steps = inputs.input_ids.shape[1]
        if not 1 <= steps <= self._plan.geometry.chunk:
            raise InputError(f"a step of {steps} tokens: the graph takes 1 to {self._plan.geometry.chunk}")
        for name, tensor in self._inputs.items():
            given = getattr(inputs, name)
            shape = tuple(steps if n == "T" else int(n) for n in tensor.shape)
            buffer = self._staging[name].reshape(-1)[: int(np.prod(shape))].reshape(shape)
            if given is None:
                buffer.fill(0)
            elif given.shape != shape:
                raise InputError(f"{name} has shape {given.shape}, and the graph takes {shape}")
            else:
                np.copyto(buffer, given, casting="same_kind")
            _bind(self._binding.bind_input, name, buffer, shape)
        self._session.run_with_iobinding(self._binding)
        return self._logits

    def encode(self, frames: Array) -> tuple[Array, Array | None]:
        """See `Backend.encode`."""
        layout = self.manifest.vision
        if layout is None or self.manifest.vision_graph is None:
            raise InputError(f"{self.manifest.name} is a text-only model: it takes no frames")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*layout.frame, 3):
            raise InputError(
                f"frames are {frames.dtype} {list(frames.shape)}, and the vision graph takes uint8 "
                f"[N, {layout.frame[0]}, {layout.frame[1]}, 3]",
                hint="resize the picture (run --resize does), or build with --set model.frame=[height,width]",
            )
        if self._vision is None:
            self._vision = self._open(self.manifest.vision_graph)
        per_frame = [self._vision.run(None, {"frames": frame[None]}) for frame in frames]
        outputs = [np.concatenate(parts) for parts in zip(*per_frame, strict=True)]
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def reset(self) -> None:
        """See `Backend.reset`."""
        fills = {spec.name: spec.fill for spec in self._plan.geometry.state()}
        for name, buffer in self._buffers.items():
            buffer.fill(fills[name.split(".")[-1]])

    def state(self) -> dict[str, Array]:
        """See `Backend.state`."""
        return {name: buffer.copy() for name, buffer in self._buffers.items()}

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """See `Backend.load_state`.

        Raises:
            InputError: a tensor is missing, has another shape or dtype, or is not finite; the state stays as it was.
        """
        for name, buffer in self._buffers.items():
            given = tensors.get(name)
            if given is None:
                raise InputError(f"the state lacks {name!r}: it was saved from another artifact")
            if given.shape != buffer.shape or given.dtype != buffer.dtype:
                raise InputError(
                    f"state {name!r} is {given.dtype} {list(given.shape)}, and this artifact's is "
                    f"{buffer.dtype} {list(buffer.shape)}"
                )
            if given.dtype.kind == "f" and not np.isfinite(given).all():
                raise InputError(f"state {name!r} holds NaN or infinity")
        for name, buffer in self._buffers.items():
            np.copyto(buffer, tensors[name])


def _bind(bind: Any, name: str, array: Array, shape: tuple[int, ...]) -> None:
    bind(name, "cpu", 0, array.dtype, list(shape), array.ctypes.data)
