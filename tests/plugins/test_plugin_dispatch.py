"""From torch tensors to the compiled operators: the code that serves CUDA, over the C++ reference on host tensors."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.step import layer_step
from retentive_export.errors import ArtifactError, InputError
from retentive_export.ops import native, torch_ops
from retentive_export.ops.constants import constants_of
from retentive_export.ops.contract import OPS, encode_config
from retentive_export.ops.dispatch import ALIGNMENT, NativeOperators, enable_cuda
from retentive_export.runtime import Session
from retentive_export.spec.geometry import CacheGeometry
from tests.ops.helpers import GATE, SCALE, key_scale, random_state, random_tokens
from tests.plugins.plugin_cases import CASES

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.fixture(scope="session")
def library(plugin_build: Path) -> native.NativeLibrary:
    return native.load(plugin_build / "libretentive_reference.so")


@pytest.fixture
def operators(library: native.NativeLibrary) -> NativeOperators:
    return NativeOperators(library)


@pytest.fixture(params=list(CASES))
def geometry(request: pytest.FixtureRequest) -> CacheGeometry:
    return CASES[request.param]


def state_and_tokens(geometry: CacheGeometry, steps: int, seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor]]:
    """A state after 40 tokens, and query, key, value, token_meta of the next ones, in the geometry's dtype."""
    generator = torch.Generator().manual_seed(seed)
    exact = dataclasses.replace(geometry, dtype="float32")
    state, tokens = random_state(exact, 40, generator), random_tokens(exact, steps, 40, generator)
    dtype = getattr(torch, geometry.dtype)
    rows = {name: tensor.to(dtype) for name, tensor in state.items() if name in ("key_rows", "value_rows")}
    return state | rows, [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tokens]


def assert_close(got: Tensor, want: Tensor, name: str, geometry: CacheGeometry) -> None:
    assert got.shape == want.shape, name
    assert got.dtype == want.dtype, name
    if want.dtype.is_floating_point:
        limit = TOLERANCE[geometry.dtype] * max(1.0, want.float().abs().max().item())
        assert (got.float() - want.float()).abs().max().item() <= limit, name
    elif name.endswith("codes"):
        assert (got != want).float().mean().item() <= 0.01, name  # rounding at a tie
    else:
        assert torch.equal(got, want), name


def packed(op: str, state: dict[str, Tensor], geometry: CacheGeometry) -> list[Tensor]:
    return torch_ops._pack(op, state | constants_of(key_scale(geometry), None), geometry)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_operators_equal_the_reference(operators: NativeOperators, geometry: CacheGeometry, steps: int) -> None:
    """Each of the three on the reference's inputs."""
    state, tokens = state_and_tokens(geometry, steps)
    config = encode_config(geometry, GATE, SCALE)
    arguments: tuple[Any, ...] = (*tokens, packed("RetentiveAttention", state, geometry), config)
    attention = torch_ops.attention(*arguments)
    for name, got, want in zip(
        OPS["RetentiveAttention"].outputs, operators.attention(*arguments), attention, strict=True
    ):
        assert_close(got, want, name, geometry)
    arguments = (*attention[1:], tokens[3], packed("EntropyGate", state, geometry), config)
    decision = torch_ops.gate(*arguments)
    for name, got, want in zip(OPS["EntropyGate"].outputs, operators.gate(*arguments), decision, strict=True):
        assert_close(got, want, name, geometry)
    arguments = (*decision, *tokens[1:], packed("StateTransition", state, geometry), config)
    before = {name: tensor.clone() for name, tensor in state.items()}
    after = operators.transition(*arguments)
    for spec, got, want in zip(geometry.state(), after, torch_ops.transition(*arguments), strict=True):
        assert_close(got, want, spec.name, geometry)
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def native_step(operators: NativeOperators) -> Any:
    """`torch_ops.step_in_place` over these operators."""

    def step(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_meta: Tensor,
        state: dict[str, Tensor],
        key_scale: Tensor | None = None,
        *,
        geometry: CacheGeometry,
        gate: Any,
        scale: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tensors = [state[spec.name] for spec in geometry.state()]
        config = encode_config(geometry, gate, scale)
        return operators.step_(query, key, value, token_meta, tensors, key_scale, config), state

    return step


def test_64_steps_in_place(operators: NativeOperators, geometry: CacheGeometry) -> None:
    """Each from the reference's state, which is copied into tensors that stay where they are."""
    reference = CacheLoop(geometry, GATE, 1, step=layer_step)
    ours = CacheLoop(geometry, GATE, 1, step=native_step(operators))
    scale = key_scale(geometry)
    for loop in (reference, ours):
        loop.key_scales = None if scale is None else [scale]
        loop.reset()
    addresses = [tensor.data_ptr() for tensor in ours.flat()]
    generator, seen = torch.Generator().manual_seed(1), 0
    dtype = getattr(torch, geometry.dtype)
    for index in range(64):
        steps = (5, 1, 1, 3)[index % 4]
        exact = dataclasses.replace(geometry, dtype="float32")
        query, key, value, meta = random_tokens(exact, steps, seen, generator)
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
        for mine, theirs in zip(ours.flat(), reference.flat(), strict=True):
            mine.copy_(theirs)
        ours.token_meta = reference.token_meta = meta
        got, want = ours.attend(0, query, key, value, SCALE), reference.attend(0, query, key, value, SCALE)
        assert_close(got, want, "output", geometry)
        for name, tensor in ours.state[0].items():
            assert_close(tensor, reference.state[0][name], name, geometry)
        seen += steps
    assert [tensor.data_ptr() for tensor in ours.flat()] == addresses


def test_inputs_of_any_layout(operators: NativeOperators) -> None:
    """Transposed and misaligned inputs give what dense ones give."""
    geometry = CASES["exact+int4"]
    state, (query, key, value, meta) = state_and_tokens(geometry, 3)
    pack, config = packed("RetentiveAttention", state, geometry), encode_config(geometry, GATE, SCALE)
    want = operators.attention(query, key, value, meta, pack, config)
    shifted = torch.empty(key.numel() + 1)[1:].view(key.shape).copy_(key)
    assert shifted.data_ptr() % ALIGNMENT
    turned = query.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    got = operators.attention(turned, shifted, value, meta, pack, config)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: x.half(),
            r"key_rows is torch\.float16 \[1, 2, 22, 8\] on cpu, and the operator takes torch\.float32",
        ),
        (lambda x: x[:, :, 1:], r"key_rows is torch\.float32 \[1, 2, 21, 8\]"),
        (lambda x: x.to("meta"), r"key_rows is .* on meta, and the operator takes .* on cpu"),
        (lambda x: x.transpose(2, 3).contiguous().transpose(2, 3), "key_rows has strides .* must be contiguous"),
        (lambda x: torch.empty(x.numel() + 1)[1:].view(x.shape), "key_rows .* aligned to 16 bytes"),
    ],
)
def test_a_wrong_state_tensor_is_refused(operators: NativeOperators, change: Any, message: str) -> None:
    geometry = CASES["mass"]
    state, tokens = state_and_tokens(geometry, 1)
    tensors = [change(tensor) if name == "key_rows" else tensor for name, tensor in state.items()]
    before = {name: tensor.clone() for name, tensor in state.items()}
    with pytest.raises(InputError, match=message):
        operators.step_(*tokens, tensors, None, encode_config(geometry, GATE, SCALE))
    assert all(torch.equal(tensor, before[name]) for name, tensor in state.items())


def test_missing_tensors_are_named(operators: NativeOperators) -> None:
    geometry = CASES["int8"]
    state, tokens = state_and_tokens(geometry, 1)
    with pytest.raises(InputError, match=r"step: 10 tensors, and the operator takes: query, .* key_scale, key_codes"):
        operators.step_(*tokens, list(state.values()), None, encode_config(geometry, GATE, SCALE))


def test_what_the_library_refuses_is_an_input_error(operators: NativeOperators) -> None:
    """More tokens than a chunk: the shapes agree, and the library's own check says what is wrong."""
    geometry = CASES["mass"]
    state, tokens = state_and_tokens(geometry, 5)
    smaller = dataclasses.replace(geometry, chunk=4)
    with pytest.raises(InputError, match=r"libretentive_reference\.so, step: .*5"):
        operators.step_(*tokens, list(state.values()), None, encode_config(smaller, GATE, SCALE))


class WithWorkspace:
    """A library that asks for workspace; keeps what it was launched with."""

    on_device = False

    def __init__(self, library: Any) -> None:
        self.library = library
        self.launched: list[tuple[Any, int]] = []

    def workspace(self, operator: str, geometry: Any, steps: int) -> int:
        return 1000 * steps

    def step(self, params: Any, stream: int = 0) -> None:
        self.launched.append((params, stream))
        self.library.step(params)


def test_workspace_comes_from_torch(library: native.NativeLibrary) -> None:
    wrapped = WithWorkspace(library)
    geometry = CASES["mass"]
    state, tokens = state_and_tokens(geometry, 3)
    NativeOperators(wrapped).step_(*tokens, list(state.values()), None, encode_config(geometry, GATE, SCALE))  # type: ignore[arg-type]
    ((params, _),) = wrapped.launched
    assert params.workspace_bytes == 3000
    assert params.workspace
    assert params.workspace % ALIGNMENT == 0


def test_cuda_launches_go_to_the_current_stream(library: native.NativeLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped, entered = WithWorkspace(library), []
    wrapped.library = type("Silent", (), {"step": lambda self, params: None})()

    @contextlib.contextmanager
    def device(which: torch.device) -> Any:
        entered.append(which)
        yield

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda which: type("Stream", (), {"cuda_stream": 1234}))
    params = object()
    NativeOperators(wrapped)._launch("step", params, torch.device("cuda", 1))  # type: ignore[arg-type]
    assert wrapped.launched == [(params, 1234)]
    assert entered == [torch.device("cuda", 1)]


def test_enable_cuda(plugin_build: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"libretentive_reference\.so computes on the CPU"):
        enable_cuda(plugin_build / "libretentive_reference.so")
    with pytest.raises(ArtifactError, match="is not a file"):
        enable_cuda(tmp_path / "nothing.so")
    enable_cuda(plugin_build / "libretentive_plugins.so")
    enable_cuda(plugin_build / "libretentive_plugins.so")
    for name in ("attention", "gate", "transition", "step_"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"retentivekv::{name}", "CUDA")


@pytest.mark.parametrize("part", ["step_attend", "step_settle"])
def test_a_step_in_two_parts_takes_one_token(plugin_build: Path, part: str) -> None:
    """Refused before anything is launched, so that no GPU is needed."""
    library = native.load(plugin_build / "libretentive_plugins.so")
    call = getattr(library, part)
    with pytest.raises(InputError, match="steps is 2: a step in two parts takes 1"):
        call(native.step_params(CASES["exact"], GATE, SCALE, 2, {}))
    with pytest.raises(InputError, match="query"):
        call(native.step_params(CASES["exact"], GATE, SCALE, 1, {}))


def test_a_step_in_two_parts_makes_no_copy_of_the_key_scale(operators: NativeOperators) -> None:
    geometry = CASES["int8"]
    state, tokens = state_and_tokens(geometry, 1)
    scale = key_scale(geometry)
    assert scale is not None
    apart = torch.stack([scale, scale], dim=-1)[..., 0]
    workspace, config = torch.empty(16, dtype=torch.uint8), encode_config(geometry, GATE, SCALE)
    with pytest.raises(InputError, match=r"key_scale has strides .* contiguous and aligned to 16 bytes"):
        operators.step_aside(*tokens, list(state.values()), apart, config, workspace=workspace, side=None)  # type: ignore[arg-type]


def test_a_session_over_compiled_operators(
    operators: NativeOperators, vision_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole backend `torch` over the compiled operators answers as ONNX Runtime does."""
    from retentive_export.backends import torch_decoder
    from tests.factories import photograph

    monkeypatch.setattr(torch_decoder, "step_in_place", native_step(operators))
    answers = []
    for backend in ("torch", "onnxruntime"):
        session = Session.open(vision_artifact, backend=backend, threads=1, verify=False)
        assert session.vision is not None
        session.observe(photograph(session.vision.frame))
        answers.append(
            (session.ask("Where is the cat in this picture? " * 4, max_new_tokens=20), session.last.token_ids)
        )
    assert answers[0] == answers[1]
