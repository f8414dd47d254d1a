"""The compiled operators on torch tensors: from tensors to the C structs of `ops.params` and back.

`enable_cuda` puts the CUDA kernels behind `torch.ops.retentivekv.*`. `NativeOperators` does the same work on host
tensors over the C++ reference, which is how it is checked without a GPU.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.errors import ArtifactError, InputError
from retentive_export.ops import native, torch_ops
from retentive_export.ops.contract import OPS, decode_config, tensor_specs
from retentive_export.ops.params import RetentiveState
from retentive_export.spec.geometry import CacheGeometry, TensorSpec

__all__ = ["NativeOperators", "enable_cuda"]

ALIGNMENT = 16
"""Bytes; what plugins/include/retentive/params.h asks of every pointer."""

Specs = Mapping[str, TensorSpec]
_STATE = frozenset(name for name, _ in RetentiveState._fields_)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """What every call of an operator with one configuration and T has in common.

    template: its struct, without pointers. inputs, outputs: what it reads and what it makes, in the order of the torch
    operator. workspace: bytes.
    """

    template: Any
    inputs: Specs
    outputs: Specs
    workspace: int


class NativeOperators:
    """The operators of a compiled library, with the signatures of `ops.torch_ops`.

    Args:
        library: libretentive_plugins.so, for CUDA tensors, or libretentive_reference.so, for host tensors.

    Methods launch on the current stream of the tensors' device, take their workspace from torch's allocator and do not
    synchronise, so a CUDA graph may capture them. They raise InputError for a tensor of another shape, dtype or device
    and for whatever else the library refuses, DeviceError for sizes or a GPU that the kernels do not support.
    """

    def __init__(self, library: native.NativeLibrary) -> None:
        self._library = library
        self._device_type = "cuda" if library.on_device else "cpu"
        self._call = lru_cache(maxsize=256)(self._make_call)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, token_meta: Tensor, state: Sequence[Tensor], config: str
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`torch_ops.attention`."""
        return tuple(self._run("attention", (query, key, value, token_meta, *state), config))  # type: ignore[return-value]

    def gate(
        self,
        received: Tensor,
        surprise: Tensor,
        visual_entropy: Tensor,
        token_meta: Tensor,
        state: Sequence[Tensor],
        config: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """`torch_ops.gate`."""
        tensors = (received, surprise, visual_entropy, token_meta, *state)
        return tuple(self._run("gate", tensors, config))  # type: ignore[return-value]

    def transition(
        self,
        victims: Tensor,
        importance_next: Tensor,
        entropy_next: Tensor,
        absorption: Tensor,
        retention: Tensor,
        key: Tensor,
        value: Tensor,
        token_meta: Tensor,
        state: Sequence[Tensor],
        config: str,
    ) -> list[Tensor]:
        """`torch_ops.transition`: fresh state tensors."""
        decision = (victims, importance_next, entropy_next, absorption, retention)
        return self._run("transition", (*decision, key, value, token_meta, *state), config)

    def step_(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_meta: Tensor,
        state: Sequence[Tensor],
        key_scale: Tensor | None,
        config: str,
    ) -> Tensor:
        """`torch_ops.step_`: the state's tensors are written where they are."""
        scale = () if key_scale is None else (key_scale,)
        (output,) = self._run("step", (query, key, value, token_meta, *scale, *state), config)
        return output

    def step_aside(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_meta: Tensor,
        state: Sequence[Tensor],
        key_scale: Tensor | None,
        config: str,
        *,
        workspace: Tensor,
        side: torch.cuda.Stream,
    ) -> Tensor:
        """`step_` of one token: the output on the current stream, all else on `side` behind it.

        workspace: `step_workspace` bytes, uint8; until `side` is done it and the state must be left alone. key_scale is
        read on `side` too, so it must be dense and aligned: a copy would be gone by then.
        """
        if key_scale is not None and (key_scale.data_ptr() % ALIGNMENT or not key_scale.is_contiguous()):
            raise InputError(
                f"key_scale has strides {key_scale.stride()} at {key_scale.data_ptr():#x}: a step in two parts needs "
                f"it contiguous and aligned to {ALIGNMENT} bytes"
            )
        scale = () if key_scale is None else (key_scale,)
        tensors = (query, key, value, token_meta, *scale, *state)
        params, (output,), _held = self._fill("step", tensors, config, workspace)
        self._launch("step_attend", params, query.device)
        side.wait_stream(torch.cuda.current_stream(query.device))
        self._launch("step_settle", params, query.device, side)
        return output

    def step_workspace(self, config: str) -> int:
        """Bytes of workspace of a step of one token."""
        return self._call("step", config, 1).workspace

    def _make_call(self, operator: native.Operator, config: str, steps: int) -> _Call:
        geometry, gate, scale = decode_config(config)
        template: Any
        if operator == "attention":
            template = native.attention_params(geometry, gate, scale, steps, {})
        elif operator == "gate":
            template = native.gate_params(geometry, gate, steps, {})
        elif operator == "transition":
            template = native.transition_params(geometry, steps, {})
        else:
            template = native.step_params(geometry, gate, scale, steps, {})
        inputs, outputs = _contract(operator, geometry, steps)
        workspace = self._library.workspace(operator, template.geometry, steps)
        return _Call(template=template, inputs=inputs, outputs=outputs, workspace=workspace)

    def _run(self, operator: native.Operator, tensors: Sequence[Tensor], config: str) -> list[Tensor]:
        """Fill the operator's struct, launch, return its outputs."""
        params, outputs, _held = self._fill(operator, tensors, config)
        self._launch(operator, params, tensors[0].device)
        return outputs

    def _fill(
        self, operator: native.Operator, tensors: Sequence[Tensor], config: str, workspace: Tensor | None = None
    ) -> tuple[Any, list[Tensor], list[Tensor]]:
        """The operator's struct, its outputs, and what must be kept until the launch: a copy that is freed may be given
        to another tensor."""
        meta = tensors[7 if operator == "transition" else 3]
        call = self._call(operator, config, meta.shape[1])
        if len(tensors) != len(call.inputs):
            raise InputError(f"{operator}: {len(tensors)} tensors, and the operator takes: {', '.join(call.inputs)}")
        params = type(call.template).from_buffer_copy(call.template)
        before, after = ("before", "after") if operator == "transition" else ("state", "state")
        held = []
        for (name, spec), tensor in zip(call.inputs.items(), tensors, strict=True):
            held.append(self._checked(spec, tensor, in_place=operator == "step" and name in _STATE))
            _point(params, name, held[-1], before)
        device = meta.device
        outputs = [torch.empty(s.shape, dtype=TORCH_DTYPES[s.dtype], device=device) for s in call.outputs.values()]
        for name, tensor in zip(call.outputs, outputs, strict=True):
            _point(params, name, tensor, after)
        if workspace is None and call.workspace:
            workspace = torch.empty(call.workspace, dtype=torch.uint8, device=device)
        if workspace is not None:
            held.append(workspace)
            params.workspace, params.workspace_bytes = workspace.data_ptr(), workspace.nbytes
        return params, outputs, held

    def _checked(self, spec: TensorSpec, tensor: Tensor, *, in_place: bool) -> Tensor:
        """The tensor, dense and aligned as the kernels need it; one that is to be written must already be."""
        dtype = TORCH_DTYPES[spec.dtype]
        if tensor.shape != spec.shape or tensor.dtype != dtype or tensor.device.type != self._device_type:
            raise InputError(
                f"{spec.name} is {tensor.dtype} {list(tensor.shape)} on {tensor.device}, and the operator takes "
                f"{dtype} {list(spec.shape)} on {self._device_type}"
            )
        dense = tensor.contiguous()
        if dense.data_ptr() % ALIGNMENT:
            dense = dense.clone()
        if in_place and dense.data_ptr() != tensor.data_ptr():
            raise InputError(
                f"{spec.name} has strides {tensor.stride()} at {tensor.data_ptr():#x}: a tensor that is updated "
                f"in place must be contiguous and aligned to {ALIGNMENT} bytes"
            )
        return dense

    def _launch(
        self,
        call: native.Operator | native.StepPart,
        params: ctypes.Structure,
        device: torch.device,
        stream: torch.cuda.Stream | None = None,
    ) -> None:
        """stream: None: the current one."""
        launch = getattr(self._library, call)
        if device.type != "cuda":
            launch(params)
            return
        with torch.cuda.device(device):
            launch(params, (stream or torch.cuda.current_stream(device)).cuda_stream)


def _contract(operator: native.Operator, geometry: CacheGeometry, steps: int) -> tuple[Specs, Specs]:
    """Inputs and outputs of an operator; what one makes is specified where the next one reads it."""
    attention = tensor_specs("RetentiveAttention", geometry, steps)
    gate = tensor_specs("EntropyGate", geometry, steps)
    transition = tensor_specs("StateTransition", geometry, steps)
    state = {spec.name: spec for spec in geometry.state()}
    output = {"output": attention["query"]}
    if operator == "attention":
        return attention, output | {name: gate[name] for name in OPS["RetentiveAttention"].outputs[1:]}
    if operator == "gate":
        return gate, {name: transition[name] for name in OPS["EntropyGate"].outputs}
    if operator == "transition":
        return transition, state
    return {name: spec for name, spec in attention.items() if name not in state} | state, output


def _point(params: Any, name: str, tensor: Tensor, state: str) -> None:
    """Set the pointer called `name`, in the struct or in its part `state`."""
    setattr(getattr(params, state) if name in _STATE else params, name, tensor.data_ptr())


def enable_cuda(library: str | os.PathLike[str] | None = None) -> NativeOperators:
    """Put the kernels of libretentive_plugins.so behind `torch.ops.retentivekv.*` for CUDA tensors; returns them.

    May be called again; the last library holds. `library`: its path; None: see `native.find`.

    Raises:
        MissingExtraError: the library was not built. ArtifactError: it cannot be loaded, or is the C++ reference.
    """
    loaded = native.load(native.find("plugins", library))
    if not loaded.on_device:
        raise ArtifactError(
            f"{loaded.path} computes on the CPU, and CUDA tensors need the kernels",
            hint="give the path of libretentive_plugins.so",
        )
    operators = NativeOperators(loaded)
    torch_ops.attention.register_kernel("cuda", operators.attention)
    torch_ops.gate.register_kernel("cuda", operators.gate)
    torch_ops.transition.register_kernel("cuda", operators.transition)
    torch_ops.step_.register_kernel("cuda", operators.step_)
    return operators
