"""The backends `tensorrt` and `tensorrt_rtx`: an artifact's engines on a GPU."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.backends.base import DecoderInputs
from retentive_export.backends.checks import check_frames, check_state
from retentive_export.backends.tensorrt.buffers import host_dtype
from retentive_export.backends.tensorrt.builder import DECODER, VISION
from retentive_export.backends.tensorrt.device import CudaDevice, Device
from retentive_export.backends.tensorrt.execution import Decoder, Encoder
from retentive_export.backends.tensorrt.layers import check_tensors, io_tensors
from retentive_export.backends.tensorrt.vendor import VENDORS, Vendor, load_plugins, make_logger
from retentive_export.errors import ArtifactError, DeviceError, ExportError, RecipeError
from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import EngineSection, Manifest, read_manifest, verify_files

__all__ = ["TensorRTBackend", "TensorRTRTXBackend", "check_fit", "engine_section", "verified_bytes"]


class TensorRTBackend:
    """An artifact opened with the engines that were built into it.

    The plan and the plugin library are code: their hashes are checked before they are loaded, whatever `verify` says.

    Args:
        directory: the artifact.
        device_id: number of the GPU.
        cuda_graph: replay decode steps as a CUDA graph.
        verify: check the sha256 of every file of the artifact.
        threads: only None; the host has nothing to compute.

    Raises:
        ArtifactError: a file is missing or altered, or the engines are of another backend, version or GPU.
        MissingExtraError: the vendor's library or cuda-bindings is not installed.
        DeviceError: there is no GPU, or not one that the vendor's library supports.
    """

    name = "tensorrt"

    def __init__(
        self,
        directory: Path,
        *,
        device_id: int = 0,
        cuda_graph: bool = True,
        verify: bool = True,
        threads: int | None = None,
    ) -> None:
        if threads is not None:
            raise RecipeError(f"threads is {threads}, and the backend {self.name} computes on the GPU alone")
        self.manifest: Manifest = read_manifest(directory)
        section = engine_section(self.manifest, self.name)
        if verify:
            verify_files(directory, self.manifest)
        vendor = VENDORS[self.name]
        trt = vendor.load()
        device = CudaDevice(device_id)
        check_fit(section, vendor, str(trt.__version__), device.compute_capability)
        self._engines = _Engines(trt, vendor, directory, self.manifest, section, device)
        self._decoder = self._engines.decoder(cuda_graph)
        self._encoder: Encoder | None = None

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's buffers."""
        return self._decoder.state_bytes

    def step(self, inputs: DecoderInputs) -> Array:
        """See `Backend.step`."""
        return self._decoder.step(inputs)

    def encode(self, frames: Array) -> tuple[Array, Array | None]:
        """See `Backend.encode`; bfloat16 features come as float32."""
        check_frames(self.manifest, frames)
        if self._encoder is None:
            self._encoder = self._engines.encoder()
        outputs = [np.concatenate(parts) for parts in zip(*map(self._encoder, frames), strict=True)]
        return outputs[0], outputs[1] if len(outputs) > 1 else None

    def reset(self) -> None:
        """See `Backend.reset`."""
        self._decoder.reset()

    def state(self) -> dict[str, Array]:
        """See `Backend.state`; bfloat16 rows come as float32."""
        return self._decoder.state()

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """See `Backend.load_state`.

        Raises:
            InputError: a tensor is missing, has another shape or dtype, or is not finite; the state stays as it was.
        """
        own = self._decoder.shapes()
        check_state(tensors, [(name, shape, host_dtype(dtype)) for name, (shape, dtype) in own.items()])
        self._decoder.load_state({name: tensors[name] for name in own})


class TensorRTRTXBackend(TensorRTBackend):
    """The same with TensorRT-RTX."""

    name = "tensorrt_rtx"


class _Engines:
    """The vendor's objects, which must outlive each other in this order: logger, runtime, engines, contexts."""

    def __init__(
        self, trt: Any, vendor: Vendor, directory: Path, manifest: Manifest, section: EngineSection, device: Device
    ) -> None:
        self._trt, self._vendor, self._device = trt, vendor, device
        self._directory, self._manifest, self._section = directory, manifest, section
        self._complaints: deque[str] = deque(maxlen=4)
        self._logger = make_logger(trt, self._listen)
        verify_files(directory, manifest, [section.plugin_library])
        try:
            load_plugins(trt, directory / section.plugin_library)
        except ExportError as error:
            raise ArtifactError(
                error.message, hint="build the artifact again, with a library for this machine"
            ) from None
        self._runtime = trt.Runtime(self._logger)

    def _listen(self, severity: str, text: str) -> None:
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self._complaints.append(text.strip())

    def _why(self) -> str:
        return "; ".join(self._complaints) or "it gave no reason"

    def _load(self, graph: str) -> Any:
        name = self._section.graphs[graph]
        engine = self._runtime.deserialize_cuda_engine(verified_bytes(self._directory, self._manifest, name))
        if engine is None:
            raise ArtifactError(
                f"{self._vendor.title} cannot load {name}: {self._why()}", hint="build it on this machine"
            )
        try:
            check_tensors(io_tensors(self._trt, engine), self._manifest.contract[graph], name)
        except ExportError as error:
            raise ArtifactError(error.message, hint="build the artifact again") from None
        return engine

    def _context(self, engine: Any, profile: int, *, own_memory: bool, eager: bool) -> Any:
        context = self._vendor.context(self._trt, engine, own_memory=own_memory, eager=eager)
        if context is None or not context.set_optimization_profile_async(profile, self._device.stream):
            raise DeviceError(f"{self._vendor.title} cannot make an execution context: {self._why()}")
        return context

    def decoder(self, cuda_graph: bool) -> Decoder:
        """The decoder with its state."""
        engine, plan = self._load(DECODER), self._manifest.plan()
        profiles = (0, len(self._section.profiles) - 1)
        contexts = [
            self._context(engine, profile, own_memory=False, eager=index == 0) for index, profile in enumerate(profiles)
        ]
        return Decoder(
            self._manifest.contract[DECODER],
            plan.geometry.chunk,
            {spec.name: spec.fill for spec in plan.geometry.state()},
            (contexts[0], contexts[1]),
            int(engine.device_memory_size_v2),
            self._device,
            cuda_graph=cuda_graph,
            why=self._why,
        )

    def encoder(self) -> Encoder:
        """The vision engine, loaded when the first frame comes."""
        context = self._context(self._load(VISION), 0, own_memory=True, eager=True)
        return Encoder(self._manifest.contract[VISION], context, self._device, why=self._why)


def engine_section(manifest: Manifest, backend: str) -> EngineSection:
    """The engines of an artifact.

    Raises:
        ArtifactError: it has none, or those of another backend.
    """
    if manifest.engine is None or manifest.engine.backend != backend:
        there = "no engine" if manifest.engine is None else f"engines for {manifest.engine.backend}"
        raise ArtifactError(
            f"{manifest.name} was built for the target {manifest.target} and holds {there}, none for {backend}",
            hint="build it for a target whose backend is " + backend,
        )
    return manifest.engine


def check_fit(section: EngineSection, vendor: Vendor, version: str, capability: tuple[int, int]) -> None:
    """Hold that an engine can run here.

    Raises:
        DeviceError: the vendor's library does not support the GPU. ArtifactError: the engine is of another version, or
        was built on another kind of GPU.
    """
    number = "{}.{}".format(*capability)
    if vendor.architectures is not None and capability not in vendor.architectures:
        known = ", ".join("{}.{}".format(*pair) for pair in vendor.architectures)
        raise DeviceError(
            f"this GPU's compute capability is {number}, and {vendor.title} runs on: {known}",
            hint="the backend tensorrt, with an engine that is built on this machine, runs on the others",
        )
    if section.version != version:
        raise ArtifactError(
            f"the engines were built by {vendor.title} {section.version}, and {version} is installed: engines "
            "are bound to the very version",
            hint="build again with this version, or install that one",
        )
    if section.compute_capability not in (None, capability):
        raise ArtifactError(
            f"the engines were built on a GPU of compute capability {'{}.{}'.format(*section.compute_capability)}, and "  # type: ignore[misc]
            f"this one's is {number}",
            hint="build again on this machine",
        )


def verified_bytes(directory: Path, manifest: Manifest, name: str) -> bytes:
    """A file's content, the very bytes whose hash was checked.

    Raises:
        ArtifactError: missing or altered.
    """
    verify_files(directory, manifest, [name])
    content = (directory / name).read_bytes()
    if hashlib.sha256(content).hexdigest() != manifest.files[name].sha256:
        raise ArtifactError(f"{name} was altered while it was read")
    return content
