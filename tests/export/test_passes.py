"""Graph passes on graphs of a few nodes."""

from __future__ import annotations

import onnx_ir as ir
import pytest

from retentive_export.errors import ExportError
from retentive_export.export.passes.annotate_types import annotate_custom_types
from retentive_export.export.passes.flavours import attach_functions, custom_nodes, tensorrt_flavour
from retentive_export.ops.contract import DOMAIN, OPS
from retentive_export.ops.onnx_functions import OPSET, function_body
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

GEOMETRY = CacheGeometry(kv_heads=1, q_heads=2, head_dim=4, exact_rows=6, window=2, chunk=2)


def _value(name: str) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))


def _model(*op_types: str, outputs: int = 1) -> ir.Model:
    """A chain of custom nodes behind one standard node."""
    start = _value("x")
    nodes = [ir.Node("", "Identity", [start], num_outputs=1)]
    for op_type in op_types:
        nodes.append(ir.Node(DOMAIN, op_type, [nodes[-1].outputs[0]], num_outputs=outputs))
    graph = ir.Graph([start], [nodes[-1].outputs[0]], nodes=nodes, opset_imports={"": OPSET}, name="g")
    return ir.Model(graph, ir_version=10)


def _body(op: str) -> ir.Function:
    return function_body(op, GEOMETRY, GateConfig(), 0.5)


def test_custom_nodes_are_those_of_the_domain() -> None:
    assert [node.op_type for node in custom_nodes(_model("EntropyGate", "StateTransition"))] == [
        "EntropyGate",
        "StateTransition",
    ]


def test_a_node_without_body_is_refused() -> None:
    model = _model("EntropyGate", "StateTransition")
    with pytest.raises(ExportError, match="StateTransition"):
        attach_functions(model, [_body("EntropyGate")])


def test_tensorrt_flavour_has_no_bodies_and_leaves_the_source_alone() -> None:
    model = _model("EntropyGate")
    attach_functions(model, [_body("EntropyGate")])
    bare = tensorrt_flavour(model)
    assert not bare.functions
    assert len(model.functions) == 1
    (node,) = custom_nodes(bare)
    assert node.attributes["plugin_version"].as_string() == "1"
    assert node.attributes["plugin_namespace"].as_string() == DOMAIN
    assert "plugin_version" not in custom_nodes(model)[0].attributes


def test_tensorrt_flavour_declares_no_alias() -> None:
    """State is updated in place by one address under both names."""
    nodes = custom_nodes(tensorrt_flavour(_model("EntropyGate", "StateTransition")))
    assert ["declare_alias" in node.attributes for node in nodes] == [False, True]
    assert nodes[1].attributes["declare_alias"].as_int() == 0


def _coded(*op_types: str, domain: str = DOMAIN) -> ir.Model:
    """A chain of nodes that hand on packed codes, uint8."""
    codes = [ir.Value(name="c0", type=ir.TensorType(ir.DataType.UINT8), shape=ir.Shape([1]))]
    nodes = []
    for index, op_type in enumerate(op_types):
        nodes.append(ir.Node(domain if index else DOMAIN, op_type, [codes[-1]], num_outputs=1, name=f"n{index}"))
        nodes[-1].outputs[0].type = ir.TensorType(ir.DataType.UINT8)
        codes.append(nodes[-1].outputs[0])
    graph = ir.Graph([codes[0]], [codes[-1]], nodes=nodes, opset_imports={"": OPSET}, name="g")
    return ir.Model(graph, ir_version=10)


def test_packed_codes_are_signed_in_the_tensorrt_flavour_alone() -> None:
    model = _coded("StateTransition", "RetentiveAttention")
    bare = tensorrt_flavour(model)
    values = [*bare.graph.inputs, *(output for node in bare.graph for output in node.outputs)]
    assert [value.dtype for value in values] == [ir.DataType.INT8] * 3
    assert model.graph.inputs[0].dtype == ir.DataType.UINT8


def test_codes_that_another_operator_reads_keep_their_meaning() -> None:
    """A Cast of the same byte would give another number."""
    with pytest.raises(ExportError, match="node 'n1' of type 'Cast' uses the packed codes"):
        tensorrt_flavour(_coded("StateTransition", "Cast", domain=""))


def test_types_are_those_of_the_state() -> None:
    model = _model("StateTransition", outputs=12)
    annotate_custom_types(model, GEOMETRY)
    (node,) = custom_nodes(model)
    assert [output.dtype.name for output in node.outputs] == ["FLOAT", "FLOAT", "INT32", "FLOAT", "FLOAT"]


@pytest.mark.parametrize("op", OPS)
def test_bodies_hold_standard_operators_only(op: str) -> None:
    body = _body(op)
    assert {node.domain for node in body} == {""}
    assert [value.name for value in body.inputs] == list(OPS[op].input_names(GEOMETRY))
    assert len(set(body.outputs)) == len(OPS[op].output_names(GEOMETRY))
