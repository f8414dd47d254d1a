"""Graphs that must not become engines, on TensorRT-RTX itself: plugins, bodies, types and aliases that were lost."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import pytest

from retentive_export.backends.tensorrt.build import EngineJob
from retentive_export.backends.tensorrt.builder import run_worker
from retentive_export.errors import ArtifactError, ExportError, StorageError
from retentive_export.ops.contract import OPS
from retentive_export.ops.onnx_functions import function_body
from retentive_export.spec.manifest import read_manifest
from tests.backends.tensorrt_jobs import decoder_job

ATTENTION = "node_attention__3"
"""The text decoder's first node of ours."""


def build(job: EngineJob, *, command: list[str] | None = None) -> None:
    run_worker(job, lambda _: None, *([command] if command else []))


@pytest.fixture
def refused(text_artifact: Path, plugin_library: Path, tmp_path: Path) -> Any:
    """Builds the text decoder with changes to its job, and returns the error; no plan may be left."""

    def attempt(
        kind: type[Exception] = ExportError,
        library: Path | None = plugin_library,
        command: list[str] | None = None,
        **changes: Any,
    ) -> str:
        job = decoder_job(text_artifact, tmp_path / "decoder.plan", library, **changes)
        with pytest.raises(kind) as error:
            build(job, command=command)
        assert not job.plan.exists()
        return str(error.value)

    return attempt


def edited(artifact: Path, folder: Path, change: Any) -> Path:
    """The TensorRT flavour after `change(model)`, in a folder with the weights."""
    model = onnx.load(artifact / "decoder.tensorrt.onnx", load_external_data=False)
    change(model)
    (folder / "decoder.onnx.data").symlink_to(artifact / "decoder.onnx.data")
    onnx.save(model, folder / "edited.onnx")
    return folder / "edited.onnx"


def attributes(model: onnx.ModelProto, name: str) -> list[onnx.AttributeProto]:
    return [a for node in model.graph.node for a in node.attribute if a.name == name]


def test_without_a_plugin_library(refused: Any) -> None:
    message = refused(library=None)
    assert f"node {ATTENTION!r} of type RetentiveAttention needs a plugin, and no plugin library was given" in message
    assert "scripts/build_plugins.sh" in message


def test_a_library_without_plugins(refused: Any, plugin_build: Path) -> None:
    message = refused(library=plugin_build / "libretentive_reference.so")
    assert "libretentive_reference.so has no plugin for 'RetentiveAttention'" in message


def test_a_file_that_is_no_library(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "text.so").write_text("not a library")
    assert "text.so cannot be loaded: " in refused(library=tmp_path / "text.so")


def test_function_bodies_left_in(refused: Any, text_artifact: Path, tmp_path: Path) -> None:
    """The bodies that ONNX Runtime's flavour has inlined."""
    manifest = read_manifest(text_artifact)
    plan = manifest.plan()

    def attach(model: onnx.ModelProto) -> None:
        bodies = [function_body(op, plan.geometry, plan.gate, manifest.scale) for op in OPS]
        model.functions.extend(ir.to_proto(body) for body in bodies)

    message = refused(graph=edited(text_artifact, tmp_path, attach))
    assert f"still holds the function body of RetentiveAttention (node {ATTENTION!r})" in message
    assert "TensorRT would inline it instead of taking the plugin" in message
    assert "build from decoder.tensorrt.onnx" in message


def test_the_graph_for_onnxruntime(refused: Any, text_artifact: Path) -> None:
    """It has no node of ours any more."""
    message = refused(graph=text_artifact / "decoder.onnx")
    assert "holds RetentiveAttention 0 times, and must hold it once per layer (2)" in message
    assert "build from decoder.tensorrt.onnx" in message


@pytest.mark.parametrize("attribute", ["plugin_version", "plugin_namespace"])
def test_nodes_by_which_no_plugin_is_found(attribute: str, refused: Any, text_artifact: Path, tmp_path: Path) -> None:
    def strip(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            kept = [a for a in node.attribute if a.name != attribute]
            del node.attribute[:]
            node.attribute.extend(kept)

    message = refused(graph=edited(text_artifact, tmp_path, strip))
    assert f"of type RetentiveAttention lacks the attribute {attribute}" in message


def test_an_operator_of_ours_without_a_plugin(refused: Any, text_artifact: Path, tmp_path: Path) -> None:
    def rename(model: onnx.ModelProto) -> None:
        next(node for node in model.graph.node if node.op_type == "EntropyGate").op_type = "EntropyGates"

    assert "is of type 'EntropyGates', which has no plugin" in refused(graph=edited(text_artifact, tmp_path, rename))


def test_another_number_of_layers(refused: Any) -> None:
    assert "holds RetentiveAttention 2 times, and must hold it once per layer (3)" in refused(layers=3)


def test_an_attribute_that_the_plugin_refuses(refused: Any, text_artifact: Path, tmp_path: Path) -> None:
    """The plugin's own words, and the node, come back from the builder's process."""

    def misspell(model: onnx.ModelProto) -> None:
        attributes(model, "readout")[0].s = b"moments"

    message = refused(graph=edited(text_artifact, tmp_path, misspell))
    assert f"node {ATTENTION!r} of type RetentiveAttention" in message
    assert "attribute 'readout' is 'moments'; accepted: 'mass', 'residual', 'none'" in message


@pytest.mark.parametrize(
    ("name", "change", "seen", "wanted"),
    [
        ("logits", {"dtype": "float16"}, "an output of float32 [1, -1, 400]", "an output of float16"),
        ("past.0.key_rows", {"dtype": "float16"}, "an input of float32 [1, 2, 24, 16]", "an input of float16"),
        ("past.0.key_rows", {"shape": [1, 2, 25, 16]}, "an input of float32 [1, 2, 24, 16]", "an input of float32"),
        ("token_meta", {"dtype": "int64"}, "an input of int32 [1, -1, 2]", "an input of int64"),
    ],
)  # fmt: skip
def test_types_and_shapes_that_were_not_asked_for(
    name: str, change: dict[str, Any], seen: str, wanted: str, refused: Any, text_artifact: Path, tmp_path: Path
) -> None:
    contract = decoder_job(text_artifact, tmp_path, None).contract
    asked = [tensor.model_copy(update=change) if tensor.name == name else tensor for tensor in contract]
    message = refused(contract=asked)
    says = f"{name} of the graph decoder.tensorrt.onnx is {seen}, and the contract says {wanted} "
    assert message.startswith(says)


def test_inputs_and_outputs_that_were_not_asked_for(refused: Any, text_artifact: Path, tmp_path: Path) -> None:
    contract = decoder_job(text_artifact, tmp_path, None).contract
    assert "has another tensor, 'logits'" in refused(contract=[t for t in contract if t.name != "logits"])
    more = contract[0].model_copy(update={"name": "more"})
    assert "lacks 'more'" in refused(contract=[*contract, more])


@pytest.mark.parametrize(
    ("enabled", "words"),
    [(False, "ALIASED_PLUGIN_IO_10_03 not enabled"), (True, "Assertion hasValidProfileData() failed")],
)
def test_aliases_that_the_nodes_declare_are_no_engine(
    enabled: bool, words: str, refused: Any, text_artifact: Path, tmp_path: Path
) -> None:
    """Which is why the state is updated in place by one address under both names instead (docs/tensorrt.md)."""

    def declare(model: onnx.ModelProto) -> None:
        for attribute in attributes(model, "declare_alias"):
            attribute.i = 1

    message = refused(graph=edited(text_artifact, tmp_path, declare), declare_alias=enabled)
    assert message.startswith("TensorRT-RTX ")
    assert "cannot build edited.onnx: " in message
    assert words in message


def test_a_graph_that_is_none(refused: Any, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"\x3a\xff\xff")
    assert "x.onnx is not a readable ONNX model" in refused(ArtifactError, graph=tmp_path / "x.onnx")
    assert "absent.onnx is not a readable" in refused(ArtifactError, graph=tmp_path / "absent.onnx")


def test_a_disk_that_is_full(text_artifact: Path, plugin_library: Path, tmp_path: Path) -> None:
    plan = tmp_path / "file" / "decoder.plan"
    plan.parent.write_text("not a folder")
    with pytest.raises(StorageError, match=r"decoder\.plan cannot be written"):
        build(decoder_job(text_artifact, plan, plugin_library))


ALTERED = """
import dataclasses
from retentive_export.backends.tensorrt import build, layers, worker

real = build.parse_log

def altered(facts):
    report = real(facts)
    plugin = next(layer for layer in report.layers if layer.is_plugin)
    copy = layers.Layer(name="copy", kind="kgen", nodes=frozenset(), reads=plugin.reads, writes=frozenset())
    logits = dataclasses.replace(report.tensors["logits"], dtype="float16")
    return dataclasses.replace(report, {})

build.parse_log = altered
worker.main()
"""


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("layers=tuple(x for x in report.layers if x is not plugin)", "must be one plugin layer of the engine"),
        ("layers=(*report.layers, copy)", "must be used by plugins alone, without a copy, and layer copy (kgen) does"),
        (
            "tensors=report.tensors | {'logits': logits}",
            "logits of the engine of decoder.tensorrt.onnx is an output of",
        ),
    ],
)
def test_an_engine_that_is_not_what_was_asked_for(change: str, words: str, refused: Any) -> None:
    """The inspector's list of a real engine, altered before the checks see it: the build fails, and no plan is left."""
    assert words in refused(command=[sys.executable, "-c", ALTERED.replace("{}", change)])


KILL = "import os, signal; os.kill(os.getpid(), signal.{})"
CRASHES = [
    (KILL.format("SIGKILL"), ["(signal SIGKILL)", "memory ran out"]),
    (KILL.format("SIGSEGV"), ["(signal SIGSEGV)"]),
    ("import sys; print('terminate called', file=sys.stderr); sys.exit(134)", ["(exit status 134): terminate called"]),
    ("import sys; sys.stdin.read(); raise RuntimeError('a bug')", ["(exit status 1)", "RuntimeError: a bug"]),
    ("", ["crashed while it built decoder.tensorrt.onnx (exit status 0)"]),
    ("print('{\"progress\": \"x\"}'); print('{\"resu', end='', flush=True); " + KILL.format("SIGABRT"), ["SIGABRT"]),
]  # fmt: skip


@pytest.mark.parametrize(("code", "words"), CRASHES)
def test_a_builder_that_ends_without_a_word(
    code: str, words: list[str], text_artifact: Path, plugin_library: Path, tmp_path: Path
) -> None:
    job = decoder_job(text_artifact, tmp_path / "decoder.plan", plugin_library)
    with pytest.raises(ExportError, match=r"TensorRT-RTX crashed while it built decoder\.tensorrt\.onnx") as error:
        build(job, command=[sys.executable, "-c", code])
    for word in words:
        assert word in str(error.value)


def test_a_plan_that_changed_on_its_way(text_artifact: Path, plugin_library: Path, tmp_path: Path) -> None:
    job = decoder_job(text_artifact, tmp_path / "decoder.plan", plugin_library)
    code = (
        "import sys, atexit\nfrom pathlib import Path\nfrom retentive_export.backends.tensorrt import worker\n"
        "worker.main()\nPath(sys.argv[1]).write_bytes(b'other')"
    )
    with pytest.raises(ExportError, match=r"decoder\.plan is not the file that was built"):
        build(job, command=[sys.executable, "-c", code, str(job.plan)])


def test_an_interrupted_build_ends_its_process(text_artifact: Path, plugin_library: Path, tmp_path: Path) -> None:
    """Ctrl-C in the middle: the error goes on, and no builder stays behind."""
    import os

    job = decoder_job(text_artifact, tmp_path / "decoder.plan", plugin_library)
    code = 'import os, time; print(\'{"progress": "%d"}\' % os.getpid(), flush=True); time.sleep(600)'
    seen: list[int] = []

    def interrupt(text: str) -> None:
        seen.append(int(text))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_worker(job, interrupt, [sys.executable, "-c", code])
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], signal.SIGCONT)
