"""Weights for engines: blocks behind DequantizeLinear, checked with ONNX Runtime, with TensorRT-RTX's builder and
against the plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest

from retentive_export.backends.tensorrt.build import EngineJob
from retentive_export.backends.tensorrt.builder import run_worker
from retentive_export.errors import RecipeError
from retentive_export.export.passes.block_weights import OPSET, block_weights
from retentive_export.export.passes.weight_codes import signed_codes
from retentive_export.export.save import EXTERNAL_FROM, save_graph
from retentive_export.pipeline import BuildResult
from retentive_export.planner import plan_recipe
from retentive_export.spec.manifest import TensorContract
from retentive_export.spec.recipe import parse_recipe
from retentive_export.spec.recipe_files import load_recipe
from retentive_export.spec.targets import load_targets, target
from retentive_export.spec.weights import WeightsSection, check_weights, symmetric_bytes
from retentive_export.validate import validate_golden
from tests.backends.tensorrt_jobs import decoder_job
from tests.conftest import build_artifact, text_recipe
from tests.doctor.machines import plugin_library as library_file
from tests.export.test_quantise_weights import Matrix, random_matrix, tied_graph


def decoded(codes: Any, scales: Any, block: int) -> Matrix:
    """[inputs, outputs] from codes and scales as `DequantizeLinear` has them."""
    wide: Matrix = codes.astype(np.float32) * np.repeat(scales, block, axis=0)
    return wide


@pytest.mark.parametrize(("bits", "levels"), [(4, 8), (8, 128)])
@pytest.mark.parametrize("block", [32, 128])
def test_codes_are_symmetric_and_within_half_a_level(bits: int, levels: int, block: int) -> None:
    rows = random_matrix(24, 256)
    codes, scales = signed_codes(rows, block, bits)
    assert (codes.shape, codes.dtype, scales.shape) == ((256, 24), np.int8, (256 // block, 24))
    assert -levels <= codes.min() < 0 < codes.max() < levels
    assert (scales > 0).all()
    error = np.abs(decoded(codes, scales, block) - rows.T)
    assert error.mean() <= 0.27 * scales.mean()
    plain = np.abs(rows.reshape(24, -1, block)).max(axis=-1) / (levels - 1)
    rounded = np.rint(rows.reshape(24, -1, block) / plain[..., None]) * plain[..., None]
    # Cutting a block's largest magnitude off pays with 4 bits, and never costs anything.
    assert (error**2).sum() <= (0.97 if bits == 4 else 1.0001) * ((rounded.reshape(24, 256) - rows) ** 2).sum()


def test_blocks_of_zeros_and_of_tiny_values() -> None:
    """A scale is positive and finite in the model's dtype, whatever the block."""
    rows = np.zeros((3, 64), np.float16)
    rows[1] = 6e-8
    rows[2, :32] = 60000
    codes, scales = signed_codes(rows, 32, 4)
    assert scales.dtype == np.float16
    assert (scales > 0).all()
    assert np.isfinite(scales).all()
    error = np.abs(codes.astype(np.float32) * np.repeat(scales.astype(np.float32), 32, axis=0) - rows.T)
    assert (error <= np.abs(rows.T) * 0.22 + 1e-7).all()


@pytest.mark.parametrize("format_", ["int4", "int8"])
def test_the_graph_multiplies_by_the_decoded_matrices(format_: Any, tmp_path: Path) -> None:
    """A table that is also the head: float for its rows, int8 codes of its own for the product."""
    table, inner = random_matrix(50, 64), random_matrix(64, 64, seed=2)
    model = tied_graph(table, inner)
    weights = WeightsSection(format=format_, block=32)
    record = block_weights(model, weights)
    assert {node.op_type for node in model.graph} == {"Gather", "MatMul", "DequantizeLinear"}
    assert model.opset_imports[""] == OPSET
    bits = {"block": 32, "dtype": "float32"}
    assert record.bytes == symmetric_bytes(64, 64, bits=weights.bits, **bits) + symmetric_bytes(64, 50, bits=8, **bits)
    assert (record.matrices, record.parameters) == (2, inner.size + table.size)
    save_graph(model, tmp_path / "g.onnx")
    ids = np.array([[3, 0, 49]])
    options = ort.SessionOptions()  # as it stands: fused with the product, codes meet inputs rounded to 8 bits
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (logits,) = ort.InferenceSession(tmp_path / "g.onnx", options).run(None, {"ids": ids})
    near_inner = decoded(*signed_codes(np.ascontiguousarray(inner.T), 32, weights.bits), 32)
    near_head = decoded(*signed_codes(table, 32, 8), 32)
    want = table[ids] @ near_inner @ near_head
    assert np.abs(logits - want).max() < 1e-5 * np.ptp(want)


def test_blocks_that_do_not_divide_are_refused() -> None:
    with pytest.raises(RecipeError, match=r"weights\.block is 32, and the matrix inner has 80 inputs") as error:
        block_weights(tied_graph(random_matrix(50, 80), random_matrix(80, 80)), WeightsSection(format="int4", block=32))
    assert error.value.hint == "--set weights.format=none"
    recipe = load_recipe("smollm2-135m", ["weights.format=int4", "weights.block=128"])
    with pytest.raises(RecipeError, match=r"weights\.block is 128, and the matrix of 576 x ") as error:
        plan_recipe(recipe, target("jetson-orin"))
    assert error.value.hint == "--set weights.block=64"


def test_formats_that_a_target_lacks_are_refused() -> None:
    coarse = load_targets()["jetson-orin"].model_copy(update={"precisions": ("float16", "int8")})
    check_weights(WeightsSection(format="int8"), "float16", coarse)
    with pytest.raises(RecipeError, match=r"weights\.format is 'int4', and target 'jetson-orin' computes in: float16"):
        check_weights(WeightsSection(format="int4"), "float16", coarse)
    with pytest.raises(RecipeError, match=r"model\.dtype is 'bfloat16'") as error:
        check_weights(WeightsSection(format="int8"), "bfloat16", load_targets()["jetson-orin"])
    assert error.value.hint is not None
    assert "model.dtype=float16" in error.value.hint


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama whose matrices have whole blocks."""
    from tests.factories import make_model, make_tokenizer

    path = tmp_path_factory.mktemp("models") / "wide-llama"
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    make_model("llama", seed=3, **sizes).save_pretrained(path)
    make_tokenizer("llama").save_pretrained(path)
    return path


def recipe(model: Path) -> dict[str, Any]:
    limits = {"weight_kl": 0.2, "weight_disagreement": 1.0}  # a random model's likeliest tokens are next to equal
    return {**text_recipe(model), "weights": {"format": "int4", "block": 32}, "thresholds": limits}


@pytest.fixture(scope="module")
def int4_bundle(wide_model: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    folder = tmp_path_factory.mktemp("bundles")
    library = library_file(folder / "libretentive_plugins.so", machine=183, cubins=[87])
    return build_artifact(recipe(wide_model), folder / "int4", "jetson-orin", plugin_library=library)


def test_both_flavours_share_the_codes(int4_bundle: BuildResult, wide_model: Path) -> None:
    """And their bytes are those of the plan."""
    assert int4_bundle.manifest.graphs == {"onnxruntime": "decoder.onnx", "tensorrt": "decoder.tensorrt.onnx"}
    record = int4_bundle.manifest.weights
    assert record is not None
    assert record.matrices == 2 * 7 + 1
    places: list[dict[str, tuple[str, int | None]]] = []
    for name in int4_bundle.manifest.graphs.values():
        graph = ir.load(int4_bundle.directory / name).graph
        stored = {n: v.const_value for n, v in graph.initializers.items() if n.endswith(("_codes", "_scales"))}
        external = {n: t for n, t in stored.items() if isinstance(t, ir.ExternalTensor)}
        places.append({n: (str(t.location), t.offset) for n, t in external.items()})
        assert sum(t.nbytes for t in stored.values() if t is not None) == record.bytes
        assert {t.dtype for n, t in stored.items() if t is not None and n.endswith("_codes")} == {
            ir.DataType.INT4,
            ir.DataType.INT8,
        }
        assert {n for n, t in stored.items() if t is not None and t.nbytes >= EXTERNAL_FROM} == external.keys()
    assert places[0] == places[1]
    plan = plan_recipe(parse_recipe(recipe(wide_model)), target("jetson-orin"))
    table, norms = 400 * 64 * 4, 5 * 64 * 4
    assert plan.memory.weights == record.bytes + table + norms


def test_the_bundle_validates_against_the_float_model(int4_bundle: BuildResult) -> None:
    report = validate_golden(int4_bundle.directory, threads=1)
    assert report.passed, report.failures()
    assert 0 < report.mean_kl < 0.2


def test_the_decoder_is_made_again_for_another_kind_of_target(
    int4_bundle: BuildResult, wide_model: Path, tmp_path: Path
) -> None:
    import shutil

    copy = Path(shutil.copytree(int4_bundle.directory, tmp_path / "out"))
    result = build_artifact(recipe(wide_model), copy, "cpu")
    assert (result.ran, result.reused) == (["decoder"], ["tokenizer", "golden"])
    assert result.manifest.graphs == {"onnxruntime": "decoder.onnx"}


def test_tensorrt_rtx_takes_them_beside_the_plugins(
    int4_bundle: BuildResult, plugin_build: Path, tmp_path: Path
) -> None:
    """The real parser, plugins and builder: each node of ours is a plugin layer."""
    library = plugin_build / "libretentive_plugins.so"
    result = run_worker(decoder_job(int4_bundle.directory, tmp_path / "decoder.plan", library), lambda _: None)
    assert set(result.plugin_layers.values()) == {2}


@pytest.mark.parametrize("block", [32, 64, 128])
@pytest.mark.parametrize(("format_", "bits"), [("int4", 4), ("int8", 8)])
def test_tensorrt_rtx_keeps_the_codes_in_the_engine(format_: Any, bits: int, block: int, tmp_path: Path) -> None:
    """The plan of one product holds codes and scales, and no float matrix."""
    size = 512
    x = ir.val("x", ir.DataType.FLOAT, [1, 3, size])
    weight = ir.val("weight", const_value=ir.tensor(random_matrix(size, size), name="weight"))
    product = ir.node("MatMul", [x, weight], name="product")
    y = product.outputs[0]
    y.name, y.dtype, y.shape = "y", ir.DataType.FLOAT, ir.Shape([1, 3, size])
    graph = ir.Graph([x], [y], nodes=[product], initializers=[weight], opset_imports={"": 20}, name="g")
    model = ir.Model(graph, ir_version=10)
    record = block_weights(model, WeightsSection(format=format_, block=block))
    save_graph(model, tmp_path / "g.onnx")
    contract = [
        TensorContract(name=name, shape=[1, 3, size], dtype="float32", role=role)  # type: ignore[arg-type]
        for name, role in (("x", "input"), ("y", "output"))
    ]
    job = EngineJob(
        vendor="tensorrt_rtx",
        graph=tmp_path / "g.onnx",
        plan=tmp_path / "g.plan",
        layers=0,
        contract=contract,
        profiles=[],
    )
    result = run_worker(job, lambda _: None)
    assert record.bytes == size * size * bits // 8 + size * size // block * 4
    assert record.bytes < result.bytes < size * size * 4 // 2  # kernels take some; float weights would be all of it
