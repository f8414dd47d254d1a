"""A target's builder flags reach the engine, and a flag that the library lacks is an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retentive_export.backends.tensorrt.build import EngineJob, EngineResult
from retentive_export.backends.tensorrt.builder import run_worker
from retentive_export.errors import ExportError
from retentive_export.spec.manifest import TensorContract


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    """y = x w."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in "xy"]
    weight = numpy_helper.from_array(np.eye(64, dtype=np.float32), "w")
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = helper.make_model(
        helper.make_graph([node], "g", ends[:1], ends[1:], [weight]),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    onnx.save(model, tmp_path / "graph.onnx")
    return tmp_path / "graph.onnx"


def built(graph: Path, *flags: str) -> EngineResult:
    contract = [
        TensorContract(name="x", shape=[1, 64], dtype="float32", role="input"),
        TensorContract(name="y", shape=[1, 64], dtype="float32", role="output"),
    ]
    job = EngineJob(
        vendor="tensorrt_rtx",
        graph=graph,
        plan=graph.with_suffix(".plan"),
        layers=0,
        contract=contract,
        profiles=[],
        flags=flags,
    )
    return run_worker(job, lambda _: None)


def test_flags_change_the_engine(graph: Path) -> None:
    plain, again, streamed = built(graph), built(graph), built(graph, "WEIGHT_STREAMING")
    assert plain.sha256 == again.sha256 != streamed.sha256


def test_a_flag_that_the_library_lacks(graph: Path) -> None:
    with pytest.raises(ExportError, match=r"builder_flags has 'FASTER', which TensorRT-RTX 1\.7.* lacks") as error:
        built(graph, "FASTER")
    assert "WEIGHT_STREAMING" in str(error.value.hint)
    assert not graph.with_suffix(".plan").exists()
