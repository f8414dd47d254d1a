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
    """A copy whose entropy gate has another constant in one layer: that layer gets a body of its own in which every
    scalar `before` is `after`."""
    shutil.copytree(artifact, out)
    model = onnx.load(out / "decoder.onnx", load_external_data=False)
    (body,) = [function for function in model.functions if function.name == "EntropyGate"]
    wrong = model.functions.add()
    wrong.CopyFrom(body)
    wrong.name = "WrongEntropyGate"
    changed = 0
    for node in wrong.node:
        for attribute in node.attribute:
            if node.op_type != "Constant" or attribute.type != onnx.AttributeProto.TENSOR:
                continue
            value = numpy_helper.to_array(attribute.t)
            if value.dtype == np.float32 and value.size == 1 and np.isclose(value.item(), before, rtol=1e-6):
                attribute.t.CopyFrom(numpy_helper.from_array(np.full_like(value, after), attribute.t.name))
                changed += 1
    assert changed
    gates = [node for node in model.graph.node if node.op_type == "EntropyGate"]
    gates[layer].op_type = "WrongEntropyGate"
    onnx.save(model, out / "decoder.onnx")
    rehash(out, "decoder.onnx")
    return out
