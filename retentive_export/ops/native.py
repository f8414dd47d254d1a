"""The compiled operators through their C ABI (plugins/include/retentive/): where they are, calls to them. Torch-free.

library = native.load(native.find("plugins"))
params = native.step_params(geometry, gate, scale, steps, {"query": query.data_ptr(), ...})
library.step(params, stream)
"""

from __future__ import annotations

import ctypes
import enum
import os
from pathlib import Path
from typing import Literal

from retentive_export.errors import ArtifactError, DeviceError, InputError, MissingExtraError, RetentiveExportError
from retentive_export.ops.params import (
    AttentionParams,
    GateParams,
    RetentiveGeometry,
    StepParams,
    TransitionParams,
    attention_params,
    gate_params,
    gate_struct,
    geometry_struct,
    step_params,
    transition_params,
)

__all__ = [
    "NativeLibrary",
    "Status",
    "attention_params",
    "find",
    "gate_params",
    "gate_struct",
    "geometry_struct",
    "load",
    "step_params",
    "transition_params",
]

Operator = Literal["attention", "gate", "transition", "step"]
StepPart = Literal["step_attend", "step_settle"]

_PARAMS: dict[Operator, type[ctypes.Structure]] = {
    "attention": AttentionParams,
    "gate": GateParams,
    "transition": TransitionParams,
    "step": StepParams,
}
_PARTS: tuple[StepPart, ...] = ("step_attend", "step_settle")
_PACKAGE = Path(__file__).resolve().parents[1]


class Status(enum.IntEnum):
    """`RetentiveStatus`: outcome of a call."""

    OK = 0
    INVALID = 1
    UNSUPPORTED = 2
    CUDA = 3


_ERRORS: dict[int, type[RetentiveExportError]] = {
    Status.INVALID: InputError,
    Status.UNSUPPORTED: DeviceError,
    Status.CUDA: DeviceError,
}


class NativeLibrary:
    """The calls of libretentive_plugins.so (device pointers) or libretentive_reference.so (host pointers).

    A call raises InputError when a parameter cannot be (nothing was launched or written then) and DeviceError when the
    sizes are not implemented or CUDA refuses; the message is the library's and names the field.

    Attributes:
        path: the file. on_device: whether pointers are device pointers and calls take a CUDA stream.
    """

    def __init__(self, path: Path, library: ctypes.CDLL, *, on_device: bool) -> None:
        self.path, self.on_device = path, on_device
        prefix = "retentive_" if on_device else "retentive_reference_"
        self._message = getattr(library, f"{prefix}message")
        self._message.argtypes, self._message.restype = (), ctypes.c_char_p
        structs: dict[str, type[ctypes.Structure]] = dict(_PARAMS.items())
        if on_device:
            structs |= dict.fromkeys(_PARTS, StepParams)
        self._calls = {name: getattr(library, f"{prefix}{name}") for name in structs}
        for name, call in self._calls.items():
            stream = (ctypes.c_void_p,) if on_device else ()
            call.argtypes, call.restype = (ctypes.POINTER(structs[name]), *stream), ctypes.c_int32
        self._workspaces = {name: getattr(library, f"{prefix}{name}_workspace") for name in _PARAMS if on_device}
        for call in self._workspaces.values():
            call.argtypes, call.restype = (ctypes.POINTER(RetentiveGeometry), ctypes.c_int32), ctypes.c_size_t

    def attention(self, params: AttentionParams, stream: int = 0) -> None:
        """RetentiveAttention; `stream` is a cudaStream_t, here and below."""
        self._call("attention", params, stream)

    def gate(self, params: GateParams, stream: int = 0) -> None:
        """EntropyGate."""
        self._call("gate", params, stream)

    def transition(self, params: TransitionParams, stream: int = 0) -> None:
        """StateTransition."""
        self._call("transition", params, stream)

    def step(self, params: StepParams, stream: int = 0) -> None:
        """All three on one layer, in place."""
        self._call("step", params, stream)

    def step_attend(self, params: StepParams, stream: int = 0) -> None:
        """First part of a step of one token: the output. On a device alone, like the second part."""
        self._call("step_attend", params, stream)

    def step_settle(self, params: StepParams, stream: int = 0) -> None:
        """Second part, which reads the workspace and the state but none of the step's inputs."""
        self._call("step_settle", params, stream)

    def workspace(self, operator: Operator, geometry: RetentiveGeometry, steps: int) -> int:
        """Bytes of workspace that a call with `steps` tokens or fewer needs; the reference needs none."""
        if not self.on_device:
            return 0
        return int(self._workspaces[operator](ctypes.byref(geometry), steps))

    def _call(self, operator: Operator | StepPart, params: ctypes.Structure, stream: int) -> None:
        rest = (stream,) if self.on_device else ()
        status = self._calls[operator](ctypes.byref(params), *rest)
        if status != Status.OK:
            error = _ERRORS.get(status, DeviceError)
            raise error(f"{self.path.name}, {operator}: {self._message().decode(errors='replace')}")


def find(name: Literal["plugins", "reference"], path: str | os.PathLike[str] | None = None) -> Path:
    """The file libretentive_<name>.so: `path` when given, else in the installed package, else the newest build of a
    source checkout.

    Raises:
        ArtifactError: there is nothing at `path`.
        MissingExtraError: the library was not built.
    """
    if path is not None:
        if not Path(path).is_file():
            raise ArtifactError(f"{os.fspath(path)} is not a file", hint=f"give the path of libretentive_{name}.so")
        return Path(path)
    file = f"libretentive_{name}.so"
    packaged, checkout = _PACKAGE / "_native", _PACKAGE.parent / "plugins"
    if (packaged / file).is_file():
        return packaged / file
    built = list((checkout / "build").glob(f"*/{file}")) if (checkout / "CMakeLists.txt").is_file() else []
    if not built:
        command = "scripts/build_plugins.sh" + (" reference" if name == "reference" else "")
        raise MissingExtraError(
            f"{file} was not found in {packaged} or {checkout / 'build'}/*",
            hint=f"build it in a source checkout with {command}, or give its path",
        )
    return max(built, key=lambda candidate: candidate.stat().st_mtime_ns)


def load(path: str | os.PathLike[str]) -> NativeLibrary:
    """Open either library.

    Raises ArtifactError when the file cannot be loaded or lacks the C ABI's functions.
    """
    file = Path(path).resolve()
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        raise ArtifactError(f"{file} cannot be loaded: {error}", hint="rebuild it on this machine") from error
    # The kernels' names first: a library that is linked to the reference shows the reference's names as well.
    for on_device, symbol in ((True, "retentive_step"), (False, "retentive_reference_step")):
        if hasattr(library, symbol):
            try:
                return NativeLibrary(file, library, on_device=on_device)
            except AttributeError as error:
                raise ArtifactError(f"{file} is incomplete: {error}", hint="rebuild it") from error
    raise ArtifactError(
        f"{file} has neither retentive_step nor retentive_reference_step",
        hint="give the path of libretentive_plugins.so or libretentive_reference.so",
    )
