"""ONNX Runtime's CUDA provider where there is no GPU: what is refused and how, and the device code path on fakes.

The fakes replace what only a GPU has: buffers on a device are buffers of their own on the CPU, and a session that was
asked for CUDA computes on the CPU. Everything else is the real backend on the real graphs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from retentive_export.backends import DecoderInputs, open_backend
from retentive_export.backends.onnxruntime import OnnxRuntimeBackend
from retentive_export.errors import InputError, MissingExtraError, RecipeError
from retentive_export.runtime import Session
from retentive_export.validate import validate_golden
from tests.factories import photograph

CUDA = "CUDAExecutionProvider"


def opened(directory: Path, **options: Any) -> OnnxRuntimeBackend:
    backend = open_backend("onnxruntime", directory, threads=1, verify=False, **options)
    assert isinstance(backend, OnnxRuntimeBackend)
    return backend


class FakeDevice:
    """What was asked of the fakes. sessions: keyword arguments of every session that was opened for CUDA."""

    def __init__(self) -> None:
        self.sessions: list[dict[str, Any]] = []
        self.copies_inputs = False


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> FakeDevice:
    fake, real_session, real_value = FakeDevice(), ort.InferenceSession, ort.OrtValue.ortvalue_from_numpy

    class Binding:
        """As ONNX Runtime's; `copies_inputs`: every state input is read elsewhere, and copied when it is bound."""

        def __init__(self, binding: Any) -> None:
            self.binding = binding
            self.copies: dict[str, Any] = {}

        def bind_ortvalue_input(self, name: str, value: Any) -> None:
            self.copies[name] = real_value(value.numpy().copy()) if fake.copies_inputs else value
            self.binding.bind_ortvalue_input(name, self.copies[name])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.binding, name)

    class CudaSession(real_session):  # type: ignore[misc, valid-type]
        def __init__(self, path: str, options: Any, *, providers: Any, **more: Any) -> None:
            self.fake = providers[0][0] == CUDA
            if self.fake:
                fake.sessions.append({"providers": providers, **more})
            super().__init__(path, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [CUDA, "CPUExecutionProvider"] if self.fake else ["CPUExecutionProvider"]

        def io_binding(self) -> Any:
            return Binding(super().io_binding()) if self.fake else super().io_binding()

        def run_with_iobinding(self, binding: Any, run_options: Any = None) -> None:
            super().run_with_iobinding(getattr(binding, "binding", binding), run_options)

    def on_device(array: Any, device_type: str = "cpu", device_id: int = 0) -> Any:
        return real_value(array.copy() if device_type == "cuda" else array)

    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    monkeypatch.setattr(ort, "InferenceSession", CudaSession)
    monkeypatch.setattr(ort.OrtValue, "ortvalue_from_numpy", staticmethod(on_device))
    return fake


def inputs(random: np.random.Generator, seen: int, count: int, backend: OnnxRuntimeBackend) -> DecoderInputs:
    """Random tokens, every other one visual where the model has a frame."""
    axes = len(backend._inputs["position_ids"].shape)
    cells = random.integers(-1, 2, count) if backend.manifest.vision else np.full(count, -1)
    positions = np.broadcast_to(seen + np.arange(count), (3, 1, count) if axes == 3 else (1, count))
    features: dict[str, Any] = {}
    if "visual_embeds" in backend._inputs:
        hidden, layers = backend.manifest.text.hidden, int(backend._inputs["deep"].shape[1])
        features["visual_embeds"] = random.normal(size=(1, count, hidden)).astype(np.float32)
        features["deep"] = random.normal(size=(1, layers, count, hidden)).astype(np.float32)
    return DecoderInputs(
        input_ids=random.integers(0, 300, (1, count)),
        token_meta=np.stack([seen + np.arange(count), cells], -1)[None].astype(np.int32),
        position_ids=positions,
        **features,
    )


@pytest.mark.parametrize("copies_inputs", [False, True])
@pytest.mark.parametrize("kind", ["text", "vision"])
def test_device_buffers_give_what_the_cpu_gives(
    kind: str, copies_inputs: bool, device: FakeDevice, request: pytest.FixtureRequest
) -> None:
    directory = request.getfixturevalue(f"{kind}_artifact")
    device.copies_inputs = copies_inputs
    cuda, cpu = opened(directory, provider="cuda", device_id=1), opened(directory)
    addresses = cuda._state.addresses()
    random, seen = np.random.default_rng(0), 0
    empty = cuda.state()
    for step in range(60):
        count = (8, 3, 1, 1)[step % 4]
        tokens = inputs(random, seen, count, cpu)
        np.testing.assert_array_equal(cuda.step(tokens), cpu.step(tokens), err_msg=f"step {step}")
        seen += count
    assert seen > 5 * cuda.manifest.plan().geometry.rows
    state = cuda.state()
    for name, array in cpu.state().items():
        np.testing.assert_array_equal(state[name], array, err_msg=name)
    logits = cuda.step(tokens).copy()
    cuda.reset()
    assert all(np.array_equal(array, empty[name]) for name, array in cuda.state().items())
    assert any(not np.array_equal(array, empty[name]) for name, array in state.items())
    cuda.load_state(state)
    np.testing.assert_array_equal(cuda.step(tokens), logits)
    assert cuda._state.addresses() == addresses
    assert cuda.state_bytes == cuda.manifest.state_bytes


def test_a_state_that_does_not_fit_leaves_the_device_as_it_was(device: FakeDevice, text_artifact: Path) -> None:
    backend = opened(text_artifact, provider="cuda")
    backend.step(inputs(np.random.default_rng(0), 0, 8, backend))
    before = backend.state()
    name = next(iter(before))
    wrong = {
        "lacks": {key: array for key, array in before.items() if key != name},
        "float64": {**before, name: before[name].astype(np.float64)},
        "NaN": {**before, name: np.full_like(before[name], np.nan)},
    }
    for message, state in wrong.items():
        with pytest.raises(InputError, match=message):
            backend.load_state({key: array + 1 if key != name else array for key, array in state.items()})
    assert all(np.array_equal(array, before[key]) for key, array in backend.state().items())


def test_a_session_asks_for_the_device_and_for_full_float32(device: FakeDevice, vision_artifact: Path) -> None:
    session = Session.open(vision_artifact, provider="cuda", device_id=1)
    assert session.vision is not None
    session.observe(photograph(session.vision.frame))
    assert len(device.sessions) == 2  # decoder and vision
    for asked in device.sessions:
        name, options = asked["providers"][0]
        assert name == CUDA
        assert options["device_id"] == "1"
        assert options["use_tf32"] == "0"
        assert asked["enable_fallback"] == 0
    opened(vision_artifact, provider="cuda", tf32=True)
    assert device.sessions[-1]["providers"][0][1]["use_tf32"] == "1"


def test_the_golden_run_passes_on_device_buffers(device: FakeDevice, vision_artifact: Path) -> None:
    assert validate_golden(vision_artifact, provider="cuda").passed
    assert len(device.sessions) == 2


def test_a_cpu_build_is_refused(text_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MissingExtraError, match="has only: CPUExecutionProvider") as caught:
        opened(text_artifact, provider="cuda")
    assert caught.value.hint == "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu"
    metadata = tmp_path / "onnxruntime_gpu-1.31.1.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: onnxruntime-gpu\nVersion: 1.31.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(MissingExtraError, match="onnxruntime was installed over onnxruntime-gpu"):
        opened(text_artifact, provider="cuda")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_silent_fall_back_to_the_cpu_is_refused(
    text_artifact: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Libraries are missing: ONNX Runtime then opens a session without CUDA (here because this build has none)."""
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, "CPUExecutionProvider"])
    if CUDA in ort.InferenceSession(text_artifact / "decoder.onnx", providers=[CUDA]).get_providers():
        monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda self: ["CPUExecutionProvider"])
    line = "Failed to load libcublas.so.13: cannot open shared object file"
    monkeypatch.setattr(ort, "preload_dlls", lambda: print(f"noise\n{line}"), raising=False)
    with pytest.raises(MissingExtraError, match="could not load its CUDA provider") as caught:
        opened(text_artifact, provider="cuda")
    assert f"({line})" in caught.value.message
    assert "onnxruntime-gpu[cuda,cudnn]" in (caught.value.hint or "")
    assert capsys.readouterr().out == ""


def test_a_device_that_does_not_open(device: FakeDevice, text_artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **more: Any) -> None:
        raise RuntimeError("CUDA failure 101: invalid device ordinal\nmore lines")

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(
        RecipeError, match=r"on CUDA device 9: CUDA failure 101: invalid device ordinal\n  hint"
    ) as caught:
        opened(text_artifact, provider="cuda", device_id=9)
    assert "nvidia-smi" in (caught.value.hint or "")


def test_places_that_cannot_be(text_artifact: Path) -> None:
    with pytest.raises(RecipeError, match="provider is 'tpu', and must be one of: cpu, cuda"):
        opened(text_artifact, provider="tpu")
    for options in ({"device_id": 1}, {"provider": "cuda", "device_id": -1}):
        with pytest.raises(RecipeError, match="device_id is"):
            opened(text_artifact, **options)
