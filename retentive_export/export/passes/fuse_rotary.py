"""Pass: rotary position embeddings as ONNX Runtime's one operator instead of seven. In place.

What transformers traces to is x * cos + concat(-x[half:], x[:half]) * sin, with cos and sin of the step's own
positions, so that positions may grow without bound. `com.microsoft::RotaryEmbedding` takes its angles from tables;
here the tables are the step's T angles, and the T tokens are rows 0 .. T-1 of them.

Left alone: batches (every sequence has positions of its own, and the tables are for all), and angles whose two halves
are not seen to be the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from retentive_export.export.passes.constants import constant_node

__all__ = ["fuse_rotary"]

CONTRIB = "com.microsoft"


@dataclass(frozen=True)
class _Match:
    """x [1, H, T, D]; half: [1, T, D / 2], the angles that both halves share."""

    x: ir.Value
    half: ir.Value


def fuse_rotary(model: ir.Model) -> None:
    """Replace every rotation of a query or key by `RotaryEmbedding`."""
    graph = model.graph
    tables: dict[ir.Value, tuple[ir.Value, ir.Value, ir.Value]] = {}
    for node in list(graph):
        found = _match(node) if node.op_type == "Add" and node.domain == "" else None
        if found is None:
            continue
        if found.half not in tables:
            tables[found.half] = _tables(graph, found)
        rotated = ir.node("RotaryEmbedding", [found.x, *tables[found.half]], domain=CONTRIB, name=f"{node.name}_rotary")
        ir.convenience.replace_nodes_and_values(graph, node, [node], [rotated], node.outputs, rotated.outputs)
    if tables:
        model.opset_imports[CONTRIB] = 1


def _match(add: ir.Node) -> _Match | None:
    straight, turned = (_producer(value, "Mul") for value in add.inputs)
    if straight is None or turned is None:
        return None
    for near, far in ((straight, turned), (turned, straight)):
        joined = _producer(far.inputs[0], "Concat")
        x = near.inputs[0]
        if joined is None or x is None or len(joined.inputs) != 2 or not _swapped(joined, x):
            continue
        cos, sin = _angles(near.inputs[1], "Cos"), _angles(far.inputs[1], "Sin")
        if cos is None or cos is not sin or x.shape is None or x.shape[0] != 1:
            continue
        return _Match(x, cos)
    return None


def _swapped(joined: ir.Node, x: ir.Value) -> bool:
    """Whether `joined` is concat(-x[half:], x[:half]) over the last axis."""
    negated = _producer(joined.inputs[0], "Neg")
    back = _producer(negated.inputs[0], "Slice") if negated is not None else None
    front = _producer(joined.inputs[1], "Slice")
    if back is None or front is None or back.inputs[0] is not x or front.inputs[0] is not x or x.shape is None:
        return False
    size = x.shape[-1]
    if not isinstance(size, int) or size % 2 or joined.attributes.get_int("axis", 0) not in (-1, 3):
        return False
    return _bounds(front, size) == (0, size // 2) and _bounds(back, size) == (size // 2, size)


def _bounds(cut: ir.Node, size: int) -> tuple[int, int] | None:
    """Start and end of a Slice of the last of four axes, step 1."""
    numbers = [ir.convenience.get_const_tensor(value) if value is not None else None for value in cut.inputs[1:]]
    if len(numbers) != 4 or any(tensor is None or tensor.size != 1 for tensor in numbers):
        return None
    start, end, axis, step = (int(tensor.numpy().item()) for tensor in numbers if tensor is not None)
    return (start, min(end, size)) if axis in (-1, 3) and step == 1 else None


def _angles(value: ir.Value | None, function: str) -> ir.Value | None:
    """a, where the value is Unsqueeze(function(Concat(a, a)))."""
    lifted = _producer(value, "Unsqueeze")
    wave = _producer(lifted.inputs[0], function) if lifted is not None else None
    both = _producer(wave.inputs[0], "Concat") if wave is not None else None
    if both is None or len(both.inputs) != 2 or both.inputs[0] is not both.inputs[1]:
        return None
    return both.inputs[0]


def _tables(graph: ir.Graph, found: _Match) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Offset [1] of the first token, cosines and sines [T, D / 2], right behind the angles."""
    assert found.x.shape is not None
    width = found.x.shape[-1]
    assert isinstance(width, int)
    stem = found.half.name
    shape = constant_node(f"{stem}_table_shape", np.array([-1, width // 2], np.int64))
    offset = constant_node(f"{stem}_first", np.array([0], np.int64))
    flat = ir.node("Reshape", [found.half, shape.outputs[0]], name=f"{stem}_table")
    cos = ir.node("Cos", [flat.outputs[0]], name=f"{stem}_cos")
    sin = ir.node("Sin", [flat.outputs[0]], name=f"{stem}_sin")
    nodes, behind = [shape, offset, flat, cos, sin], found.half.producer()
    if behind is None:
        graph.insert_before(graph[0], nodes)
    else:
        graph.insert_after(behind, nodes)
    return offset.outputs[0], cos.outputs[0], sin.outputs[0]


def _producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and node.domain == "" else None
