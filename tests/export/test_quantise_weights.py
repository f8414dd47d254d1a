"""Quantised weights: codes of a matrix, the graph that uses them, a whole artifact, bytes, refusals."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from retentive_export.errors import RecipeError
from retentive_export.export.passes.quantise_weights import quantise_weights
from retentive_export.export.passes.weight_codes import int4_codes, int8_codes
from retentive_export.export.save import save_quantised
from retentive_export.pipeline import BuildResult, build
from retentive_export.planner import plan_recipe
from retentive_export.report import validation_table
from retentive_export.runtime import Session
from retentive_export.spec.recipe import parse_recipe
from retentive_export.spec.recipe_files import load_recipe
from retentive_export.spec.targets import target
from retentive_export.spec.weights import WeightsSection, quantised_bytes
from retentive_export.validate import validate_golden
from tests.conftest import build_artifact, text_recipe

Matrix = NDArray[np.float32]
SMOLLM2 = ["weights.format=int4", "cache.rows.dtype=model", "cache.budget.rows=96", "golden_steps=16"]


def random_matrix(*shape: int, seed: int = 0) -> Matrix:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def on_a_grid(outputs: int, inputs: int, block: int) -> Matrix:
    """Rows whose blocks hold the sixteen values low + step * 0..15, low and step any real number."""
    rng = np.random.default_rng(1)
    blocks = inputs // block
    levels = np.stack([[rng.permutation(np.arange(block) % 16) for _ in range(blocks)] for _ in range(outputs)])
    low, step = rng.normal(size=(outputs, blocks, 1)), rng.uniform(0.01, 0.1, size=(outputs, blocks, 1))
    return (low + step * levels).reshape(outputs, inputs).astype(np.float32)


def decoded(coded: dict[str, Any], inputs: int) -> Matrix:
    """[outputs, inputs] from codes as the operators read them."""
    codes, scales = coded["codes"], coded["scales"]
    if "zeros" in coded:
        wide = (codes.astype(np.float32) - coded["zeros"][..., None]) * scales[..., None]
    else:
        levels = np.stack([codes & 15, codes >> 4], axis=-1).reshape(*codes.shape[:2], -1).astype(np.float32)
        wide = (levels - 8) * scales[..., None] + coded["offsets"].T[..., None]
    return wide.reshape(len(codes), -1)[:, :inputs]


@pytest.mark.parametrize("block", [32, 128])
@pytest.mark.parametrize("inputs", [128, 144])
def test_codes_are_within_half_a_level(block: int, inputs: int) -> None:
    rows = random_matrix(24, inputs)
    spread = np.ptp(rows)
    assert np.abs(decoded(int8_codes(rows, block), inputs) - rows).max() <= 0.51 * spread / 255
    found = decoded(int4_codes(rows, block), inputs)
    assert np.abs(found - rows).max() < spread / 15
    assert np.abs(found - rows).mean() < 0.25 * spread / 15


def test_a_grid_of_sixteen_values_comes_back() -> None:
    """As in a GGUF file of type Q4_1: int4 loses nothing where the model was int4 before."""
    rows = on_a_grid(40, 96, 32)
    assert np.abs(decoded(int4_codes(rows, 32), 96) - rows).max() < 1e-5


def test_the_root_logger_is_left_alone() -> None:
    logger = logging.getLogger()
    before = list(logger.handlers), logger.level
    int8_codes(random_matrix(4, 32), 32)
    assert (logger.handlers, logger.level) == before


def tied_graph(table: Matrix, inner: Matrix) -> ir.Model:
    """ids -> rows of the table -> product with `inner` -> product with the transposed table."""
    ids = ir.val("ids", ir.DataType.INT64, [1, 3])
    values = [ir.val(n, const_value=ir.tensor(a, name=n)) for n, a in (("table", table), ("inner", inner))]
    gather = ir.node("Gather", [values[0], ids], name="embed")
    gather.outputs[0].shape = ir.Shape([1, 3, table.shape[1]])
    inside = ir.node("MatMul", [gather.outputs[0], values[1]], name="inside")
    inside.outputs[0].shape = ir.Shape([1, 3, inner.shape[1]])
    turned = ir.node("Transpose", [values[0]], {"perm": [1, 0]}, name="turn")
    head = ir.node("MatMul", [inside.outputs[0], turned.outputs[0]], name="head")
    head.outputs[0].name, head.outputs[0].type = "logits", ir.TensorType(ir.DataType.FLOAT)
    head.outputs[0].shape = ir.Shape([1, 3, len(table)])
    nodes = [gather, inside, turned, head]
    graph = ir.Graph([ids], [head.outputs[0]], nodes=nodes, initializers=values, opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("format_", ["int8", "int4"])
@pytest.mark.parametrize("width", [64, 80])
def test_a_shared_table_is_stored_once_and_read_twice(format_: Any, width: int, tmp_path: Path) -> None:
    """Widths of whole blocks and not; outputs are those of the decoded matrices."""
    table, inner = random_matrix(50, width), random_matrix(width, width, seed=2)
    model = tied_graph(table, inner)
    weights = WeightsSection(format=format_, block=32)
    record = quantise_weights(model, weights)
    assert (record.matrices, record.parameters) == (2, table.size + inner.size)
    bits = {"bits": weights.bits, "block": 32, "dtype": "float32"}
    expected = quantised_bytes(width, 50, **{**bits, "bits": 8}) + quantised_bytes(width, width, **bits)
    assert record.bytes == expected
    assert {n.op_type for n in model.graph} >= {"MatMulNBits", "GatherBlockQuantized"}
    assert not {"table", "inner"} & set(model.graph.initializers)
    save_quantised(model, tmp_path, "g")
    assert not [n for n in onnx.load(tmp_path / "g.onnx").graph.node if n.op_type == "Reshape" and "table" in n.name]
    stored = (tmp_path / "g.onnx.data").stat().st_size
    assert stored < record.bytes + 4096 * 2  # codes twice would be 1600 bytes and more; alignment takes its share
    coded = int8_codes(table, 32), (int8_codes if format_ == "int8" else int4_codes)(inner.T.copy(), 32)
    near_table, near_inner = decoded(coded[0], width), decoded(coded[1], width).T
    ids = np.array([[3, 0, 49]])
    (logits,) = ort.InferenceSession(tmp_path / "g.onnx").run(None, {"ids": ids})
    want = near_table[ids] @ near_inner @ near_table.T
    assert np.abs(logits - want).max() < 0.02 * np.ptp(want)  # 8-bit products round their input to 8 bits


def quantised_recipe(model: Path, format_: str, block: int = 32) -> dict[str, Any]:
    limits = {"weight_kl": 0.2, "weight_disagreement": 0.5}  # a random model's tokens are close to each other
    return {**text_recipe(model), "weights": {"format": format_, "block": block}, "thresholds": limits}


@pytest.fixture(scope="module")
def int4_build(text_model: Path, text_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """The float artifact built over with int4 weights."""
    output = tmp_path_factory.mktemp("artifacts") / "int4"
    shutil.copytree(text_artifact, output)
    return build_artifact(quantised_recipe(text_model, "int4"), output)


def test_only_the_decoder_is_made_again(int4_build: BuildResult) -> None:
    """The golden run stays the float model's."""
    assert int4_build.ran == ["decoder"]
    assert int4_build.reused == ["tokenizer", "golden"]
    assert int4_build.manifest.graphs == {"onnxruntime": "decoder.onnx"}
    assert int4_build.manifest.recipe["weights"] == {"format": "int4", "block": 32}


def test_planned_bytes_are_the_files(int4_build: BuildResult, text_model: Path) -> None:
    """Codes, scales, zero points and offsets in the file and the five norms' vectors, against the plan."""
    plan = plan_recipe(parse_recipe(quantised_recipe(text_model, "int4")), target("cpu"))
    graph = ir.load(int4_build.directory / "decoder.onnx").graph
    coded = ("_codes", "_scales", "_zeros", "_offsets")  # the table's second name ends otherwise
    stored = {name: value.const_value for name, value in graph.initializers.items() if name.endswith(coded)}
    nbytes = sum(tensor.nbytes for tensor in stored.values() if tensor is not None)
    record = int4_build.manifest.weights
    assert record is not None
    assert record.bytes == nbytes
    assert plan.memory.weights == nbytes + 5 * 48 * 4
    assert record.matrices == 2 * 4 + 1  # query, key and value are one matrix, gate and up another
    floats = plan_recipe(parse_recipe(text_recipe(text_model)), target("cpu")).memory.weights
    assert plan.memory.weights < 0.4 * floats


def test_validation_has_lines_of_its_own(int4_build: BuildResult, tmp_path: Path) -> None:
    report = validate_golden(int4_build.directory, threads=1)
    assert report.passed, report.failures()
    limited = {check.name: check for check in report.checks() if check.limit is not None}
    assert list(limited) == ["int4 weights: mean KL (nats)", "int4 weights: greedy disagreement"]
    assert 0 < report.mean_kl == limited["int4 weights: mean KL (nats)"].value < 0.2
    assert validation_table(report).row_count == len(report.checks())


def test_a_threshold_that_is_passed_fails(text_model: Path, int4_build: BuildResult, tmp_path: Path) -> None:
    recipe = quantised_recipe(text_model, "int4")
    recipe["thresholds"] = {"weight_kl": 1e-9}
    shutil.copytree(int4_build.directory, tmp_path / "out")
    strict = build_artifact(recipe, tmp_path / "out")
    assert strict.ran == []
    failures = validate_golden(strict.directory, threads=1).failures()
    assert failures[0].startswith("int4 weights: mean KL (nats) is ")


def test_a_session_runs_past_its_rows(int4_build: BuildResult) -> None:
    session = Session.open(int4_build.directory, threads=1)
    before = session.state_bytes
    session.ask("Where is the cat in this picture?", max_new_tokens=40)
    assert session.tokens_seen > 24
    assert session.state_bytes == before == int4_build.manifest.state_bytes


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"format": "int3"}, "weights.format"),
        ({"format": "int4", "block": 48}, "weights: block is 48, and must be one of 32, 64, 128"),
        ({"format": "int4", "bits": 4}, "weights.bits: unknown key"),
    ],
)
def test_wrong_sections_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        parse_recipe({"model": {"source": "reference-vlm", "frame": [256, 256]}, "weights": changes})


@pytest.mark.parametrize(("on", "dtype", "words"), [("rtx", "float32", "TensorRT"), ("onnx", "bfloat16", "bfloat16")])
def test_what_has_no_operators_is_refused(on: str, dtype: str, words: str, text_model: Path, tmp_path: Path) -> None:
    recipe = quantised_recipe(text_model, "int4")
    recipe["model"]["dtype"] = dtype
    with pytest.raises(RecipeError, match=words) as refused:
        build_artifact(recipe, tmp_path / "out", on)
    assert "weights.format=none" in str(refused.value.hint)
    with pytest.raises(RecipeError, match=words):
        plan_recipe(parse_recipe(recipe), target(on))
    assert not list(tmp_path.iterdir())


def test_smollm2_in_int4(tmp_path: Path) -> None:
    """Real weights: bytes, next-token KL from the float32 model on the calibration text, a bounded session."""
    recipe = load_recipe("smollm2-135m", SMOLLM2)
    out = build(recipe, "cpu", tmp_path / "out")
    plan = plan_recipe(recipe, target("cpu"))
    record = out.manifest.weights
    assert record is not None
    data = (out.directory / "decoder.onnx.data").stat().st_size
    assert plan.memory.weights == record.bytes + 61 * 576 * 4
    assert abs(data - plan.memory.weights) < 64 * 1024  # padding of the file
    assert data <= 0.3 * 4 * 134_515_008
    report = validate_golden(out.directory)
    assert report.passed, report.failures()
    assert report.mean_kl < 0.01
    assert report.agreement >= 0.95
    assert sum(step.tokens for step in report.steps) > out.manifest.plan().geometry.rows, "the golden run must evict"
