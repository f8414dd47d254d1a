"""Artifacts whose graph is wrong in one known place, with their hashes put right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from retentive_export.spec.manifest import file_entry

__all__ = ["with_wrong_gate"]


def rehash(artifact: Path, name: str) -> None:
    """Put a changed file's hash and size into the manifest."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    manifest["files"][name] = file_entry(artifact / name).model_dump()
    (artifact / "manifest.json").write_text(json.dumps(manifest))


def with_wrong_gate(artifact: Path, out: Path, layer: int, *, before: float, after: float) -> Path:
    """A copy whose entropy gate has another constant in one layer: every number `before` that the layer's nodes read,
    themselves or through nodes that all layers share, is `after`."""
    shutil.copytree(artifact, out)
    model = onnx.load(out / "decoder.onnx", load_external_data=False)
    nodes = list(model.graph.node)
    own = _between(nodes, f"past.{layer}.", f"present.{layer}.")
    of_any_layer = _reached(nodes, {value.name for value in model.graph.input if value.name.startswith("past.")})
    wrong: dict[str, str] = {}
    made = []
    for node in nodes:
        mine, is_number = id(node) in own, _is_number(node, before)
        reads = [name for name in node.input if name in wrong]
        if is_number or (reads and not mine and id(node) not in of_any_layer):
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            copy.name = f"{node.name}_wrong"
            copy.output[:] = [f"{name}_wrong" for name in node.output]
            copy.input[:] = [wrong.get(name, name) for name in node.input]
            if is_number:
                value = numpy_helper.to_array(node.attribute[0].t)
                copy.attribute[0].t.CopyFrom(numpy_helper.from_array(np.full_like(value, after)))
            wrong |= dict(zip(node.output, copy.output, strict=True))
            made += [node, copy]
            continue
        if mine:
            node.input[:] = [wrong.get(name, name) for name in node.input]
        made.append(node)
    assert wrong
    del model.graph.node[:]
    model.graph.node.extend(made)
    onnx.save(model, out / "decoder.onnx")
    rehash(out, "decoder.onnx")
    return out


def _is_number(node: onnx.NodeProto, number: float) -> bool:
    if node.op_type != "Constant" or node.attribute[0].type != onnx.AttributeProto.TENSOR:
        return False
    value = numpy_helper.to_array(node.attribute[0].t)
    return bool(value.dtype == np.float32 and value.size == 1 and np.isclose(value.item(), number, rtol=1e-6))


def _reached(nodes: list[onnx.NodeProto], names: set[str]) -> set[int]:
    """ids of the nodes that need one of the values."""
    names, found = set(names), set()
    for node in nodes:
        if names & set(node.input):
            names |= set(node.output)
            found.add(id(node))
    return found


def _between(nodes: list[onnx.NodeProto], past: str, present: str) -> set[int]:
    """ids of the nodes that need a value `past...` and that a value `present...` needs."""
    inputs = {name for node in nodes for name in node.input if name.startswith(past)}
    needed = {name for node in nodes for name in node.output if name.startswith(present)}
    behind = _reached(nodes, inputs)
    found = set()
    for node in reversed(nodes):
        if needed & set(node.output):
            needed |= set(node.input)
            found.add(id(node))
    return found & behind
