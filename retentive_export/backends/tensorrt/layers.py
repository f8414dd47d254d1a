"""What a built engine holds, and the checks that nothing was lost on the way from graph to engine.

TensorRT's engine inspector tells it, as JSON, of an engine that is loaded, which needs a GPU. TensorRT-RTX's builder
writes the inspector's text of the same list into its verbose log, so that no GPU is needed.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from retentive_export.backends.tensorrt.graph import CustomNode
from retentive_export.backends.tensorrt.vendor import DTYPES
from retentive_export.errors import ExportError
from retentive_export.spec.manifest import TensorContract

__all__ = [
    "FLAVOUR",
    "EngineReport",
    "Layer",
    "Tensor",
    "check_in_place",
    "check_layers",
    "check_tensors",
    "io_tensors",
    "loaded_engine",
    "parse_log",
]

FLAVOUR = "tensorrt"

_ONNX = re.compile(r"\[ONNX Layer: ((?:[^\]]| \[profile \d+\])*)\]")
_PROFILE = re.compile(r" \[profile (\d+)\]")
_LAYER = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), Inputs: \[(?P<reads>.*?)\], Constants: .*?"
    r", Outputs: \[(?P<writes>.*?)\], TacticName: .*?(?:Metadata: (?P<metadata>.*))?$"
)
_END = re.compile(r"\{ Name: (.*?), Dimensions: ")
_TENSOR = re.compile(
    r"^ Name: (?P<name>.*?), IOMode: (?P<mode>\w+), DataType: (?P<type>\w+), Dimensions: \[(?P<shape>[-\d,]*)\]"
)
_LOG_TYPES = {
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Int8": "int8",
    "UInt8": "uint8",
    "Int32": "int32",
    "Int64": "int64",
}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One layer of an engine. nodes: ONNX nodes that it came from. reads, writes: tensors. profile: the optimisation
    profile that it is for."""

    name: str
    kind: str
    nodes: frozenset[str]
    reads: frozenset[str]
    writes: frozenset[str]
    profile: int = 0

    @property
    def is_plugin(self) -> bool:
        """Whether a plugin computes it: TensorRT calls such a layer PluginV3, its compiler custom_layer."""
        return self.kind == "custom_layer" or self.kind.startswith("Plugin")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output; -1 is a dynamic dimension."""

    is_input: bool
    dtype: str
    shape: tuple[int, ...]

    def fits(self, wanted: Tensor) -> bool:
        """Whether it is what was wanted. TensorRT leaves an output's dimension open where its shape inference cannot
        tell it, such as that of the last token's logits."""
        if (self.is_input, self.dtype, len(self.shape)) != (wanted.is_input, wanted.dtype, len(wanted.shape)):
            return False
        return all(a == b or (a == -1 and not self.is_input) for a, b in zip(self.shape, wanted.shape, strict=True))


@dataclass(frozen=True, kw_only=True)
class EngineReport:
    """Layers, inputs and outputs of an engine, and its scratch memory in bytes besides weights."""

    layers: tuple[Layer, ...]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    activation_bytes: int = 0


def parse_log(messages: Iterable[str]) -> EngineReport:
    """Read what TensorRT-RTX's builder logs at its most verbose.

    Raises:
        ExportError: the log has no list of layers, so that nothing could be checked.
    """
    layers: list[Layer] = []
    tensors: dict[str, Tensor] = {}
    activation = 0
    for message in messages:
        if found := re.match(r"Total Activation Memory: (\d+) bytes", message):
            activation = max(activation, int(found[1]))
        elif message.startswith("Layers:\n"):
            for line in message.splitlines():
                if layer := _LAYER.match(line):
                    reads, writes = _END.findall(layer["reads"]), _END.findall(layer["writes"])
                    layers.append(_layer(layer["name"], layer["kind"], layer["metadata"] or "", reads, writes))
                elif tensor := _TENSOR.match(line):
                    tensors[tensor["name"]] = Tensor(
                        is_input=tensor["mode"] == "Input",
                        dtype=_LOG_TYPES.get(tensor["type"], tensor["type"]),
                        shape=tuple(int(n) for n in tensor["shape"].split(",") if n),
                    )
    if not layers or not tensors:
        raise ExportError(
            "the builder's log lists no layers: this version of TensorRT-RTX writes it in another form, and whether "
            "the engine has its plugins cannot be checked",
            hint="install the version that constraints.txt names",
        )
    return EngineReport(layers=tuple(layers), tensors=tensors, activation_bytes=activation)


def loaded_engine(trt: Any, engine: Any) -> EngineReport:
    """Ask the inspector of an engine that was built with detailed profiling verbosity."""
    inspector = engine.create_engine_inspector()
    information = json.loads(inspector.get_engine_information(trt.LayerInformationFormat.JSON))
    layers = [
        _layer(
            str(layer.get("Name", "")),
            str(layer.get("LayerType", "")),
            str(layer.get("Metadata", "")),
            *([str(tensor.get("Name", "")) for tensor in layer.get(side, [])] for side in ("Inputs", "Outputs")),
        )
        for layer in information["Layers"]
        if isinstance(layer, dict)
    ]
    return EngineReport(
        layers=tuple(layers), tensors=io_tensors(trt, engine), activation_bytes=int(engine.device_memory_size_v2)
    )


def io_tensors(trt: Any, engine: Any) -> dict[str, Tensor]:
    """Inputs and outputs of an engine that is loaded."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {
        name: Tensor(
            is_input=engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT,
            dtype=DTYPES.get(engine.get_tensor_dtype(name).name, engine.get_tensor_dtype(name).name),
            shape=tuple(engine.get_tensor_shape(name)),
        )
        for name in names
    }


def _layer(name: str, kind: str, metadata: str, reads: list[str], writes: list[str]) -> Layer:
    profile = _PROFILE.search(name)
    nodes = [found[1] for found in _ONNX.finditer(metadata)] + [name]
    return Layer(
        name=name,
        kind=kind,
        nodes=_plain(nodes),
        reads=_plain(reads),
        writes=_plain(writes),
        profile=int(profile[1]) if profile else 0,
    )


def _plain(names: list[str]) -> frozenset[str]:
    """Names without the suffix that TensorRT gives to what belongs to a further profile."""
    return frozenset(_PROFILE.sub("", name) for name in names)


def check_layers(report: EngineReport, nodes: Iterable[CustomNode]) -> dict[str, int]:
    """Hold that every custom node became exactly one plugin layer of its own, in every profile that the report lists.

    Returns:
        Operator -> plugin layers of one profile.

    Raises:
        ExportError: one was lost, split, replaced, or joined with another.
    """
    nodes = list(nodes)
    profiles = sorted({0, *(layer.profile for layer in report.layers)})
    for profile in profiles:
        layers = [layer for layer in report.layers if layer.profile == profile]
        taken: set[str] = set()
        for node in nodes:
            own = [layer for layer in layers if node.name in layer.nodes]
            if len(own) != 1 or not own[0].is_plugin or own[0].name in taken:
                raise _lost(node, own, f" in optimisation profile {profile}" if len(profiles) > 1 else "")
            taken.add(own[0].name)
    return dict(Counter(node.op for node in nodes))


def _lost(node: CustomNode, own: list[Layer], where: str) -> ExportError:
    became = ", ".join(f"{layer.name} ({layer.kind})" for layer in own) or "nothing"
    return ExportError(
        f"node {node.name!r} of type {node.op} must be one plugin layer of the engine, and became {became}{where}",
        hint="build with the plugin library of this version, from decoder.tensorrt.onnx",
    )


def check_in_place(report: EngineReport, contract: Iterable[TensorContract]) -> None:
    """Hold that plugins read and write the state's own memory.

    Where TensorRT puts a copy or a reformat between, the state would be moved as a whole in every step.

    Raises:
        ExportError: another layer touches a state tensor, or no plugin does.
    """
    for tensor in contract:
        if not tensor.role.startswith("state"):
            continue
        users = [layer for layer in report.layers if tensor.name in layer.reads | layer.writes]
        foreign = next((layer for layer in users if not layer.is_plugin), None)
        if foreign is not None or not users:
            who = f"layer {foreign.name} ({foreign.kind}) does" if foreign else "none does"
            raise ExportError(
                f"the state tensor {tensor.name!r} must be used by plugins alone, without a copy, and {who}",
                hint="build from decoder.tensorrt.onnx, whose nodes do not declare aliases",
            )


def check_tensors(tensors: dict[str, Tensor], contract: Iterable[TensorContract], what: str) -> None:
    """Hold that inputs and outputs are those of the manifest's contract: names, types, shapes.

    Raises:
        ExportError: one is missing, too many, or of another type or shape.
    """
    expected = {
        item.name: Tensor(
            is_input=item.role in ("input", "state_in"),
            dtype=item.dtype_in(FLAVOUR),
            shape=tuple(-1 if isinstance(n, str) else n for n in item.shape),
        )
        for item in contract
    }
    if odd := sorted(set(tensors) ^ set(expected)):
        there = "lacks" if odd[0] in expected else "has another tensor,"
        raise ExportError(f"the {what} {there} {odd[0]!r}: its inputs and outputs are not the contract's")
    for name, wanted in expected.items():
        if not tensors[name].fits(wanted):
            raise ExportError(
                f"{name} of the {what} is {_words(tensors[name])}, and the contract says {_words(wanted)}"
            )


def _words(tensor: Tensor) -> str:
    return f"{'an input' if tensor.is_input else 'an output'} of {tensor.dtype} {list(tensor.shape)}"
