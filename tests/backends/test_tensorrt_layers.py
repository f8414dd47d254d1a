"""The checks after a build, on what TensorRT-RTX said of a real engine, and on what an inspector would say.

Every kind of loss is made by editing the report of an engine that holds everything.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from retentive_export.backends.tensorrt.graph import CustomNode, read_graph
from retentive_export.backends.tensorrt.layers import (
    EngineReport,
    Layer,
    check_in_place,
    check_layers,
    check_tensors,
    loaded_engine,
    parse_log,
)
from retentive_export.errors import ExportError
from retentive_export.ops.contract import OPS
from retentive_export.spec.manifest import TensorContract
from tests.backends.tensorrt_jobs import builder_log, decoder_job


@pytest.fixture(scope="module")
def log(vision_artifact: Path, plugin_library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What TensorRT-RTX logged of the vision artifact's decoder."""
    folder = tmp_path_factory.mktemp("log")
    return builder_log(decoder_job(vision_artifact, folder / "decoder.plan", plugin_library), folder / "log.json")


@pytest.fixture
def report(log: list[str]) -> EngineReport:
    return parse_log(log)


@pytest.fixture(scope="module")
def nodes(vision_artifact: Path) -> tuple[CustomNode, ...]:
    return read_graph(vision_artifact / "decoder.tensorrt.onnx").nodes


@pytest.fixture(scope="module")
def contract(vision_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TensorContract]:
    return decoder_job(vision_artifact, tmp_path_factory.mktemp("unused"), None).contract


def test_one_plugin_layer_per_operator_and_attention_layer(
    report: EngineReport, nodes: tuple[CustomNode, ...], contract: list[TensorContract]
) -> None:
    plugins = [layer for layer in report.layers if layer.is_plugin]
    assert len(plugins) == len(nodes) == 9
    assert {name for layer in plugins for name in layer.nodes} >= {node.name for node in nodes}
    assert check_layers(report, nodes) == dict.fromkeys(OPS, 3)
    assert len(report.layers) > len(plugins)
    assert report.activation_bytes > 0
    check_in_place(report, contract)
    check_tensors(report.tensors, contract, "engine")
    assert set(report.tensors) == {tensor.name for tensor in contract}


def test_every_profile_has_its_plugins(
    vision_artifact: Path, plugin_library: Path, nodes: tuple[CustomNode, ...], tmp_path: Path
) -> None:
    """Two profiles of a real engine: all layers twice, under names with a suffix."""
    job = decoder_job(vision_artifact, tmp_path / "x.plan", plugin_library, profiles=[(1, 1, 1), (1, 8, 8)])
    report = parse_log(builder_log(job, tmp_path / "log.json"))
    for profile in (0, 1):
        assert sum(layer.is_plugin for layer in report.layers if layer.profile == profile) == 9
    assert check_layers(report, nodes) == dict.fromkeys(OPS, 3)
    check_in_place(report, job.contract)


def lost(layers: list[Layer], at: int) -> list[Layer]:
    return [layer for index, layer in enumerate(layers) if index != at]


def replaced(layers: list[Layer], at: int) -> list[Layer]:
    return [dataclasses.replace(x, kind="kgen") if index == at else x for index, x in enumerate(layers)]


def split(layers: list[Layer], at: int) -> list[Layer]:
    return [*layers, dataclasses.replace(layers[at], name="second half")]


def joined(layers: list[Layer], at: int) -> list[Layer]:
    """The next operator's node is said to be in this plugin layer too."""
    following = next(x for x in layers[at + 1 :] if x.is_plugin)
    both = dataclasses.replace(layers[at], nodes=layers[at].nodes | following.nodes)
    return [both if x is layers[at] else x for x in layers if x is not following]


def missing_in_a_profile(layers: list[Layer], at: int) -> list[Layer]:
    second = [dataclasses.replace(x, name=f"{x.name} [profile 1]", profile=1) for x in layers]
    return [*layers, *lost(second, at)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lost, "and became nothing"),
        (replaced, r"and became node_\w+ \(kgen\)"),
        (split, r"and became node_\w+ \(custom_layer\), second half \(custom_layer\)"),
        (joined, r"and became node_\w+ \(custom_layer\)"),
        (missing_in_a_profile, "and became nothing in optimisation profile 1"),
    ],
)
@pytest.mark.parametrize("op", OPS)
def test_a_plugin_that_was_lost(
    op: str, change: Callable[..., Any], words: str, report: EngineReport, nodes: tuple[CustomNode, ...]
) -> None:
    node = next(node for node in nodes if node.op == op)
    at = next(index for index, layer in enumerate(report.layers) if node.name in layer.nodes)
    altered = dataclasses.replace(report, layers=tuple(change(list(report.layers), at)))
    with pytest.raises(ExportError, match=rf"of type \w+ must be one plugin layer of the engine, {words}"):
        check_layers(altered, nodes)


@pytest.mark.parametrize("name", ["past.0.key_codes", "present.2.importance"])
def test_state_that_is_not_updated_in_place(name: str, report: EngineReport, contract: list[TensorContract]) -> None:
    """A copy or a reformat between the state's memory and the plugin."""
    copy = Layer(name="Reformat", kind="reformat", nodes=frozenset(), reads=frozenset({name}), writes=frozenset({"x"}))
    with pytest.raises(
        ExportError, match=rf"'{name}' must be used by plugins alone.* layer Reformat \(reformat\) does"
    ):
        check_in_place(dataclasses.replace(report, layers=(*report.layers, copy)), contract)
    unused = [
        dataclasses.replace(layer, reads=layer.reads - {name}, writes=layer.writes - {name}) for layer in report.layers
    ]
    with pytest.raises(ExportError, match=rf"'{name}' must be used by plugins alone, without a copy, and none does"):
        check_in_place(dataclasses.replace(report, layers=tuple(unused)), contract)


@pytest.mark.parametrize("name", ["past.0.key_codes", "logits", "token_meta"])
@pytest.mark.parametrize("change", [{"dtype": "float16"}, {"shape": (7,)}, {"is_input": None}])
def test_tensors_that_changed(
    name: str, change: dict[str, Any], report: EngineReport, contract: list[TensorContract]
) -> None:
    old = report.tensors[name]
    if "is_input" in change:
        change = {"is_input": not old.is_input}
    tensors = {**report.tensors, name: dataclasses.replace(old, **change)}
    with pytest.raises(ExportError, match=rf"{name} of the engine is an? (in|out)put of .*, and the contract says"):
        check_tensors(tensors, contract, "engine")


def test_an_input_may_not_be_open(report: EngineReport, contract: list[TensorContract]) -> None:
    """The parser leaves an output's dimension open where it cannot tell it; an input's is as the contract has it."""
    logits = dataclasses.replace(report.tensors["logits"], shape=(1, -1, 400))
    check_tensors({**report.tensors, "logits": logits}, contract, "engine")
    old = report.tensors["past.0.key_rows"]
    tensors = {**report.tensors, "past.0.key_rows": dataclasses.replace(old, shape=(1, 2, -1, 16))}
    with pytest.raises(ExportError, match=r"past\.0\.key_rows of the engine is an input"):
        check_tensors(tensors, contract, "engine")


@pytest.mark.parametrize("facts", [[], ["Total Activation Memory: 8 bytes"], ["Layers:\nnothing that is known"]])
def test_a_log_in_another_form(facts: list[str]) -> None:
    """What cannot be checked is not taken for checked."""
    with pytest.raises(ExportError, match="the builder's log lists no layers"):
        parse_log(facts)


def engine(layers: list[dict[str, Any]], tensors: dict[str, tuple[str, str, list[int]]]) -> tuple[Any, Any]:
    """TensorRT's module and an engine that is loaded, as far as the report asks them."""
    trt = SimpleNamespace(
        LayerInformationFormat=SimpleNamespace(JSON="json"), TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out")
    )
    inspector = SimpleNamespace(get_engine_information=lambda form: json.dumps({"Layers": layers, "Bindings": []}))
    return trt, SimpleNamespace(
        create_engine_inspector=lambda: inspector,
        num_io_tensors=len(tensors),
        get_tensor_name=lambda index: list(tensors)[index],
        get_tensor_mode=lambda name: tensors[name][0],
        get_tensor_dtype=lambda name: SimpleNamespace(name=tensors[name][1]),
        get_tensor_shape=lambda name: tensors[name][2],
        device_memory_size_v2=640,
    )


def test_the_report_of_a_loaded_engine() -> None:
    """As TensorRT's inspector writes it: a plugin is PluginV3, and a second profile's layers and tensors have a
    suffix."""
    layers: list[Any] = [
        {
            "Name": f"gate{suffix}",
            "LayerType": "PluginV3",
            "Inputs": [{"Name": f"past.0.entropy{suffix}", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": f"present.0.entropy{suffix}"}],
            "Metadata": f"[ONNX Layer: gate{suffix}]",
        }
        for suffix in ("", " [profile 1]")
    ]
    tensors = {"past.0.entropy": ("in", "FLOAT", [1, 8]), "present.0.entropy": ("out", "FLOAT", [1, 8])}
    report = loaded_engine(*engine([*layers, "a layer built without detail"], tensors))
    node = CustomNode(name="gate", op="EntropyGate", attributes=frozenset())
    assert check_layers(report, [node]) == {"EntropyGate": 1}
    assert [layer.profile for layer in report.layers] == [0, 1]
    assert report.activation_bytes == 640
    past = TensorContract(name="past.0.entropy", shape=[1, 8], dtype="float32", role="state_in")
    pair = [past, past.model_copy(update={"name": "present.0.entropy", "role": "state_out", "alias": past.name})]
    check_in_place(report, pair)
    check_tensors(report.tensors, pair, "engine")
    layers[1]["LayerType"] = "Reformat"
    report = loaded_engine(*engine(layers, tensors))
    with pytest.raises(ExportError, match=r"became gate \[profile 1\] \(Reformat\) in optimisation profile 1"):
        check_layers(report, [node])
    with pytest.raises(ExportError, match=r"layer gate \[profile 1\] \(Reformat\) does"):
        check_in_place(report, pair)


def test_a_graph_is_read_as_onnx_reads_it(vision_artifact: Path, text_artifact: Path) -> None:
    import onnx

    for path in (
        vision_artifact / "decoder.tensorrt.onnx",
        text_artifact / "decoder.onnx",
        vision_artifact / "vision.onnx",
    ):
        model, graph = onnx.load(path, load_external_data=False), read_graph(path)
        ours = [node for node in model.graph.node if node.domain == "com.retentivekv"]
        assert [(node.name, node.op) for node in graph.nodes] == [(node.name, node.op_type) for node in ours]
        assert [set(node.attributes) for node in graph.nodes] == [{a.name for a in node.attribute} for node in ours]
        assert list(graph.bodies) == [f.name for f in model.functions if f.domain == "com.retentivekv"]
