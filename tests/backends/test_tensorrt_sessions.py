"""Sessions of `tensorrt` and `tensorrt_rtx` on a fake GPU that computes with ONNX Runtime: state, profiles, graphs.

The whole path is the real one, down to the calls of CUDA and TensorRT; what only a GPU has is faked (fake_cuda.py,
fake_tensorrt.py). That the engines compute the same on a GPU is not shown here.
"""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from retentive_export.backends import Backend, DecoderInputs, open_backend
from retentive_export.backends.tensorrt.buffers import ALIGNMENT
from retentive_export.errors import DeviceError, InputError
from retentive_export.runtime import Session
from retentive_export.validate import validate_golden
from tests.backends.conftest import FakeGpu
from tests.factories import photograph

COUNTS = (8, 3, 1, 1, 1, 8, 1, 1)


def tokens(random: np.random.Generator, seen: int, count: int, backend: Backend) -> DecoderInputs:
    """Random tokens, about every other one visual."""
    layers, hidden = 2, backend.manifest.text.hidden
    return DecoderInputs(
        input_ids=random.integers(0, 300, (1, count)),
        token_meta=np.stack([seen + np.arange(count), random.integers(-1, 2, count)], -1)[None].astype(np.int32),
        position_ids=np.broadcast_to(seen + np.arange(count), (3, 1, count)),
        visual_embeds=random.normal(size=(1, count, hidden)).astype(np.float32),
        deep=random.normal(size=(1, layers, count, hidden)).astype(np.float32),
    )


def feed(backend: Backend, steps: int = 16, seed: int = 0) -> list[Any]:
    """Logits of `steps` steps, of which every second one and more is decode."""
    random, seen, logits = np.random.default_rng(seed), 0, []
    for step in range(steps):
        count = COUNTS[step % len(COUNTS)]
        logits.append(backend.step(tokens(random, seen, count, backend)).copy())
        seen += count
    return logits


def decodes(steps: int) -> int:
    return sum(COUNTS[step % len(COUNTS)] == 1 for step in range(steps))


@pytest.mark.parametrize("cuda_graph", [True, False])
def test_every_step_is_what_onnxruntime_computes(cuda_graph: bool, gpu: FakeGpu) -> None:
    ours, theirs = gpu.open(cuda_graph=cuda_graph), open_backend("onnxruntime", gpu.artifact, threads=1)
    for step, (got, want) in enumerate(zip(feed(ours, 64), feed(theirs, 64), strict=True)):
        np.testing.assert_array_equal(got, want, err_msg=f"step {step}")
    state = ours.state()
    assert list(state) == list(theirs.state())
    for name, want in theirs.state().items():
        assert state[name].dtype == want.dtype
        np.testing.assert_array_equal(state[name], want, err_msg=name)
    assert ours.state_bytes == ours.manifest.state_bytes


def test_the_golden_run_passes(gpu: FakeGpu) -> None:
    """With the vision engine: frames in, features out. The default backend is the artifact's own."""
    report = validate_golden(gpu.artifact)
    assert report.passed, report.failures()
    assert report.backend == gpu.manifest.engine.backend  # type: ignore[union-attr]
    assert gpu.trt.runs[0] == ("vision", 0, 0)
    assert len(gpu.trt.runs) > 10


def test_a_dialogue_is_that_of_the_cpu(gpu: FakeGpu) -> None:
    sessions = [Session.open(gpu.artifact), Session.open(gpu.artifact, backend="onnxruntime", threads=1)]
    for session in sessions:
        session.observe(photograph((32, 48)))
    for text in ("Where?", "How many rows?"):
        assert sessions[0].ask(text) == sessions[1].ask(text)
    assert gpu.cuda.launches > 10


def test_state_has_one_address_as_input_and_as_output(gpu: FakeGpu) -> None:
    backend = gpu.open()
    contract = [tensor for tensor in backend.manifest.contract["decoder"] if tensor.role == "state_out"]
    assert len(contract) == sum(t.role == "state_in" for t in backend.manifest.contract["decoder"]) > 20
    before = [dict(context.addresses) for context in gpu.trt.contexts]
    for addresses in before:
        for tensor in contract:
            assert addresses[tensor.name] == addresses[str(tensor.alias)]
            assert addresses[tensor.name] % ALIGNMENT == 0
        assert len({addresses[tensor.name] for tensor in contract}) == len(contract)
    assert before[0] == before[1], "decode and prefill work on one state"
    state = backend.state()
    feed(backend)
    backend.load_state(state)
    backend.reset()
    assert [context.addresses for context in gpu.trt.contexts] == before


def test_nothing_is_allocated_after_opening(gpu: FakeGpu) -> None:
    backend = gpu.open()
    count, pages = gpu.cuda.allocations, len(gpu.cuda.pages)
    feed(backend, 32)
    backend.load_state(backend.state())
    backend.reset()
    assert (gpu.cuda.allocations, len(gpu.cuda.pages)) == (count, pages)


def test_profile_and_context_follow_from_t(gpu: FakeGpu) -> None:
    feed(gpu.open(), 16)
    runs = [(profile, steps) for graph, profile, steps in gpu.trt.runs if graph == "decoder"]
    assert [steps for _, steps in runs] == [COUNTS[step % len(COUNTS)] for step in range(16)]
    assert gpu.manifest.engine is not None
    last = len(gpu.manifest.engine.profiles) - 1
    assert last == (gpu.manifest.engine.backend == "tensorrt")
    assert all(profile == (0 if steps == 1 else last) for profile, steps in runs)
    decode, prefill = gpu.trt.contexts
    assert (decode.shapes["input_ids"], prefill.shapes["input_ids"]) == ((1, 1), (1, 8))


def test_decode_is_captured_once_and_replayed(gpu: FakeGpu) -> None:
    """The first decode step runs by itself, the second one is recorded; prefill is never replayed."""
    backend = gpu.open()
    for round_ in (1, 2):
        feed(backend, 16)
        assert gpu.cuda.captures == 1
        assert gpu.cuda.launches == round_ * decodes(16) - 1
        backend.reset()
    assert gpu.trt.contexts[0].executions == 2


def test_no_graph_unless_asked_for(gpu: FakeGpu) -> None:
    feed(gpu.open(cuda_graph=False), 16)
    assert (gpu.cuda.captures, gpu.cuda.launches) == (0, 0)


@pytest.mark.parametrize("gpu", ["tensorrt_rtx"], indirect=True)
def test_capture_waits_for_late_kernels(gpu: FakeGpu) -> None:
    """TensorRT-RTX compiles kernels behind the first runs, and says when a capture is allowed."""
    gpu.trt.late = 5
    feed(gpu.open(), 16)
    assert gpu.cuda.captures == 1
    assert gpu.cuda.launches == decodes(16) - 5


def test_reset_and_load_state(gpu: FakeGpu) -> None:
    backend = gpu.open()
    empty = backend.state()
    assert (empty["past.0.row_meta"] == -1).all()
    assert not any(array.any() for name, array in empty.items() if not name.endswith("row_meta"))
    feed(backend, 24)
    middle = backend.state()
    ahead = feed(backend, 8, seed=1)
    backend.load_state(middle)
    for got, want in zip(feed(backend, 8, seed=1), ahead, strict=True):
        np.testing.assert_array_equal(got, want)
    backend.reset()
    for name, array in backend.state().items():
        np.testing.assert_array_equal(array, empty[name], err_msg=name)
    assert any(not np.array_equal(array, empty[name]) for name, array in middle.items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("past.1.row_meta"), r"the state lacks 'past\.1\.row_meta'"),
        (lambda state: state.update({"past.0.key_rows": np.zeros(3, np.float32)}), r"is float32 \[3\]"),
        (lambda state: state["past.0.value_scale"].fill(np.nan), "holds NaN or infinity"),
        (lambda state: state.update({"past.0.key_codes": state["past.0.key_codes"].astype(np.int32)}), "is int32"),
    ],
)
def test_a_state_that_does_not_fit(change: Any, words: str, gpu: FakeGpu) -> None:
    backend = gpu.open()
    feed(backend, 8)
    before = backend.state()
    given = backend.state()
    change(given)
    with pytest.raises(InputError, match=words):
        backend.load_state(given)
    for name, array in backend.state().items():
        np.testing.assert_array_equal(array, before[name], err_msg=name)


def test_tokens_and_frames_that_do_not_fit(gpu: FakeGpu) -> None:
    backend = gpu.open()
    random = np.random.default_rng(0)
    with pytest.raises(InputError, match="a step of 9 tokens: the graph takes 1 to 8"):
        backend.step(tokens(random, 0, 9, backend))
    with pytest.raises(InputError, match=r"uint8 \[N, 32, 48, 3\]"):
        backend.encode(np.zeros((1, 32, 47, 3), np.uint8))
    assert gpu.trt.runs == []


def test_an_engine_that_fails(gpu: FakeGpu) -> None:
    """The error is TensorRT's, in a run and in a capture, and the stream is usable afterwards."""
    backend = gpu.open()
    random = np.random.default_rng(0)
    for position in (0, 1):  # the second decode step is the one that captures
        gpu.trt.refuses_to_run = True
        with pytest.raises(DeviceError, match="TensorRT cannot run the engine"):
            backend.step(tokens(random, position, 1, backend))
        assert gpu.cuda.recording is None
        gpu.trt.refuses_to_run = False
        backend.step(tokens(random, position, 1, backend))
    assert gpu.trt.runs == [("decoder", 0, 1)] * 2


def test_everything_is_given_back(gpu: FakeGpu) -> None:
    backend = gpu.open()
    backend.encode(photograph((32, 48))[None])
    logits = feed(backend, 8)[-1]
    kept = backend.step(tokens(np.random.default_rng(0), 99, 1, backend))
    assert gpu.cuda.memory
    assert gpu.cuda.pages
    del backend
    gc.collect()
    assert gpu.cuda.pages, "the last logits lie in page-locked memory and are still in use"
    assert np.isfinite(kept).all()
    del kept
    gpu.trt.contexts.clear()
    gc.collect()
    assert (gpu.cuda.memory, gpu.cuda.pages, gpu.cuda.queues, gpu.cuda.graphs) == ({}, {}, {}, {})
    assert np.isfinite(logits).all()
