"""Which custom nodes and function bodies an ONNX file holds.

Read from the protobuf wire format directly, so that an engine can be built where the package `onnx` is not installed.
Numbers of fields: onnx.proto, https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from retentive_export.errors import ArtifactError, ExportError
from retentive_export.ops.contract import DOMAIN, OPS

__all__ = ["CustomNode", "Graph", "check_graph", "read_graph"]

_MODEL_GRAPH, _MODEL_FUNCTIONS = 7, 25
_GRAPH_NODE = 1
_NODE_NAME, _NODE_TYPE, _NODE_ATTRIBUTE, _NODE_DOMAIN = 3, 4, 5, 7
_FUNCTION_NAME, _FUNCTION_DOMAIN = 1, 10
_ATTRIBUTE_NAME = 1


@dataclass(frozen=True, kw_only=True)
class CustomNode:
    """A node of our domain, and the names of its attributes."""

    name: str
    op: str
    attributes: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Graph:
    """Nodes of our domain in graph order, and the operators of our domain that have a function body."""

    nodes: tuple[CustomNode, ...]
    bodies: tuple[str, ...]


def read_graph(path: Path) -> Graph:
    """Read a model file; weights in external files are not touched.

    Raises:
        ArtifactError: not readable, or not an ONNX model.
    """
    nodes: list[CustomNode] = []
    bodies: list[str] = []
    try:
        for field, content in _fields(memoryview(path.read_bytes())):
            if field == _MODEL_GRAPH:
                nodes += [node for part, data in _fields(content) if part == _GRAPH_NODE for node in _custom_node(data)]
            elif field == _MODEL_FUNCTIONS:
                function = _texts(content, _FUNCTION_NAME, _FUNCTION_DOMAIN)
                if function[_FUNCTION_DOMAIN] == DOMAIN:
                    bodies.append(function[_FUNCTION_NAME])
    except (OSError, ValueError, IndexError) as error:
        raise ArtifactError(f"{path} is not a readable ONNX model: {error}") from None
    return Graph(nodes=tuple(nodes), bodies=tuple(bodies))


def check_graph(graph: Graph, layers: int) -> None:
    """Hold that every custom node can become a plugin layer, and nothing else.

    Args:
        layers: how often the graph must hold each operator; 0 for a graph without any.

    Raises:
        ExportError: a function body was left in, a node lacks what the parser needs, or nodes are missing.
    """
    if graph.bodies:
        op = graph.bodies[0]
        node = next((node.name for node in graph.nodes if node.op == op), "")
        raise ExportError(
            f"the graph still holds the function body of {op} (node {node!r}): TensorRT would inline it instead of "
            "taking the plugin, and the engine would be slow",
            hint="build from decoder.tensorrt.onnx",
        )
    for custom in graph.nodes:
        if custom.op not in OPS:
            raise ExportError(f"node {custom.name!r} is of type {custom.op!r}, which has no plugin")
        if absent := {"plugin_version", "plugin_namespace"} - custom.attributes:
            raise ExportError(
                f"node {custom.name!r} of type {custom.op} lacks the attribute {min(absent)}, by which TensorRT finds "
                "its plugin",
                hint="build from decoder.tensorrt.onnx",
            )
    count = Counter(node.op for node in graph.nodes)
    for op in OPS:
        if count[op] != layers:
            raise ExportError(
                f"the graph holds {op} {count[op]} times, and must hold it once per layer ({layers})",
                hint=None if graph.nodes else "build from decoder.tensorrt.onnx, not from decoder.onnx",
            )


def _custom_node(data: memoryview) -> Iterator[CustomNode]:
    texts = _texts(data, _NODE_NAME, _NODE_TYPE, _NODE_DOMAIN)
    if texts[_NODE_DOMAIN] == DOMAIN:
        attributes = (
            _texts(content, _ATTRIBUTE_NAME)[_ATTRIBUTE_NAME]
            for field, content in _fields(data)
            if field == _NODE_ATTRIBUTE
        )
        yield CustomNode(name=texts[_NODE_NAME], op=texts[_NODE_TYPE], attributes=frozenset(attributes))


def _texts(data: memoryview, *wanted: int) -> dict[int, str]:
    """String fields of a message by number; "" where absent."""
    found = dict.fromkeys(wanted, "")
    for field, content in _fields(data):
        if field in found:
            found[field] = bytes(content).decode()
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of a message's length-delimited fields; the others are skipped."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it is truncated")
            yield key >> 3, data[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {kind} at byte {at}")


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
