"""The backend `torch` on the CPU: it answers as ONNX Runtime does, on state that stays where it is."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retentive_export.backends import DecoderInputs, open_backend
from retentive_export.backends.torch_backend import TorchBackend
from retentive_export.backends.torch_decoder import DecodeLoop, read_constants
from retentive_export.errors import ArtifactError, DeviceError, InputError, MissingExtraError, RecipeError
from retentive_export.pipeline import Job, build
from retentive_export.runtime import Session
from retentive_export.spec.recipe import parse_recipe
from retentive_export.spec.targets import target
from retentive_export.validate import validate_golden
from tests.conftest import vision_recipe
from tests.factories import photograph

QUESTION = "Where is the cat in this picture? How many rows does the grid have? " * 3


def opened(directory: Path, **options: Any) -> TorchBackend:
    backend = open_backend("torch", directory, verify=False, **options)
    assert isinstance(backend, TorchBackend)
    return backend


def addresses(backend: TorchBackend) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in backend._tensors().items()}


@pytest.fixture(params=["text", "vision"])
def artifact(request: pytest.FixtureRequest) -> Path:
    directory = request.getfixturevalue(f"{request.param}_artifact")
    assert isinstance(directory, Path)
    return directory


def random_step(backend: TorchBackend, count: int, seen: int, random: np.random.Generator) -> DecoderInputs:
    """`count` random tokens behind `seen`; about half of them visual where the model sees."""
    contract = {tensor.name: tensor for tensor in backend.manifest.contract["decoder"]}
    shape = (3, 1, count) if len(contract["position_ids"].shape) == 3 else (1, count)
    cells, features = np.full(count, -1), {}
    if backend.manifest.vision:
        hidden, deep = backend.manifest.text.hidden, contract["deep"].shape[1]
        cells = np.where(random.random(count) < 0.5, random.integers(0, 2, count), -1)
        features["visual_embeds"] = random.normal(size=(1, count, hidden)).astype(np.float32)
        features["deep"] = random.normal(size=(1, deep, count, hidden)).astype(np.float32)
    return DecoderInputs(
        input_ids=random.integers(0, 300, (1, count)),
        token_meta=np.stack([seen + np.arange(count), cells], -1)[None].astype(np.int32),
        position_ids=np.broadcast_to(seen + np.arange(count), shape),
        **features,
    )


def test_steps_equal_onnxruntime(artifact: Path) -> None:
    """Prefill chunks and decode steps, each evicting: the same logits within 1e-3, the same victims, in place."""
    ours, theirs = opened(artifact), open_backend("onnxruntime", artifact, threads=1, verify=False)
    before, random, seen = addresses(ours), np.random.default_rng(0), 0
    for step in range(60):
        inputs = random_step(ours, (8, 3, 1, 1)[step % 4], seen, random)
        got, want = ours.step(inputs), theirs.step(inputs)
        assert got.shape == want.shape
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want, atol=1e-3)
        reference = theirs.state()
        for name, array in ours.state().items():
            if name.endswith("row_meta"):
                np.testing.assert_array_equal(array, reference[name])
        seen += inputs.input_ids.shape[1]
    assert addresses(ours) == before
    assert ours.state_bytes == ours.manifest.state_bytes == theirs.state_bytes
    assert seen > 3 * ours.manifest.plan().geometry.rows


def test_sessions_answer_alike(artifact: Path) -> None:
    sessions = [Session.open(artifact, backend=name, threads=1) for name in ("torch", "onnxruntime")]
    answers = []
    for session in sessions:
        if session.vision:
            session.observe(photograph(session.vision.frame))
        texts = [session.ask(QUESTION, max_new_tokens=20), session.ask("And now?", max_new_tokens=10)]
        answers.append((texts, session.last.token_ids))
    assert answers[0] == answers[1]


def test_golden_run(artifact: Path) -> None:
    report = validate_golden(artifact, "torch", threads=1)
    assert report.passed, report.failures()
    assert report.backend == "torch"


def test_bfloat16_which_numpy_lacks(vision_model: Path, tmp_path: Path) -> None:
    """Rows and features come as float32 and go back without loss; the golden run passes."""
    recipe = vision_recipe(vision_model, rows={"dtype": "model"})
    recipe["model"]["dtype"] = "bfloat16"
    directory = build(parse_recipe(recipe), "onnx", tmp_path / "out").directory
    report = validate_golden(directory, "torch")
    assert report.passed, report.failures()
    backend = opened(directory)
    backend.step(random_step(backend, 8, 0, np.random.default_rng(1)))
    state = backend.state()
    assert state["past.0.key_rows"].dtype == np.float32
    backend.reset()
    backend.load_state(state)
    assert all(np.array_equal(array, state[name]) for name, array in backend.state().items())
    assert backend.state_bytes == backend.manifest.state_bytes


def test_state_round_trip(artifact: Path) -> None:
    backend, random = opened(artifact), np.random.default_rng(2)
    empty = backend.state()
    for step in range(12):
        backend.step(random_step(backend, 8, 8 * step, random))
    saved, following = backend.state(), random_step(backend, 1, 96, random)
    before = addresses(backend)
    want = backend.step(following).copy()
    backend.reset()
    assert all(np.array_equal(array, empty[name]) for name, array in backend.state().items())
    backend.load_state(saved)
    np.testing.assert_array_equal(backend.step(following), want)
    assert addresses(backend) == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: None, "lacks 'past.0.row_meta'"),
        (lambda x: x[:, :, 1:], "this artifact's is int32"),
        (lambda x: x.astype(np.int64), "'past.0.row_meta' is int64"),
    ],
)
def test_a_wrong_state_is_refused_whole(text_artifact: Path, change: Any, message: str) -> None:
    backend = opened(text_artifact)
    backend.step(random_step(backend, 8, 0, np.random.default_rng(3)))
    before = backend.state()
    wrong = {name: np.zeros_like(array) for name, array in before.items()}
    changed = change(wrong.pop("past.0.row_meta"))
    with pytest.raises(InputError, match=message):
        backend.load_state(wrong if changed is None else wrong | {"past.0.row_meta": changed})
    nan = {**before, "past.1.key_rows": np.full_like(before["past.1.key_rows"], np.nan)}
    with pytest.raises(InputError, match="NaN or infinity"):
        backend.load_state(nan)
    assert all(np.array_equal(array, before[name]) for name, array in backend.state().items())


def test_wrong_inputs_are_refused(text_artifact: Path, vision_artifact: Path) -> None:
    text, vision = opened(text_artifact), opened(vision_artifact)
    good = random_step(text, 3, 0, np.random.default_rng(4))
    with pytest.raises(InputError, match="a step of 9 tokens: the artifact takes 1 to 8"):
        text.step(random_step(text, 9, 0, np.random.default_rng(4)))
    with pytest.raises(InputError, match=r"token_meta has shape \(1, 2, 2\), and the artifact takes \(1, 3, 2\)"):
        text.step(
            DecoderInputs(input_ids=good.input_ids, token_meta=good.token_meta[:, 1:], position_ids=good.position_ids)
        )
    with pytest.raises(InputError, match="takes no frames"):
        text.encode(np.zeros((1, 32, 48, 3), np.uint8))
    with pytest.raises(InputError, match=r"float32 \[1, 32, 48, 3\], and the vision model takes uint8"):
        vision.encode(np.zeros((1, 32, 48, 3), np.float32))


def test_key_scales_are_the_exporters(vision_artifact: Path, text_artifact: Path) -> None:
    manifest = opened(vision_artifact).manifest
    want = Job(parse_recipe(manifest.recipe), target("cpu")).graph.key_scales
    got, bases = read_constants(vision_artifact, manifest)
    assert bases is None
    assert got is not None
    assert want is not None
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
    assert read_constants(text_artifact, opened(text_artifact).manifest) == (None, None)
    other = manifest.model_copy(update={"graphs": {"onnxruntime": manifest.vision_graph}})
    with pytest.raises(ArtifactError, match=r"the decoder graph holds 0 of 3 constants \(key_scale of every layer\)"):
        read_constants(vision_artifact, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device is 'tpu', and must be cpu, cuda or cuda:N"),
        ({"device": "mps"}, "device is 'mps'"),
        ({"cuda_graph": True}, "cuda_graph is set, and device is 'cpu'"),
        ({"provider": "cuda"}, "backend 'torch' has no option 'provider'; it has: device, cuda_graph"),
    ],
)
def test_options_that_cannot_be(text_artifact: Path, options: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        opened(text_artifact, **options)


@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_a_gpu_that_is_not_there(text_artifact: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match=rf"device is '{device}', and PyTorch .* sees 0 CUDA devices here"):
        opened(text_artifact, device=device)


@pytest.mark.parametrize("absent", ["torch", "transformers", "onnx_ir"])
def test_missing_extra(absent: str, text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == absent else real(name, *rest))
    with pytest.raises(MissingExtraError, match=f"'{absent}', which is not installed"):
        opened(text_artifact)


class FakeGraph:
    """Stands for `torch.cuda.CUDAGraph`: a replay runs the decode step again on the captured buffers."""

    def __init__(self) -> None:
        self.replays = 0


def test_captured_decode_equals_eager(vision_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order of warm-up, capture, replay and copies around a CUDA graph, with its GPU part played by the CPU."""
    loops: list[DecodeLoop] = []

    def replay(graph: FakeGraph) -> None:
        graph.replays += 1
        loops[0]._logits.copy_(loops[0]._launch(loops[0]._static))

    launched: list[int] = []
    real_launch = DecodeLoop._launch

    def launch(loop: DecodeLoop, inputs: Any) -> torch.Tensor:
        launched.append(inputs["input_ids"].shape[1])
        return real_launch(loop, inputs)

    class Stream:
        def __init__(self, *args: Any) -> None: ...
        def wait_stream(self, other: Any) -> None: ...

    monkeypatch.setattr(FakeGraph, "replay", replay, raising=False)
    monkeypatch.setattr(DecodeLoop, "_launch", launch)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", FakeGraph)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    for name in ("graph", "stream", "device"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: contextlib.nullcontext())

    eager = opened(vision_artifact)
    scales, _ = read_constants(vision_artifact, eager.manifest)
    device = torch.device("cpu")
    captured = opened(vision_artifact)
    captured._loop = DecodeLoop(captured._adapter, captured.manifest, device, scales, cuda_graph=True)
    loops.append(captured._loop)
    assert launched == [1, 1, 1]
    assert all(np.array_equal(array, eager.state()[name]) for name, array in captured.state().items())
    graph, random, seen = captured._loop._graph, np.random.default_rng(5), 0
    for step in range(20):
        inputs = random_step(eager, (8, 1, 1)[step % 3], seen, random)
        np.testing.assert_array_equal(captured.step(inputs), eager.step(inputs))
        seen += inputs.input_ids.shape[1]
    assert all(np.array_equal(array, eager.state()[name]) for name, array in captured.state().items())
    assert isinstance(graph, FakeGraph)
    assert graph.replays == 13
