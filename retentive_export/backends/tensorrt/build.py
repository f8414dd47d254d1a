"""One graph becomes one plan, in this process: parse, check, build, check again.

`builder.py` runs it in a process of its own; call it directly only where a crash of TensorRT may take the process
along.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from retentive_export.backends.tensorrt.graph import Graph, check_graph, read_graph
from retentive_export.backends.tensorrt.layers import (
    EngineReport,
    Tensor,
    check_in_place,
    check_layers,
    check_tensors,
    loaded_engine,
    parse_log,
)
from retentive_export.backends.tensorrt.vendor import (
    DTYPES,
    VENDORS,
    Vendor,
    load_plugins,
    make_logger,
    missing_plugins,
)
from retentive_export.errors import DeviceError, ExportError
from retentive_export.spec.files import atomic_file
from retentive_export.spec.manifest import TensorContract

__all__ = ["EngineJob", "EngineResult", "Report", "build_engine"]

Report = Callable[[str], None]
"""Called with a line about what the builder is doing."""


class EngineJob(BaseModel):
    """What to build.

    vendor: name of the backend. graph: ONNX file, its weights beside it. plan: the file to write. layers: how often the
    graph holds each operator of ours. contract: what goes in and out. profiles: (smallest, typical, largest) T; empty
    for a graph without T. plugin_library: needed if `layers` is not 0. timing_cache: read if it is there, then written.
    tf32: whether float32 products may round their factors to 10 bits. declare_alias: take the nodes' declared aliases
    (an experiment, see docs/tensorrt.md). flags: names of members of `BuilderFlag` to set.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: str
    graph: Path
    plan: Path
    layers: int
    contract: list[TensorContract]
    profiles: list[tuple[int, int, int]]
    plugin_library: Path | None = None
    timing_cache: Path | None = None
    tf32: bool = False
    declare_alias: bool = False
    flags: tuple[str, ...] = ()


class EngineResult(BaseModel):
    """What was built. version: of the vendor's library. layers: of the engine. plugin_layers: operator of ours -> those
    that are its plugin. activation_bytes: scratch memory on the device besides weights and state."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    layers: int
    plugin_layers: dict[str, int]
    activation_bytes: int
    bytes: int
    sha256: str


class _Log:
    """Everything TensorRT says, as far as it is needed again: the list of layers, and the last complaints."""

    def __init__(self) -> None:
        self.facts: list[str] = []
        self.complaints: deque[str] = deque(maxlen=8)

    def __call__(self, severity: str, text: str) -> None:
        if text.startswith(("Layers:\n", "Total Activation Memory")):
            self.facts.append(text)
        if severity in ("ERROR", "INTERNAL_ERROR"):
            self.complaints.append(text.strip())

    def why(self) -> str:
        return "; ".join(self.complaints) or "it gave no reason"


def build_engine(job: EngineJob, report: Report) -> EngineResult:
    """Build and check.

    Raises:
        MissingExtraError: the vendor's library is not installed. DeviceError: it needs a GPU, and there is none.
        ExportError: the graph cannot become an engine, or the engine is not what was asked for.
    """
    vendor, log = VENDORS[job.vendor], _Log()
    graph = read_graph(job.graph)
    check_graph(graph, job.layers)
    trt = vendor.load()
    _plugins(trt, job, graph)
    logger = make_logger(trt, log)
    builder = _builder(trt, vendor, logger, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    report("parse")
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(job.graph)):
        raise _parse_error(parser, job, log)
    _check_network(trt, network, job, graph)
    config = _config(trt, vendor, builder, job, report)
    cache = None
    if job.timing_cache is not None and vendor.times_tactics:
        cache = _timing_cache(config, job.timing_cache)  # held here: it must outlive the build
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ExportError(f"{vendor.title} {trt.__version__} cannot build {job.graph.name}: {log.why()}")
    built = _inspect(trt, vendor, logger, plan, log)
    plugin_layers = check_layers(built, graph.nodes)
    check_tensors(built.tensors, job.contract, f"engine of {job.graph.name}")
    check_in_place(built, job.contract)
    _write(job.plan, plan)
    if job.timing_cache is not None and cache is not None:
        _write(job.timing_cache, cache.serialize())
    return EngineResult(
        version=trt.__version__,
        layers=len(built.layers),
        plugin_layers=plugin_layers,
        activation_bytes=built.activation_bytes,
        bytes=plan.nbytes,
        sha256=hashlib.sha256(plan).hexdigest(),
    )


def _plugins(trt: Any, job: EngineJob, graph: Graph) -> None:
    if not graph.nodes:
        return
    if job.plugin_library is not None:
        load_plugins(trt, job.plugin_library)
    elif missing := missing_plugins(trt):
        node = next(node for node in graph.nodes if node.op == missing[0])
        raise ExportError(
            f"node {node.name!r} of type {node.op} needs a plugin, and no plugin library was given",
            hint="scripts/build_plugins.sh builds libretentive_plugins.so; then --plugin-library PATH",
        )


def _builder(trt: Any, vendor: Vendor, logger: Any, log: _Log) -> Any:
    """Raises DeviceError where the library refuses to start, which is what it does without a usable GPU."""
    try:
        return trt.Builder(logger)
    except TypeError:  # pybind11's word for a factory that returned a null pointer
        pass
    raise DeviceError(
        f"{vendor.title} {trt.__version__} builds engines on the GPU that runs them, and finds none here: {log.why()}",
        hint="nvidia-smi shows GPU and driver; run the build on the target machine, or choose the target rtx",
    )


def _parse_error(parser: Any, job: EngineJob, log: _Log) -> ExportError:
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return ExportError(f"{job.graph.name} cannot be parsed: {log.why()}")
    first = errors[0]
    return ExportError(
        f"node {first.node_name()!r} of type {first.node_operator()} in {job.graph.name} cannot be parsed: "
        f"{first.desc().splitlines()[0]}; {log.why()}"
    )


def _check_network(trt: Any, network: Any, job: EngineJob, graph: Graph) -> None:
    """What the parser made, before time is spent on building it."""
    made = {
        layer.name
        for layer in (network.get_layer(index) for index in range(network.num_layers))
        if layer.type == trt.LayerType.PLUGIN_V3
    }
    for node in graph.nodes:
        if node.name not in made:
            raise ExportError(
                f"node {node.name!r} of type {node.op} did not become a plugin layer",
                hint="build with the plugin library of this version",
            )
    ends = [(network.get_input(index), True) for index in range(network.num_inputs)]
    ends += [(network.get_output(index), False) for index in range(network.num_outputs)]
    tensors = {
        end.name: Tensor(is_input=is_input, dtype=DTYPES.get(end.dtype.name, end.dtype.name), shape=tuple(end.shape))
        for end, is_input in ends
    }
    check_tensors(tensors, job.contract, f"graph {job.graph.name}")


def _config(trt: Any, vendor: Vendor, builder: Any, job: EngineJob, report: Report) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.progress_monitor = _monitor(trt, report)
    if not job.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    for name in job.flags:
        if not hasattr(trt.BuilderFlag, name):
            raise ExportError(
                f"builder_flags has {name!r}, which {vendor.title} {trt.__version__} lacks",
                hint=f"it has: {', '.join(trt.BuilderFlag.__members__)}",
            )
        config.set_flag(getattr(trt.BuilderFlag, name))
    if job.declare_alias:
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    for bounds in job.profiles:
        profile = builder.create_optimization_profile()
        for item in job.contract:
            if item.role == "input" and "T" in item.shape:
                profile.set_shape(item.name, *([steps if n == "T" else n for n in item.shape] for steps in bounds))
        config.add_optimization_profile(profile)
    return config


def _timing_cache(config: Any, path: Path) -> Any:
    """The cache that the build uses: the file's, or an empty one where there is none or TensorRT refuses it, which is
    what it does with one of another version or GPU."""
    known = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _write(path: Path, content: Any) -> None:
    """Raises StorageError where the disk is full."""
    with atomic_file(path) as stream:
        stream.write(content)


def _monitor(trt: Any, report: Report) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Reports the outermost phases with their share of steps done."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.phases: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if not parent_phase:
                self.phases[phase_name] = num_steps
                report(phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.phases:
                report(f"{phase_name} {step + 1}/{self.phases[phase_name]}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.phases.pop(phase_name, None)

    return Monitor()


def _inspect(trt: Any, vendor: Vendor, logger: Any, plan: Any, log: _Log) -> EngineReport:
    if not vendor.needs_gpu:
        return parse_log(log.facts)
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise ExportError(f"the engine that was built cannot be loaded: {log.why()}")
    return loaded_engine(trt, engine)
