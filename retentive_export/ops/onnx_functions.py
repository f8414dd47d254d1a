"""ONNX side of the operators: schemas, translation of the torch operators, and function bodies of standard operators.

A body is the reference of `cache/` itself, traced once for the geometry: there is no second definition to keep in step.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnxscript.values import Opset
from torch import Tensor

from retentive_export.cache.attention import AttentionResult, retentive_attention
from retentive_export.cache.gate import GateDecision, entropy_gate
from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.cache.transition import state_transition
from retentive_export.ops.constants import basis_of
from retentive_export.ops.contract import DOMAIN, OPS, VERSION, attributes, decode_config, tensor_specs
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["MAX_STATE_TENSORS", "OPSET", "function_body", "register_schemas", "translation_table"]

OPSET = 20
"""Opset of every emitted graph and function body; TensorRT 10.3's parser reads up to it."""

MAX_STATE_TENSORS = 12
"""More state tensors than any geometry has."""


def register_schemas() -> None:
    """Make the operators known to `onnx.defs`, so that checkers and the exporter accept their nodes. Idempotent."""
    for name in OPS:
        if not onnx.defs.has(name, domain=DOMAIN):
            onnx.defs.register_schema(_schema(name))


def _schema(name: str) -> onnx.defs.OpSchema:
    schema, contract = onnx.defs.OpSchema, OPS[name]
    option = schema.FormalParameterOption
    floats = ["tensor(float)", "tensor(float16)", "tensor(bfloat16)"]
    every = [*floats, "tensor(int8)", "tensor(uint8)", "tensor(int32)", "tensor(int64)"]

    def parameter(label: str, kind: Any = option.Single) -> onnx.defs.OpSchema.FormalParameter:
        homogeneous = kind is not option.Variadic
        return schema.FormalParameter(label, f"T_{label}", param_option=kind, is_homogeneous=homogeneous)

    # One variadic input: onnxscript repeats the inputs that stand before a variadic one.
    inputs = [parameter("inputs", option.Variadic)]
    # StateTransition has as many outputs as the layer has state tensors; the exporter wants a fixed number and
    # the pass `annotate_custom_types` cuts the rest off.
    outputs = [parameter(label) for label in contract.outputs]
    if not outputs:
        outputs = [parameter(label, option.Optional) for label in _most_state_outputs()]
    labels = {p.type_str for p in (*inputs, *outputs)}
    return schema(
        name,
        DOMAIN,
        VERSION,
        inputs=inputs,
        outputs=outputs,
        type_constraints=[(label, every, "") for label in sorted(labels)],
        attributes=[
            schema.Attribute(label, kind, required=False) for label, kind in sorted(_attribute_types().items())
        ],
    )


def _most_state_outputs() -> list[str]:
    return [f"state_next_{i}" for i in range(MAX_STATE_TENSORS)]


def _attribute_types() -> dict[str, onnx.defs.OpSchema.AttrType]:
    """Name and type of every attribute; the same for all operators and geometries."""
    kinds = onnx.defs.OpSchema.AttrType
    geometry = CacheGeometry(kv_heads=1, q_heads=1, head_dim=2, exact_rows=0, latent_rows=1, latent_rank=1)
    example = attributes(geometry, GateConfig(), 1.0)
    by_type = {int: kinds.INT, float: kinds.FLOAT, str: kinds.STRING, list: kinds.INTS}
    # TensorRT's parser reads the first two, the plugin of StateTransition the third.
    plugin = {"plugin_version": kinds.STRING, "plugin_namespace": kinds.STRING, "declare_alias": kinds.INT}
    return plugin | {name: by_type[type(value)] for name, value in example.items()}


def translation_table() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For `torch.onnx.export(custom_translation_table=...)`: torch operator -> one node of our domain."""
    import retentive_export.ops.torch_ops  # noqa: F401 - registers torch.ops.retentivekv

    register_schemas()
    opset = Opset(DOMAIN, VERSION)

    def constants(config: str) -> dict[str, Any]:
        return attributes(*decode_config(config))

    def attention(query, key, value, token_meta, state, config):  # type: ignore[no-untyped-def]
        return opset.RetentiveAttention(query, key, value, token_meta, *state, **constants(config))

    def gate(received, surprise, visual_entropy, token_meta, state, config):  # type: ignore[no-untyped-def]
        return opset.EntropyGate(received, surprise, visual_entropy, token_meta, *state, **constants(config))

    def transition(  # type: ignore[no-untyped-def]
        victims, importance_next, entropy_next, absorption, retention, key, value, token_meta, state, config
    ):
        geometry, _, _ = decode_config(config)
        head = (victims, importance_next, entropy_next, absorption, retention, key, value, token_meta)
        return opset.StateTransition(*head, *state, **constants(config))[: len(geometry.state())]

    ops = torch.ops.retentivekv
    return {
        ops.attention.default: attention,
        ops.gate.default: gate,
        ops.transition.default: transition,
    }


class _Body(torch.nn.Module):
    """Calls one reference function with flat inputs in the order of the contract."""

    def __init__(self, op: str, geometry: CacheGeometry, gate: GateConfig, scale: float) -> None:
        super().__init__()
        self.op, self.geometry, self.gate, self.scale = op, geometry, gate, scale

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip(OPS[self.op].input_names(self.geometry), flat, strict=True))
        scale = named.get("key_scale")
        basis = basis_of(named, self.geometry)
        query, key, value, meta = (named.get(name, flat[0]) for name in OPS["RetentiveAttention"].inputs)
        if self.op == "RetentiveAttention":
            return tuple(
                retentive_attention(
                    *(query, key, value, meta, named, scale),
                    geometry=self.geometry,
                    gate=self.gate,
                    scale=self.scale,
                    basis=basis,
                )
            )
        if self.op == "EntropyGate":
            received = named["received"]  # stands in for the output, which the gate does not read
            attention = AttentionResult(received, received, named["surprise"], named["visual_entropy"])
            return tuple(entropy_gate(attention, meta, named, None, geometry=self.geometry, gate=self.gate))
        decision = GateDecision(*(named[name] for name in OPS["StateTransition"].inputs[:5]))
        after = state_transition(decision, key, value, meta, named, scale, geometry=self.geometry, basis=basis)
        return tuple(after.values())


def example_inputs(op: str, geometry: CacheGeometry, steps: int) -> dict[str, Tensor]:
    """Zero tensors of the right shapes and dtypes for `steps` new tokens, in the contract's order."""
    return {
        name: torch.zeros(spec.shape, dtype=TORCH_DTYPES[spec.dtype])
        for name, spec in tensor_specs(op, geometry, steps).items()
    }


def function_body(op: str, geometry: CacheGeometry, gate: GateConfig, scale: float) -> ir.Function:
    """The operator as an ONNX function of standard operators at opset `OPSET`, for this geometry and any T >= 1."""
    steps = 3 if geometry.chunk >= 3 else 2  # an example that the tracer cannot mistake for a constant
    inputs = example_inputs(op, geometry, steps)
    shapes = tuple(_dynamic(name) for name in inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            _Body(op, geometry, gate, scale).eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[f"{name}_out" for name in OPS[op].output_names(geometry)],
            dynamic_shapes=(shapes,),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return _to_function(op, program.model, attributes(geometry, gate, scale))


def _dynamic(name: str) -> dict[int, Any]:
    axis = {"query": 2, "key": 2, "value": 2, "token_meta": 1, "victims": 3, "absorption": 2}
    axis |= dict.fromkeys(("received", "surprise", "importance_next", "entropy_next"), 2)
    return {axis[name]: torch.export.Dim.DYNAMIC} if name in axis else {}


def _to_function(op: str, model: ir.Model, constants: dict[str, Any]) -> ir.Function:
    """Turn a traced graph into a function: initializers become Constant nodes, every output has a node of its own."""
    graph = model.graph
    for value in list(graph.initializers.values()):
        assert value.const_value is not None
        assert value.name is not None
        node = ir.node("Constant", [], attributes={"value": value.const_value})
        node.outputs[0].name = value.name
        value.replace_all_uses_with(node.outputs[0], replace_graph_outputs=True)
        del graph.initializers[value.name]
        graph.insert_before(graph[0], node)
    seen: set[ir.Value] = set(graph.inputs)
    for position, output in enumerate(graph.outputs):
        if output in seen:
            node = ir.node("Identity", [output])
            node.outputs[0].name = f"{output.name}_copy"
            graph.append(node)
            graph.outputs[position] = node.outputs[0]
        seen.add(graph.outputs[position])
    graph.opset_imports.clear()
    graph.opset_imports[""] = OPSET
    declared = [ir.Attr(name, _ir_type(value), None) for name, value in constants.items()]
    return ir.Function(DOMAIN, op, "", graph=graph, attributes=declared)


def _ir_type(value: Any) -> ir.AttributeType:
    kinds = {int: ir.AttributeType.INT, float: ir.AttributeType.FLOAT, str: ir.AttributeType.STRING}
    return kinds.get(type(value), ir.AttributeType.INTS)
