"""ONNX Runtime, on the CPU or with its CUDA provider: the artifact's graphs as they are, state updated in place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from retentive_export.backends.base import DecoderInputs
from retentive_export.backends.onnxruntime_provider import Place, open_session
from retentive_export.backends.onnxruntime_state import DTYPES, StateBuffers
from retentive_export.errors import ArtifactError, InputError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest, TensorContract, read_manifest, verify_files

__all__ = ["OnnxRuntimeBackend"]

FLAVOUR = "onnxruntime"


class OnnxRuntimeBackend:
    """An artifact opened with ONNX Runtime.

    Args:
        directory: the artifact.
        provider: "cpu" or "cuda"; with "cuda" the state stays on the device.
        device_id: number of the CUDA device.
        tf32: let CUDA round float32 factors to 10 bits: faster, and outside the artifact's thresholds.
        threads: intra-op threads; None leaves the choice to ONNX Runtime.
        verify: check the sha256 of every file that is loaded.
        denormals_as_zero: an empty row's share of the attention is a denormal number, which a CPU multiplies slowly: a
            cache that is far from full decodes up to 15 % and prefills up to a third faster with them as zeros. Off by
            default: ONNX Runtime changes the arithmetic of the calling thread for good.

    Raises:
        ArtifactError: a file is missing or altered, or the artifact has no graph for this backend.
        MissingExtraError: CUDA was asked for, and the installed ONNX Runtime or its libraries lack it.
        RecipeError: an unknown provider, or a device that cannot be opened.
    """

    name = "onnxruntime"

    def __init__(
        self,
        directory: Path,
        *,
        provider: Literal["cpu", "cuda"] = "cpu",
        device_id: int = 0,
        tf32: bool = False,
        threads: int | None = None,
        verify: bool = True,
        denormals_as_zero: bool = False,
    ) -> None:
        self.place = Place(provider=provider, device_id=device_id, tf32=tf32)
        self.manifest: Manifest = read_manifest(directory)
        self._directory = directory
        self._threads = threads
        self._denormals_as_zero = denormals_as_zero
        if FLAVOUR not in self.manifest.graphs:
            raise ArtifactError(f"the artifact has no graph for {FLAVOUR}; it has: {', '.join(self.manifest.graphs)}")
        if self.manifest.dtype not in DTYPES:
            raise ArtifactError(
                f"{self.manifest.name} is in {self.manifest.dtype}, which ONNX Runtime's {provider.upper()} provider "
                "does not compute",
                hint="build it for the target cpu, with --set model.dtype=float32 or float16",
            )
        if verify:
            verify_files(directory, self.manifest)
        self._plan = self.manifest.plan()
        contract = self.manifest.contract["decoder"]
        self._inputs = {tensor.name: tensor for tensor in contract if tensor.role == "input"}
        self._session = self._open(self.manifest.graphs[FLAVOUR])
        self._vision: Any = None
        self._allocate(contract)

    def _open(self, name: str) -> Any:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if self._threads:
            options.intra_op_num_threads = self._threads
        if self._denormals_as_zero:
            options.add_session_config_entry("session.set_denormal_as_zero", "1")
        return open_session(self._directory / name, self.place, options)

    def _allocate(self, contract: list[TensorContract]) -> None:
        """Buffers of state, logits and step inputs, and one binding of the constant ones.

        Logits and step inputs lie on the host; ONNX Runtime copies them from and to the device.
        """
        self._binding = self._session.io_binding()
        fills = {spec.name: spec.fill for spec in self._plan.geometry.state()}
        self._state = StateBuffers(contract, fills, self.place)
        self._state.bind(self._binding)
        self.reset()  # a fresh page takes its memory when it is first written: now, not in a step
        geometry = self._plan.geometry
        self._logits = np.zeros((geometry.batch, 1, self.manifest.text.vocab), np.float32)
        _bind(self._binding.bind_output, "logits", self._logits, self._logits.shape)
        self._staging = {
            name: np.zeros([geometry.chunk if n == "T" else int(n) for n in tensor.shape], DTYPES[tensor.dtype])
            for name, tensor in self._inputs.items()
        }

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's buffers."""
        return self._state.nbytes

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
        self._state.rebind(self._binding)
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
        self._state.reset()

    def state(self) -> dict[str, Array]:
        """See `Backend.state`."""
        return self._state.read()

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """See `Backend.load_state`.

        Raises:
            InputError: a tensor is missing, has another shape or dtype, or is not finite; the state stays as it was.
        """
        self._state.write(tensors)


def _bind(bind: Any, name: str, array: Array, shape: tuple[int, ...]) -> None:
    bind(name, "cpu", 0, array.dtype, list(shape), array.ctypes.data)
