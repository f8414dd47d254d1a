"""Constants that passes add to a graph."""

from __future__ import annotations

import onnx_ir as ir

from retentive_export.spec.arrays import Array

__all__ = ["constant_node", "new_initializer"]


def constant_node(name: str, array: Array) -> ir.Node:
    """A Constant that is in no graph yet; it and its output have the name."""
    node = ir.node("Constant", [], attributes={"value": ir.tensor(array, name=name)}, name=name)
    node.outputs[0].name = name
    return node


def new_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """An initializer of the graph."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
