"""TensorRT's runtime as the backends use it, computing with ONNX Runtime on the memory of a fake device.

An engine is known by its plan's hash; its contexts read inputs from the addresses they were given and write outputs
there, whole tensors at a time, so that inputs and outputs may share memory.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

from retentive_export.backends.tensorrt.vendor import DTYPES
from retentive_export.spec.manifest import Manifest, TensorContract
from tests.backends.fake_cuda import ALIGNMENT, FakeCuda

SCRATCH = 4096


class Strategy(IntEnum):
    STATIC = 0
    USER_MANAGED = 2


class FakeTensorRT:
    """The module. late: runs until TensorRT-RTX's kernels are compiled, and a capture is allowed.

    runs: (graph, profile, T) of every execution that reached the device. libraries: plugin libraries that were loaded.
    """

    ExecutionContextAllocationStrategy = Strategy
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager", LAZY="lazy")
    TensorIOMode = SimpleNamespace(INPUT="input", OUTPUT="output")

    class ILogger:
        pass

    def __init__(self, version: str, directory: Path, manifest: Manifest, cuda: FakeCuda) -> None:
        assert manifest.engine is not None
        self.__version__, self.cuda = version, cuda
        self.manifest, self.engine = manifest, manifest.engine
        files = {"decoder": manifest.graphs["onnxruntime"], "vision": manifest.vision_graph}
        self.plans = {
            manifest.files[plan].sha256: (graph, directory / str(files[graph]))
            for graph, plan in self.engine.graphs.items()
        }
        self.libraries: list[str] = []
        self.plans_loaded = 0
        self.contexts: list[FakeContext] = []
        self.runs: list[tuple[str, int, int]] = []
        self.late, self.refuses_to_run = 0, False
        self.changed: dict[str, str] = {}

    def get_plugin_registry(self) -> Any:
        found = object() if self.libraries else None
        return SimpleNamespace(get_creator=lambda op, version, domain: found, load_library=self.libraries.append)

    def Runtime(self, logger: Any) -> Any:
        def deserialize(plan: bytes) -> FakeEngine:
            self.plans_loaded += 1
            return FakeEngine(self, *self.plans[hashlib.sha256(plan).hexdigest()])

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class FakeEngine:
    device_memory_size_v2 = SCRATCH

    def __init__(self, trt: FakeTensorRT, graph: str, path: Path) -> None:
        self.trt, self.graph = trt, graph
        self.contract = {tensor.name: tensor for tensor in trt.manifest.contract[graph]}
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.num_io_tensors = len(self.contract)

    def get_tensor_name(self, index: int) -> str:
        return list(self.contract)[index]

    def get_tensor_mode(self, name: str) -> str:
        return "input" if self.contract[name].role in ("input", "state_in") else "output"

    def get_tensor_dtype(self, name: str) -> Any:
        dtype = self.trt.changed.get(name, self.contract[name].dtype_in("tensorrt"))
        return SimpleNamespace(name={ours: theirs for theirs, ours in DTYPES.items()}[dtype])

    def get_tensor_shape(self, name: str) -> list[int]:
        return [n if isinstance(n, int) else -1 for n in self.contract[name].shape]

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = lambda strategy: setattr(config, "strategy", strategy)
        return config

    def create_execution_context(self, how: Any) -> FakeContext:
        context = FakeContext(self, how if isinstance(how, Strategy) else how.strategy)
        self.trt.contexts.append(context)
        return context


class FakeContext:
    def __init__(self, engine: FakeEngine, strategy: Strategy) -> None:
        self.engine, self.trt = engine, engine.trt
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.profile, self.executions = -1, 0
        self.scratch = SCRATCH if strategy == Strategy.STATIC else 0
        if self.trt.engine.backend == "tensorrt_rtx":
            self.is_stream_capturable = lambda stream: self.executions >= self.trt.late

    def set_optimization_profile_async(self, profile: int, stream: int) -> bool:
        self.profile = profile
        return 0 <= profile < (len(self.trt.engine.profiles) if self.engine.graph == "decoder" else 1)

    def set_device_memory(self, address: int, nbytes: int) -> None:
        self.scratch = nbytes if address % ALIGNMENT == 0 else 0

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return name in self.engine.contract and address % ALIGNMENT == 0

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        wanted = self.engine.contract[name].shape
        low, _, high = self.trt.engine.profiles[self.profile]
        self.shapes[name] = shape
        return len(shape) == len(wanted) and all(
            n == want if isinstance(want, int) else low <= n <= high for n, want in zip(shape, wanted, strict=True)
        )

    def execute_async_v3(self, stream: int) -> bool:
        open_shapes = {t.name for t in self.engine.contract.values() if t.role == "input" and "T" in t.shape}
        ready = set(self.addresses) == set(self.engine.contract) and set(self.shapes) >= open_shapes
        if not ready or self.scratch < SCRATCH or self.trt.refuses_to_run:
            if self.trt.cuda.recording is not None:
                self.trt.cuda.recording.clear()  # what fails in a capture makes it invalid
            return False
        self.executions += 1
        addresses, shapes = dict(self.addresses), dict(self.shapes)  # a captured graph keeps those of the capture
        self.trt.cuda.enqueue(stream, lambda: self._compute(addresses, shapes))
        return True

    def _compute(self, addresses: dict[str, int], shapes: dict[str, tuple[int, ...]]) -> None:
        contract = self.engine.contract
        feeds = {
            name: _array(addresses[name], tensor, shapes.get(name))
            for name, tensor in contract.items()
            if tensor.role in ("input", "state_in")
        }
        outputs = [name for name in contract if name not in feeds]
        results = self.engine.session.run(outputs, {name: array.copy() for name, array in feeds.items()})
        for name, result in zip(outputs, results, strict=True):
            ctypes.memmove(addresses[name], np.ascontiguousarray(result).ctypes.data, result.nbytes)
        steps = shapes["input_ids"][1] if "input_ids" in shapes else 0
        self.trt.runs.append((self.engine.graph, self.profile, steps))


def _array(address: int, tensor: TensorContract, shape: tuple[int, ...] | None) -> Any:
    """What lies at an address, without a copy."""
    sizes = shape or tuple(int(n) for n in tensor.shape)
    dtype = np.dtype(tensor.dtype)
    memory = (ctypes.c_uint8 * (math.prod(sizes) * dtype.itemsize)).from_address(address)
    return np.frombuffer(memory, dtype).reshape(sizes)
