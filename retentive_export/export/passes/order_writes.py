"""Pass: every write of a state tensor waits for all reads of its old value. In place.

State outputs are bound to the memory of the state inputs, so a node that writes one may run only when every other node
that reads the old value has run. Mostly the maths says so already: victims derive from the attention's statistics, and
what is written from the victims. Where it does not (a policy that reads no statistics), this pass adds the edge.

Postcondition: for every pair `past.X`, `present.X`, each reader of `past.X` is an ancestor of the node that yields
`present.X`, or that node.
"""

from __future__ import annotations

import onnx_ir as ir

from retentive_export.errors import ExportError

__all__ = ["order_reads_before_writes"]

_INDICES = 1
_VIEWS = {"Transpose", "Cast", "Reshape", "Unsqueeze"}
"""Runtimes fuse these into the node that reads them, unless somebody else reads them too."""


def order_reads_before_writes(model: ir.Model) -> None:
    """Add `0 * Size(what was read)` to the indices of the write; Size looks at the shape alone, so NaN cannot spread.

    Raises:
        ExportError: a write that needs an edge is not a ScatterElements.
    """
    graph = model.graph
    old = {value.name: value for value in graph.inputs}
    zero: ir.Value | None = None
    for output in graph.outputs:
        assert output.name is not None
        past, write = old.get(output.name.replace("present.", "past.", 1)), output.producer()
        if not output.name.startswith("present.") or past is None or write is None:
            continue
        known = _ancestors(write)
        late = [
            node for node in dict.fromkeys(use.node for use in past.uses()) if node is not write and node not in known
        ]
        if not late:
            continue
        if write.op_type != "ScatterElements":
            raise ExportError(f"{output.name} is written by a {write.op_type} that does not wait for {late[0].name!r}")
        if zero is None:
            zero = _zero(graph)
        for reader in late:
            _wait(graph, write, reader, zero)


def _wait(graph: ir.Graph, write: ir.Node, reader: ir.Node, zero: ir.Value) -> None:
    indices = write.inputs[_INDICES]
    assert indices is not None
    while reader.op_type in _VIEWS and len(reader.outputs[0].uses()) == 1:
        reader = next(iter(reader.outputs[0].uses())).node
    stem = f"{write.name or write.op_type}_after_{reader.name or reader.op_type}"
    size = ir.node("Size", [reader.outputs[0]], name=f"{stem}_size")
    nothing = ir.node("Mul", [size.outputs[0], zero], name=f"{stem}_nothing")
    edge = ir.node("Add", [indices, nothing.outputs[0]], name=f"{stem}_edge")
    for node in (size, nothing, edge):
        node.outputs[0].name = node.name
    graph.insert_before(write, [size, nothing, edge])
    write.replace_input_with(_INDICES, edge.outputs[0])


def _zero(graph: ir.Graph) -> ir.Value:
    node = ir.node("Constant", [], attributes={"value": ir.tensor(0, dtype=ir.DataType.INT64)}, name="no_rows")
    node.outputs[0].name = "no_rows"
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
