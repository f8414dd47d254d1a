"""Pass: every write of a state tensor waits for all reads of its old value. In place.

State outputs are bound to the memory of the state inputs, so a node that writes one may run only when every other node
that reads the old value has run. Mostly the maths says so already: victims derive from the attention's statistics, and
what is written from the victims. Where it does not (a policy that reads no statistics, the rows of the memory), this
pass adds the edge.

Postcondition: for every pair `past.X`, `present.X`, each reader of `past.X`, by itself or through views, is an ancestor
of the node that yields `present.X`, or that node.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from retentive_export.errors import ExportError
from retentive_export.export.passes.constants import constant_node

__all__ = ["order_reads_before_writes"]

_VIEWS = {"Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
"""What runtimes run without a copy, or fuse into the nodes behind it, which then read the tensor itself."""


def order_reads_before_writes(model: ir.Model) -> None:
    """Reshape an input of the write to the shape that it has, a shape computed from the size of what was read.

    A reshape copies nothing and changes no value of any type, whatever kind of node the write is.

    Raises:
        ExportError: a write and a read of its old value that cannot be ordered.
    """
    graph = model.graph
    old = {value.name: value for value in graph.inputs}
    zeros: dict[int, ir.Value] = {}
    for output in graph.outputs:
        assert output.name is not None
        past, write = old.get(output.name.replace("present.", "past.", 1)), output.producer()
        if not output.name.startswith("present.") or past is None or write is None:
            continue
        known = _ancestors(write)
        late = [node for node in dict.fromkeys(_readers(past, write)) if node not in known]
        for reader in late:
            if write in _ancestors(reader):
                raise ExportError(
                    f"{output.name} is written by {write.name!r}, and {reader.name!r} needs the old and the new value"
                )
        if late:
            _wait(graph, write, past, late, zeros)
    if zeros:
        graph.sort()


def _readers(past: ir.Value, write: ir.Node) -> Iterator[ir.Node]:
    """Nodes besides `write` that read the memory of `past`; in the place of a view, those that read the view."""
    for node in dict.fromkeys(use.node for use in past.uses()):
        if node is write:
            continue
        if node.op_type in _VIEWS and node.outputs[0].uses():
            yield from _readers(node.outputs[0], write)
        else:
            yield node


def _wait(graph: ir.Graph, write: ir.Node, past: ir.Value, late: list[ir.Node], zeros: dict[int, ir.Value]) -> None:
    """zeros: shapes by rank. In a Reshape, a zero keeps the size that the tensor has."""
    index, gated = _gated_input(write, past)
    assert gated.shape is not None
    rank = len(gated.shape)
    shape = zeros[rank] = zeros.get(rank) or _zeros(graph, rank)
    nodes = []
    for reader in late:
        stem = f"wait.{past.name}.{reader.outputs[0].name}"
        size = ir.node("Size", [reader.outputs[0]], name=f"{stem}.size")
        nodes += [size, ir.node("Mul", [shape, size.outputs[0]], name=f"{stem}.shape")]
        shape = nodes[-1].outputs[0]
    nodes.append(ir.node("Reshape", [gated, shape], name=f"wait.{past.name}"))
    for node in nodes:
        node.outputs[0].name = node.name
    edge = nodes[-1].outputs[0]
    edge.type, edge.shape = gated.type, gated.shape
    graph.insert_before(write, nodes)
    write.replace_input_with(index, edge)


def _gated_input(write: ir.Node, past: ir.Value) -> tuple[int, ir.Value]:
    """An input of known rank, rather not the old value itself.

    Raises:
        ExportError: there is none.
    """
    known = [(i, value) for i, value in enumerate(write.inputs) if value is not None and value.shape is not None]
    if not known:
        raise ExportError(f"{past.name} is written by {write.name!r}, and the rank of none of its inputs is known")
    return min(known, key=lambda pair: pair[1] is past)


def _zeros(graph: ir.Graph, rank: int) -> ir.Value:
    node = constant_node(f"same_shape_{rank}", np.zeros(rank, np.int64))
    graph.insert_before(graph[0], node)
    return node.outputs[0]


def _ancestors(node: ir.Node) -> set[ir.Node]:
    """Every node that must have run before `node`."""
    found: set[ir.Node] = set()
    stack = [node]
    while stack:
        for value in stack.pop().inputs:
            producer = value.producer() if value is not None else None
            if producer is not None and producer not in found:
                found.add(producer)
                stack.append(producer)
    return found
