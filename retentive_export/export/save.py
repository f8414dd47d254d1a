"""Writing graphs: one protobuf per flavour, weights once in an external file that all flavours share."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir

from retentive_export.errors import ExportError
from retentive_export.export.passes.alias_tables import alias_tables
from retentive_export.export.passes.flavours import tensorrt_flavour
from retentive_export.export.passes.onnxruntime_flavour import onnxruntime_flavour
from retentive_export.spec.files import storage_errors
from retentive_export.spec.manifest import TensorContract

__all__ = ["EXTERNAL_FROM", "contract_of", "save_alone", "save_flavours", "save_graph", "save_quantised"]

EXTERNAL_FROM = 1024
"""Tensors of at least this many bytes go to the external file."""


def save_graph(model: ir.Model, path: Path) -> None:
    """Write `path` and `path`.data, and check the result.

    Raises:
        ExportError: the ONNX checker refuses the graph. StorageError: the disk is full.
    """
    with storage_errors(path):
        # The threshold is the largest size that stays in the graph.
        ir.save(model, path, external_data=f"{path.name}.data", size_threshold_bytes=EXTERNAL_FROM - 1)
    _check(path)


def save_alone(model: ir.Model, directory: Path, stem: str) -> dict[str, str]:
    """Write the ONNX Runtime flavour alone, of a graph that has no plugins; flavour -> file name."""
    save_graph(onnxruntime_flavour(model), directory / f"{stem}.onnx")
    return {"onnxruntime": f"{stem}.onnx"}


def save_quantised(model: ir.Model, directory: Path, stem: str) -> dict[str, str]:
    """Write the ONNX Runtime flavour of a graph with quantised weights, its one flavour; flavour -> file name.

    A table that Gather and MatMul share lies in the file once.
    """
    name = f"{stem}.onnx"
    save_graph(onnxruntime_flavour(model), directory / name)
    stored = ir.load(directory / name)
    alias_tables(stored)
    with storage_errors(directory / name):
        ir.save(stored, directory / name)
    _check(directory / name)
    return {"onnxruntime": name}


def save_flavours(model: ir.Model, directory: Path, stem: str) -> dict[str, str]:
    """Write the ONNX Runtime flavour, and the TensorRT flavour beside it over the same weights; flavour -> file
    name."""
    names = {"onnxruntime": f"{stem}.onnx", "tensorrt": f"{stem}.tensorrt.onnx"}
    save_graph(onnxruntime_flavour(model), directory / names["onnxruntime"])
    stored = ir.load(directory / names["onnxruntime"])  # its weights are references into the external file
    bare = tensorrt_flavour(model)
    _refer(bare, stored)
    with storage_errors(directory / names["tensorrt"]):
        ir.save(bare, directory / names["tensorrt"])
    _check(directory / names["tensorrt"])
    return names


def _refer(model: ir.Model, stored: ir.Model) -> None:
    """Make the model's large initializers references to those of the same name in a graph that was loaded.

    Raises:
        ExportError: one is not there, and would be written a second time.
    """
    for name, value in model.graph.initializers.items():
        if value.const_value is None or value.const_value.nbytes < EXTERNAL_FROM:
            continue
        twin = stored.graph.initializers.get(name)
        if twin is None or not isinstance(twin.const_value, ir.ExternalTensor):
            raise ExportError(f"the weight {name!r} is in one flavour of the graph alone")
        value.const_value = twin.const_value


def _check(path: Path) -> None:
    try:
        onnx.checker.check_model(str(path))
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the ONNX checker refuses {path.name}: {str(error).splitlines()[0]}") from None


def contract_of(model: ir.Model) -> list[TensorContract]:
    """Name, shape, dtype and role of every input and output, and the types that the TensorRT flavour has instead.

    A state output names, as its alias, the input whose memory it may share.
    """
    bare = tensorrt_flavour(model)
    tensors = [_tensor(*pair, "input") for pair in zip(model.graph.inputs, bare.graph.inputs, strict=True)]
    return tensors + [_tensor(*pair, "output") for pair in zip(model.graph.outputs, bare.graph.outputs, strict=True)]


def _tensor(value: ir.Value, in_tensorrt: ir.Value, role: str) -> TensorContract:
    assert value.name is not None
    assert value.dtype is not None
    assert value.shape is not None
    assert in_tensorrt.dtype is not None
    state = value.name.startswith(("past.", "present."))
    return TensorContract(
        name=value.name,
        shape=[dim if isinstance(dim, int) else "T" for dim in value.shape],
        dtype=_dtype(value.dtype),
        role=(f"state_{'in' if role == 'input' else 'out'}" if state else role),  # type: ignore[arg-type]
        alias=value.name.replace("present.", "past.", 1) if value.name.startswith("present.") else None,
        flavours={} if in_tensorrt.dtype == value.dtype else {"tensorrt": _dtype(in_tensorrt.dtype)},
    )


def _dtype(dtype: ir.DataType) -> str:
    return {"FLOAT": "float32"}.get(dtype.name, dtype.name.lower())
