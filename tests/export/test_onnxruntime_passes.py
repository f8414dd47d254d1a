"""Passes of ONNX Runtime's flavour, on graphs of a few nodes, by what the graph computes before and after."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from retentive_export.errors import ExportError
from retentive_export.export.passes.divide_by_norms import divide_by_norms
from retentive_export.export.passes.fuse_rotary import fuse_rotary
from retentive_export.export.passes.inline_bodies import inline_bodies
from retentive_export.export.passes.merge_projections import merge_projections
from retentive_export.export.passes.order_writes import order_reads_before_writes
from retentive_export.ops.contract import DOMAIN, OPS, VERSION, attributes
from retentive_export.ops.onnx_functions import OPSET, function_body
from retentive_export.spec.arrays import Array
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

FLOAT = ir.DataType.FLOAT


def value(name: str, shape: list[int | str], dtype: ir.DataType = FLOAT) -> ir.Value:
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))


def model(inputs: list[ir.Value], nodes: list[ir.Node], outputs: list[ir.Value], constants: list[ir.Value]) -> ir.Model:
    for output in outputs:
        output.type = output.type or ir.TensorType(FLOAT)
    opsets = {"": OPSET}
    return ir.Model(
        ir.Graph(inputs, outputs, nodes=nodes, initializers=constants, opset_imports=opsets, name="g"), ir_version=10
    )


def run(graph: ir.Model, feeds: dict[str, Array]) -> list[Array]:
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[Array] = session.run(None, feeds)
    return outputs


def kinds(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph if node.op_type != "Constant"]


def constant(name: str, array: Any) -> ir.Value:
    return ir.val(name, const_value=ir.tensor(np.asarray(array), name=name))


def rotary(heads: int, batch: int = 1, *, same_halves: bool = True) -> ir.Model:
    """x * cos + concat(-x[half:], x[:half]) * sin, as transformers' modules trace to."""
    x, angles = value("x", [batch, heads, "T", 8]), value("angles", [batch, "T", 4])
    numbers = [constant(n, np.array([v])) for n, v in {"0": 0, "4": 4, "max": 2**62, "3": 3, "1": 1}.items()]
    zero, half, end, axis, one = numbers
    other = ir.node("Neg", [angles], name="other").outputs[0]
    both = ir.node("Concat", [angles, angles if same_halves else other], {"axis": -1}, name="both")
    waves = [ir.node(f, [both.outputs[0]], name=f) for f in ("Cos", "Sin")]
    lifted = [ir.node("Unsqueeze", [wave.outputs[0], one], name=f"{wave.name}_up") for wave in waves]
    front = ir.node("Slice", [x, zero, half, axis, one], name="front")
    back = ir.node("Slice", [x, half, end, axis, one], name="back")
    negated = ir.node("Neg", [back.outputs[0]], name="negated")
    turned = ir.node("Concat", [negated.outputs[0], front.outputs[0]], {"axis": -1}, name="turned")
    near = ir.node("Mul", [x, lifted[0].outputs[0]], name="near")
    far = ir.node("Mul", [turned.outputs[0], lifted[1].outputs[0]], name="far")
    out = ir.node("Add", [near.outputs[0], far.outputs[0]], name="out")
    out.outputs[0].name = "y"
    out.outputs[0].shape = ir.Shape([batch, heads, "T", 8])
    nodes = [*([] if same_halves else [other.producer()]), both, *waves, *lifted]
    nodes += [front, back, negated, turned, near, far, out]
    return model([x, angles], nodes, out.outputs, numbers)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_rotation_becomes_one_operator_with_the_same_result(steps: int) -> None:
    """At positions far beyond any table."""
    rng = np.random.default_rng(0)
    frequencies = 1e4 ** (-np.arange(4) / 4)
    angles = ((70_000 + np.arange(steps))[None, :, None] * frequencies).astype(np.float32)
    feeds = {"x": rng.standard_normal((1, 3, steps, 8)).astype(np.float32), "angles": angles}
    graph = rotary(3)
    (want,) = run(graph, feeds)
    fuse_rotary(graph)
    assert "RotaryEmbedding" in kinds(graph)
    (got,) = run(graph, feeds)
    assert np.abs(got - want).max() < 1e-6


@pytest.mark.parametrize("graph", [rotary(2, batch=2), rotary(2, same_halves=False)], ids=["batch", "halves differ"])
def test_other_rotations_are_left_alone(graph: ir.Model) -> None:
    before = kinds(graph)
    fuse_rotary(graph)
    assert kinds(graph) == before


def test_a_norm_divides() -> None:
    x = value("x", [2, 3])
    root = ir.node("Sqrt", [x], name="root")
    inverse = ir.node("Reciprocal", [root.outputs[0]], name="inverse")
    product = ir.node("Mul", [x, inverse.outputs[0]], name="product")
    product.outputs[0].name = "y"
    graph = model([x], [root, inverse, product], product.outputs, [])
    feeds = {"x": np.arange(1, 7, dtype=np.float32).reshape(2, 3)}
    (want,) = run(graph, feeds)
    divide_by_norms(graph)
    assert kinds(graph) == ["Sqrt", "Div"]
    assert graph.graph.outputs[0].name == "y"
    assert np.allclose(run(graph, feeds)[0], want, rtol=3e-7)


@pytest.mark.parametrize("turned", [False, True])
def test_products_of_one_input_become_one(turned: bool) -> None:
    rng = np.random.default_rng(1)
    x, nodes, outputs, constants = value("x", [1, "T", 4]), [], [], []
    for index, width in enumerate((6, 2, 3)):
        array = rng.standard_normal((width, 4) if turned else (4, width)).astype(np.float32)
        matrix = constant(f"w{index}", array)
        constants.append(matrix)
        if turned:
            nodes.append(ir.node("Transpose", [matrix], {"perm": [1, 0]}, name=f"t{index}"))
            matrix = nodes[-1].outputs[0]
        nodes.append(ir.node("MatMul", [x, matrix], name=f"m{index}"))
        tail = ir.node("Identity", nodes[-1].outputs, name=f"i{index}")
        tail.outputs[0].name = f"y{index}"
        nodes.append(tail)
        outputs += tail.outputs
    graph = model([x], nodes, outputs, constants)
    feeds = {"x": rng.standard_normal((1, 5, 4)).astype(np.float32)}
    want = run(graph, feeds)
    merge_projections(graph)
    assert kinds(graph).count("MatMul") == 1
    for got, expected in zip(run(graph, feeds), want, strict=True):
        assert np.allclose(got, expected, atol=1e-6)


def late_read() -> ir.Model:
    """A write into past.0.rows that does not depend on the product that reads them."""
    rows = value("past.0.rows", [4, 2])
    query, index, update = value("q", [1, 2]), value("i", [1, 2], ir.DataType.INT64), value("u", [1, 2])
    turn = ir.node("Transpose", [rows], {"perm": [1, 0]}, name="turn")
    read = ir.node("MatMul", [query, turn.outputs[0]], name="read")
    read.outputs[0].name = "seen"
    write = ir.node("ScatterElements", [rows, index, update], {"axis": 0}, name="write")
    write.outputs[0].name, write.outputs[0].type = "present.0.rows", ir.TensorType(FLOAT)
    return model([rows, query, index, update], [write, turn, read], [read.outputs[0], write.outputs[0]], [])


def test_a_write_waits_for_every_read_of_the_old_value() -> None:
    """Even where the graph lists the write first; it waits for the product, not for the view that is fused into it."""
    graph = late_read()
    order_reads_before_writes(graph)
    graph.graph.sort()
    order = kinds(graph)
    assert order.index("MatMul") < order.index("ScatterElements")
    (turn,) = [node for node in graph.graph if node.op_type == "Transpose"]
    assert len(turn.outputs[0].uses()) == 1
    feeds = {
        "past.0.rows": np.arange(8, dtype=np.float32).reshape(4, 2),
        "q": np.ones((1, 2), np.float32),
        "i": np.array([[2, 2]]),
        "u": np.array([[np.nan, 9.0]], np.float32),
    }
    seen, rows = run(graph, feeds)
    assert seen.tolist() == [[1.0, 5.0, 9.0, 13.0]]
    assert np.array_equal(rows[2], [np.nan, 9.0], equal_nan=True)
    assert np.array_equal(rows[[0, 1, 3]], feeds["past.0.rows"][[0, 1, 3]])


def elementwise(kind: str) -> ir.Model:
    """Listed before the reads of past.0.mass, a write of it by something else than a scatter, which keeps -0.0."""
    mass, query = value("past.0.mass", [1, 2]), value("q", [1, 2])
    wide = ir.node("Unsqueeze", [mass, constant("axis", np.array([0]))], name="wide")
    sums = ir.node("ReduceSum", [wide.outputs[0]], {"keepdims": 0}, name="sums")
    read = ir.node("Mul", [mass, query], name="read")
    other = ir.node("Add", [wide.outputs[0], query], name="other")
    inputs = {
        "Neg": [mass],
        "Where": [value("c", [1, 2], ir.DataType.BOOL), query, mass],
        "Add": [mass, sums.outputs[0]],
    }[kind]
    write = ir.node(kind, inputs, name="write")
    for node, name in ((read, "seen"), (other, "also"), (write, "present.0.mass")):
        node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(FLOAT)
    nodes = [wide, sums, write, read, other]
    given = [mass, query, *(inputs[:1] if kind == "Where" else [])]
    sums.outputs[0].shape, sums.outputs[0].type = ir.Shape([]), ir.TensorType(FLOAT)
    outputs = [node.outputs[0] for node in (read, other, write)]
    return model(given, nodes, outputs, [wide.inputs[1]])  # type: ignore[list-item]


@pytest.mark.parametrize("kind", ["Neg", "Where", "Add"])
def test_any_kind_of_write_waits_and_keeps_every_bit(kind: str) -> None:
    """In place, and for all who read a view, of whom the write may know one already."""
    feeds = {
        "past.0.mass": np.array([[-0.0, np.nan]], np.float32),
        "q": np.array([[-0.0, 2.0]], np.float32),
        "c": np.array([[True, False]]),
    }
    graph = elementwise(kind)
    feeds = {name: array for name, array in feeds.items() if name in {v.name for v in graph.graph.inputs}}
    want = run(elementwise(kind), feeds)
    order_reads_before_writes(graph)
    (write,) = [node for node in graph.graph if node.name == "write"]
    assert {"read", "other"} <= {node.name for node in ancestors(write)}
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_cpu_input(name, array)
    got = [np.empty_like(array) for array in want[:2]] + [feeds["past.0.mass"]]
    for output, array in zip(session.get_outputs(), got, strict=True):
        binding.bind_output(output.name, "cpu", 0, array.dtype, array.shape, array.ctypes.data)
    session.run_with_iobinding(binding)
    for array, expected in zip(got, want, strict=True):
        assert array.tobytes() == expected.tobytes()


def test_a_write_that_cannot_wait_is_an_error() -> None:
    """It feeds what reads the old value."""
    mass = value("past.0.mass", [2])
    write = ir.node("Neg", [mass], name="write")
    read = ir.node("Mul", [mass, write.outputs[0]], name="read")
    read.outputs[0].name = "seen"
    write.outputs[0].name, write.outputs[0].type = "present.0.mass", ir.TensorType(FLOAT)
    graph = model([mass], [write, read], [read.outputs[0], write.outputs[0]], [])
    with pytest.raises(
        ExportError, match=r"present\.0\.mass is written by 'write', and 'read' needs the old and the new value"
    ):
        order_reads_before_writes(graph)


def test_a_write_of_unknown_rank_is_an_error() -> None:
    graph = late_read()
    write = next(node for node in graph.graph if node.op_type == "ScatterElements")
    for source in write.inputs:
        assert source is not None
        source.shape = None
    with pytest.raises(ExportError, match="the rank of none of its inputs is known"):
        order_reads_before_writes(graph)


def test_statistics_that_nobody_reads_are_not_computed() -> None:
    """Attention, gate and transition of a full cache: no logarithm is left, and nothing of our domain."""
    geometry = CacheGeometry(
        kv_heads=1, q_heads=2, head_dim=4, exact_rows=6, window=2, chunk=2, track_importance=False, track_entropy=False
    )
    gate = GateConfig(score="recency")
    bodies = {op: function_body(op, geometry, gate, 0.5) for op in OPS}
    shapes: dict[str, list[int | str]] = {"query": [1, 2, "T", 4], "key": [1, 1, "T", 4], "value": [1, 1, "T", 4]}
    named = {name: value(name, shape) for name, shape in shapes.items()}
    named["token_meta"] = value("token_meta", [1, "T", 2], ir.DataType.INT32)
    for spec in geometry.state():
        dtype = ir.DataType.INT32 if spec.dtype == "int32" else FLOAT
        named[spec.name] = value(f"past.0.{spec.name}", list(spec.shape), dtype)
    inputs, nodes = list(named.values()), []
    constants = [ir.convenience.convert_attribute(k, v) for k, v in attributes(geometry, gate, 0.5).items()]
    for op in OPS:
        outputs = OPS[op].output_names(geometry)
        reads = [named[name] for name in OPS[op].input_names(geometry)]
        nodes.append(ir.Node(DOMAIN, op, reads, constants, num_outputs=len(outputs), name=op))
        prefix = "present.0." if op == "StateTransition" else ""
        for output, name in zip(nodes[-1].outputs, outputs, strict=True):
            output.name = f"{prefix}{name}"
            named[name] = output
    finals = [nodes[0].outputs[0], *nodes[-1].outputs]
    for output, spec in zip(nodes[-1].outputs, geometry.state(), strict=True):
        output.type = ir.TensorType(ir.DataType.INT32 if spec.dtype == "int32" else FLOAT)
    graph = model(inputs, nodes, finals, [])
    graph.opset_imports[DOMAIN] = VERSION
    for body in bodies.values():
        graph.functions[body.identifier()] = body
    inline_bodies(graph)
    assert not graph.functions
    assert {node.domain for node in graph.graph} == {""}
    assert "Softmax" in kinds(graph)
    assert "Log" not in kinds(graph)


def ancestors(node: ir.Node) -> set[ir.Node]:
    found: set[ir.Node] = set()
    stack = [node]
    while stack:
        for source in stack.pop().inputs:
            producer = source.producer() if source is not None else None
            if producer is not None and producer not in found:
                found.add(producer)
                stack.append(producer)
    return found


@pytest.mark.parametrize("which", ["text_artifact", "full_artifact"])
def test_no_state_of_an_artifact_is_written_before_it_is_read(which: str, request: pytest.FixtureRequest) -> None:
    """The second is a full cache, whose victims depend on no statistic."""
    graph = ir.load(request.getfixturevalue(which) / "decoder.onnx").graph
    past = {value.name: value for value in graph.inputs}
    checked = 0
    for output in graph.outputs:
        if not str(output.name).startswith("present."):
            continue
        write = output.producer()
        assert write is not None
        known = ancestors(write)
        for use in past[str(output.name).replace("present.", "past.", 1)].uses():
            assert use.node is write or use.node in known, f"{output.name}, {use.node.name}"
            checked += 1
    assert checked > 10
