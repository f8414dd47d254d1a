"""Python face of plugins/harness/plugin_driver_abi.h: creators and plugin objects through their TensorRT interface."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

BUILD, RUNTIME = 0, 1
"""nvinfer1::TensorRTPhase."""

DATA_TYPES = {
    "float32": 0,
    "float16": 1,
    "int8": 2,
    "int32": 3,
    "bool": 4,
    "uint8": 5,
    "bfloat16": 7,
    "int64": 8,
}
"""nvinfer1::DataType."""

_NAMES = {number: name for name, number in DATA_TYPES.items()}


class Offer(NamedTuple):
    """A tensor offered to a plugin; a dimension of -1 is T, `address` is read by `enqueue` alone."""

    dtype: str
    shape: tuple[int, ...]
    address: int = 0
    format: int = 0


class _Field(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("length", ctypes.c_int32),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int32),
        ("format", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("dims", ctypes.c_int64 * 8),
        ("data", ctypes.c_void_p),
    )


class _Tensors(ctypes.Structure):
    _fields_ = (("inputs", ctypes.c_int32), ("outputs", ctypes.c_int32), ("tensors", ctypes.POINTER(_Tensor)))


_HANDLES = ("open", "create", "clone", "deserialise", "attach")
_TEXTS = ("error", "creators", "messages", "serialised")


@dataclass(frozen=True)
class CreatorInfo:
    """What a creator says of itself; `attributes` maps a name to (PluginFieldType, length)."""

    version: str
    namespace: str
    attributes: dict[str, tuple[int, int]]


class PluginLibrary:
    """A plugin library as TensorRT loads it, with a logger that keeps its messages."""

    def __init__(self, build: Path, name: str = "libretentive_plugins.so") -> None:
        self.abi = ctypes.CDLL(str(build / "libretentive_driver.so"))
        for function in _HANDLES:
            getattr(self.abi, f"driver_{function}").restype = ctypes.c_void_p
        for function in _TEXTS:
            getattr(self.abi, f"driver_{function}").restype = ctypes.c_char_p
        self.abi.driver_workspace.restype = ctypes.c_int64
        self.handle = ctypes.c_void_p(self.abi.driver_open(str(build / name).encode()))
        if not self.handle:
            raise OSError(self.abi.driver_error().decode())

    def creators(self) -> dict[str, CreatorInfo]:
        """Every creator by its operator's name."""
        result: dict[str, CreatorInfo] = {}
        for block in re.split(r"\n(?! )", self.abi.driver_creators(self.handle).decode().strip("\n")):
            head, *lines = block.splitlines()
            op, version, namespace = head.split()
            fields = (line.split() for line in lines)
            result[op] = CreatorInfo(version, namespace, {name: (int(kind), int(n)) for name, kind, n in fields})
        return result

    def messages(self) -> str:
        """What was logged since the last call."""
        return str(self.abi.driver_messages(self.handle).decode())

    def create(self, op: str, attributes: Mapping[str, Any], phase: int = BUILD) -> Plugin | None:
        """A plugin for a node with these attributes; None when the creator refused."""
        kept = [_field(name, value) for name, value in attributes.items()]
        fields = (_Field * len(kept))(*(field for field, _ in kept))
        return self._wrap(self.abi.driver_create(self.handle, op.encode(), fields, len(kept), phase))

    def close(self) -> None:
        """Unload; the plugins must be gone."""
        self.abi.driver_close(self.handle)

    def _wrap(self, handle: int | None) -> Plugin | None:
        return Plugin(self, handle) if handle else None


class Plugin:
    """One plugin object; the calls give what the plugin gave, 0 being success."""

    def __init__(self, library: PluginLibrary, handle: int) -> None:
        self.library, self.abi, self.handle = library, library.abi, ctypes.c_void_p(handle)

    def __enter__(self) -> Plugin:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.abi.driver_destroy(self.handle)

    def clone(self) -> Plugin | None:
        """As while building."""
        return self.library._wrap(self.abi.driver_clone(self.handle))

    def deserialise(self) -> Plugin | None:
        """From the serialised fields, as when an engine is loaded."""
        return self.library._wrap(self.abi.driver_deserialise(self.handle))

    def attach(self) -> Plugin | None:
        """As for an execution context."""
        return self.library._wrap(self.abi.driver_attach(self.handle))

    def serialised(self) -> dict[str, str]:
        """Serialised fields, their values as text."""
        lines = self.abi.driver_serialised(self.handle).decode().splitlines()
        return dict(line.split("=", 1) for line in lines)

    def output_types(self, inputs: Sequence[Offer]) -> list[str] | None:
        """dtypes of the outputs; None when refused."""
        types = (ctypes.c_int32 * self.abi.driver_output_count(self.handle))()
        failed = self.abi.driver_output_types(self.handle, _tensors(inputs, ()), types)
        return None if failed else [_NAMES[number] for number in types]

    def output_shapes(self, inputs: Sequence[Offer], steps: int) -> list[tuple[int, ...]] | None:
        """Shapes of the outputs when T is `steps`; None when refused."""
        tensors = (_Tensor * self.abi.driver_output_count(self.handle))()
        failed = self.abi.driver_output_shapes(self.handle, _tensors(inputs, ()), ctypes.c_int64(steps), tensors)
        return None if failed else [tuple(tensor.dims[: tensor.rank]) for tensor in tensors]

    def supports(self, inputs: Sequence[Offer], outputs: Sequence[Offer], position: int) -> bool:
        """Whether the tensor at `position` (inputs, then outputs) is supported."""
        return bool(self.abi.driver_supports(self.handle, _tensors(inputs, outputs), position))

    def configure(self, least: tuple[Sequence[Offer], ...], most: tuple[Sequence[Offer], ...]) -> int:
        """For a profile; `least` and `most` are (inputs, outputs)."""
        return int(self.abi.driver_configure(self.handle, _tensors(*least), _tensors(*most)))

    def workspace(self, inputs: Sequence[Offer], outputs: Sequence[Offer]) -> int:
        """Bytes for these shapes or smaller ones."""
        return int(self.abi.driver_workspace(self.handle, _tensors(inputs, outputs)))

    def aliased_input(self, output: int) -> int:
        """Input that the output replaces, -1 for none."""
        return int(self.abi.driver_aliased_input(self.handle, output))

    def shape_change(self, inputs: Sequence[Offer], outputs: Sequence[Offer]) -> int:
        """As before an execution with new shapes."""
        return int(self.abi.driver_shape_change(self.handle, _tensors(inputs, outputs)))

    def enqueue(self, inputs: Sequence[Offer], outputs: Sequence[Offer], workspace: int = 0) -> int:
        """Execute on the default stream."""
        tensors = _tensors(inputs, outputs)
        return int(self.abi.driver_enqueue(self.handle, tensors, ctypes.c_void_p(workspace), None))


def _tensors(inputs: Sequence[Offer], outputs: Sequence[Offer]) -> _Tensors:
    every = [*inputs, *outputs]
    array = (_Tensor * len(every))()
    for tensor, offer in zip(array, every, strict=True):
        tensor.type, tensor.format, tensor.rank = DATA_TYPES[offer.dtype], offer.format, len(offer.shape)
        tensor.dims[: len(offer.shape)] = offer.shape
        tensor.data = offer.address
    return _Tensors(len(inputs), len(outputs), array)


def _field(name: str, value: object) -> tuple[_Field, object]:
    """An attribute as TensorRT's parser hands it over (strings unterminated), and what must be kept alive."""
    data: Any
    if isinstance(value, str):
        data, kind, length = ctypes.create_string_buffer(value.encode()), 6, len(value)
    elif isinstance(value, np.float64):
        data, kind, length = ctypes.c_double(value), 2, 1
    elif isinstance(value, float):
        data, kind, length = ctypes.c_float(value), 1, 1
    elif isinstance(value, np.int64):
        data, kind, length = ctypes.c_int64(int(value)), 10, 1
    else:
        numbers = value if isinstance(value, list) else [value]
        data, kind, length = (ctypes.c_int32 * len(numbers))(*numbers), 5, len(numbers)
    return _Field(name.encode(), ctypes.cast(ctypes.pointer(data), ctypes.c_void_p), kind, length), data
