"""PyTorch: the artifact's checkpoint run by its own Hugging Face modules around the bounded decode loop.

On the CPU it computes the reference maths; on a GPU the CUDA kernels, a decode step captured into a CUDA graph. Of the
artifact's graphs it reads the key scales alone, so it checks an export against the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.backends.base import DecoderInputs
from retentive_export.errors import DeviceError, InputError, MissingExtraError, RecipeError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest, read_manifest, verify_files

__all__ = ["TorchBackend"]


class TorchBackend:
    """An artifact opened with PyTorch.

    Args:
        directory: the artifact; the checkpoint is the one that its recipe names.
        device: "cpu", "cuda" or "cuda:N".
        cuda_graph: capture the decode step; None: on a GPU.
        library: libretentive_plugins.so, with the CUDA kernels; None: where the package's build puts it.
        threads: PyTorch's threads in this whole process; None leaves them as they are.
        verify: check the sha256 of every file of the artifact.

    Raises:
        ArtifactError: a file is missing or altered. ModelError: the checkpoint cannot be read.
        RecipeError: an unknown device, or a CUDA graph on the CPU. DeviceError: a GPU that this machine does not have.
        MissingExtraError: torch or transformers is not installed, or the kernels' library is not built.
    """

    name = "torch"

    def __init__(
        self,
        directory: Path,
        *,
        device: str = "cpu",
        cuda_graph: bool | None = None,
        library: str | Path | None = None,
        threads: int | None = None,
        verify: bool = True,
    ) -> None:
        MissingExtraError.check("torch", "transformers", "onnx_ir", extra="export")
        import torch

        from retentive_export.backends import torch_decoder

        self.manifest: Manifest = read_manifest(directory)
        if verify:
            verify_files(directory, self.manifest)
        self._device, aside = torch_decoder.open_device(device, library)
        on_gpu = self._device.type == "cuda"
        if cuda_graph and not on_gpu:
            raise RecipeError(f"cuda_graph is set, and device is {device!r}: only a CUDA device has graphs")
        if threads:
            torch.set_num_threads(threads)
        self._adapter = torch_decoder.load_adapter(self.manifest, self._device)
        if on_gpu and self.manifest.plan().geometry.latent_rows:
            raise DeviceError(
                f"device is {device!r}, and the artifact has latent rows, for which there is no CUDA kernel",
                hint="--device cpu, or build with cache.rows.latent=null",
            )
        scales, bases = torch_decoder.read_constants(directory, self.manifest)
        self._inputs = {t.name: t for t in self.manifest.contract["decoder"] if t.role == "input"}
        self._loop = torch_decoder.DecodeLoop(
            *(self._adapter, self.manifest, self._device, scales, bases),
            cuda_graph=on_gpu if cuda_graph is None else cuda_graph,
            aside=aside,
        )
        self._vision: Any = None

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's buffers."""
        return sum(tensor.nbytes for layer in self._loop.state for tensor in layer.values())

    def step(self, inputs: DecoderInputs) -> Array:
        """See `Backend.step`."""
        import torch

        steps, chunk = inputs.input_ids.shape[1], self._loop.geometry.chunk
        if not 1 <= steps <= chunk:
            raise InputError(f"a step of {steps} tokens: the artifact takes 1 to {chunk}")
        given: dict[str, Any] = {}
        for name, tensor in self._inputs.items():
            array = getattr(inputs, name)
            shape = tuple(steps if n == "T" else int(n) for n in tensor.shape)
            if array is not None and array.shape != shape:
                raise InputError(f"{name} has shape {array.shape}, and the artifact takes {shape}")
            given[name] = None if array is None else torch.from_numpy(np.require(array, requirements=["C", "W"]))
        return self._loop.step(given).cpu().numpy()  # type: ignore[no-any-return]

    def encode(self, frames: Array) -> tuple[Array, Array | None]:
        """See `Backend.encode`; bfloat16 features come as float32, which NumPy has."""
        import torch

        from retentive_export.backends.torch_decoder import reference_convolutions

        layout = self.manifest.vision
        if layout is None:
            raise InputError(f"{self.manifest.name} is a text-only model: it takes no frames")
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[1:] != (*layout.frame, 3):
            raise InputError(
                f"frames are {frames.dtype} {list(frames.shape)}, and the vision model takes uint8 "
                f"[N, {layout.frame[0]}, {layout.frame[1]}, 3]",
                hint="resize the picture (run --resize does), or build with --set model.frame=[height,width]",
            )
        if self._vision is None:
            self._vision = self._adapter.vision_module(layout.frame).to(self._device)  # type: ignore[union-attr]
        parts: list[tuple[Array, ...]] = []
        with torch.no_grad(), reference_convolutions():
            for frame in frames:
                made = self._vision(torch.from_numpy(np.require(frame, requirements=["C", "W"]))[None].to(self._device))
                parts.append(tuple(_to_numpy(x) for x in (made if isinstance(made, tuple) else (made,))))
        outputs = [np.concatenate(arrays) for arrays in zip(*parts, strict=True)]
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def reset(self) -> None:
        """See `Backend.reset`."""
        self._loop.reset()

    def state(self) -> dict[str, Array]:
        """See `Backend.state`; bfloat16 rows come as float32."""
        return {name: _to_numpy(tensor).copy() for name, tensor in self._tensors().items()}

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """See `Backend.load_state`.

        Raises:
            InputError: a tensor is missing, has another shape or dtype, or is not finite; the state stays as it was.
        """
        import torch

        own = self._tensors()
        for name, tensor in own.items():
            given = tensors.get(name)
            if given is None:
                raise InputError(f"the state lacks {name!r}: it was saved from another artifact")
            shape, dtype = tuple(tensor.shape), _to_numpy(tensor[:0]).dtype
            if given.shape != shape or given.dtype != dtype:
                raise InputError(
                    f"state {name!r} is {given.dtype} {list(given.shape)}, and this artifact's is {dtype} {list(shape)}"
                )
            if given.dtype.kind == "f" and not np.isfinite(given).all():
                raise InputError(f"state {name!r} holds NaN or infinity")
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.require(tensors[name], requirements=["C", "W"])))

    def _tensors(self) -> dict[str, Any]:
        """The state's tensors by their names in the decoder graph."""
        return {
            f"past.{index}.{name}": tensor
            for index, layer in enumerate(self._loop.state)
            for name, tensor in layer.items()
        }


def _to_numpy(tensor: Any) -> Array:
    """On the host; bfloat16 as float32."""
    import torch

    array: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
    return array
