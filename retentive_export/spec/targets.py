"""Targets: data in `targets.yaml` and in files of the user's, never code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from retentive_export.errors import RecipeError
from retentive_export.spec.plain import describe_errors, parse_bytes, plain_yaml

__all__ = ["Board", "Stack", "Target", "load_targets", "target"]

Precision = Literal["float32", "float16", "bfloat16", "float8", "float4", "int8", "int4"]
Bytes = Annotated[int, BeforeValidator(parse_bytes), Field(ge=0)]
Capability = Annotated[str, Field(pattern=r"^\d+\.\d$")]
_MODEL_DTYPES = ("float32", "float16", "bfloat16")
_SINCE: dict[str, tuple[int, int]] = {"bfloat16": (8, 0), "float8": (8, 9), "float4": (10, 0)}
"""Precision -> the first compute capability that has it."""
_JETSON_SMS = frozenset({"7.2", "8.7", "11.0"})
_PRECISION_FLAGS = frozenset({"FP16", "BF16", "INT8", "INT4", "FP8", "FP4"})


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Board(_Part):
    """One machine of a target, or one power mode of it.

    memory: bytes that weights, state and everything else share. bandwidth: of that memory, in GB/s (10^9 bytes), the
    vendor's figure.
    """

    name: str = Field(min_length=1)
    memory: Annotated[Bytes, Field(ge=1)]
    bandwidth: float = Field(gt=0)


class Stack(_Part):
    """One combination of software that a target comes with or takes. l4t: release of Jetson Linux, first two numbers,
    as in /etc/nv_tegra_release; null where there is none. A version ends where it stops to matter: "10.3" is any
    10.3.x."""

    name: str = Field(min_length=1)
    cuda: str
    tensorrt: str
    os: str | None = None
    python: str | None = None
    l4t: str | None = None


class Target(_Part):
    """One kind of machine.

    Attributes:
        backend: the module under retentive_export/backends that serves it; null: graphs for other runtimes.
        engines: where its engines are built: on the "device" that runs them, "anywhere" (no GPU needed), or "none".
        precisions: what it computes with or stores rows in; `model_dtypes` are those that a recipe's model may have.
        sm: compute capabilities of its GPUs.
        architecture: of its CPU; null: aarch64 where an SM is that of a Jetson, else x86_64.
        builder_resource: SM in the name of the builder-resource library that TensorRT from 10.16 on loads here; null:
            the GPU's own.
        builder_flags: names of members of TensorRT's `BuilderFlag` that every engine for this target is built with.
        boards: machines with memory and bandwidth; empty where there is no end of them.
        reserved: bytes that the operating system, the desktop and the CUDA context take: an estimate.
        efficiency: share of the bandwidth that decode reaches: an estimate.
        stacks: software that it is known with.
    """

    name: str
    description: str
    backend: Literal["onnxruntime", "tensorrt", "tensorrt_rtx"] | None
    engines: Literal["device", "anywhere", "none"]
    precisions: Annotated[tuple[Precision, ...], Field(min_length=1)]
    sm: tuple[Capability, ...] = ()
    architecture: Literal["x86_64", "aarch64"] | None = None
    builder_resource: Annotated[str | None, Field(pattern=r"^\d+$")] = None
    builder_flags: tuple[str, ...] = ()
    boards: tuple[Board, ...] = ()
    reserved: Bytes = 0
    efficiency: Annotated[float, Field(gt=0, le=1)] = 0.7
    stacks: tuple[Stack, ...] = ()

    @property
    def capabilities(self) -> tuple[tuple[int, int], ...]:
        """`sm` as numbers, (8, 7) for "8.7"."""
        return tuple(_numbers(one) for one in self.sm)

    @property
    def machine(self) -> str:
        """Architecture of its CPU, in the words of `uname -m`."""
        return self.architecture or ("aarch64" if _JETSON_SMS.intersection(self.sm) else "x86_64")

    @property
    def model_dtypes(self) -> tuple[str, ...]:
        """Values of a recipe's `model.dtype` that it takes, the usual one first."""
        return tuple(one for one in self.precisions if one in _MODEL_DTYPES)

    @property
    def is_jetson(self) -> bool:
        """Whether its software is a release of Jetson Linux."""
        return any(stack.l4t for stack in self.stacks)

    def board(self, name: str) -> Board:
        """The board called `name`.

        Raises:
            RecipeError: there is none.
        """
        for board in self.boards:
            if board.name == name:
                return board
        known = ", ".join(repr(board.name) for board in self.boards) or "none, give its memory and bandwidth instead"
        raise RecipeError(f"board is {name!r}, and the boards of target {self.name!r} are: {known}")

    @model_validator(mode="after")
    def _consistent(self) -> Target:
        if not self.model_dtypes:
            raise ValueError(f"precisions has none of {', '.join(_MODEL_DTYPES)}, and a model needs one")
        for precision, since in _SINCE.items():
            below = [one for one in self.sm if _numbers(one) < since]
            if precision in self.precisions and below:
                raise ValueError(
                    f"precisions has {precision}, which exists from SM {since[0]}.{since[1]} on, and sm has {below[0]}"
                )
        if flags := _PRECISION_FLAGS.intersection(self.builder_flags):
            raise ValueError(
                f"builder_flags has {min(flags)}: engines are strongly typed, and precision is in the graph "
                "(model.dtype, cache.rows.dtype)"
            )
        has_engines = self.backend in ("tensorrt", "tensorrt_rtx")
        if has_engines != (self.engines != "none"):
            wanted = "'device' or 'anywhere'" if has_engines else "'none'"
            raise ValueError(f"engines is {self.engines!r}, and must be {wanted} with backend {self.backend!r}")
        names = [board.name for board in self.boards]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"boards has {twice[0]!r} twice")
        return self


def _numbers(capability: str) -> tuple[int, int]:
    major, _, minor = capability.partition(".")
    return int(major), int(minor)


def load_targets(file: str | Path | None = None) -> dict[str, Target]:
    """All known targets by name: the package's, then those of a YAML file of the same form, which win.

    Raises:
        RecipeError: the file cannot be read, or a field of it is wrong.
    """
    known = _read(Path(__file__).parent / "targets.yaml")
    return known if file is None else known | _read(Path(file))


def _read(path: Path) -> dict[str, Target]:
    hint = "retentive-export targets --json prints complete targets"
    try:
        data = plain_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"targets file {path} cannot be read: {error}") from None
    except ValueError as error:
        raise RecipeError(f"targets file {path} is not YAML: {error}") from None
    if not isinstance(data, Mapping) or not data:
        raise RecipeError(f"targets file {path}: it must be a mapping of names to targets", hint=hint)
    return {str(name): _parse(str(name), fields, path, hint) for name, fields in data.items()}


def _parse(name: str, fields: Any, path: Path, hint: str) -> Target:
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        raise RecipeError(f"targets file {path}: target {name!r}: a name has lower-case letters, digits, '.', '_', '-'")
    if not isinstance(fields, Mapping):
        raise RecipeError(f"targets file {path}: target {name!r} is {type(fields).__name__}, and must be a mapping")
    try:
        return Target.model_validate({**fields, "name": name})
    except ValidationError as error:
        raise RecipeError(f"targets file {path}: {name}: {describe_errors(error, 'target')}", hint=hint) from None


def target(name: str, dtype: str | None = None, *, file: str | Path | None = None) -> Target:
    """The target called `name`, able to compute in `dtype`. file: of more targets, see `load_targets`.

    Raises:
        RecipeError: no such target, or it lacks the precision.
    """
    known = load_targets(file)
    if name not in known:
        raise RecipeError(f"target is {name!r}, and must be one of: {', '.join(known)}")
    found = known[name]
    if dtype is not None and dtype not in found.model_dtypes:
        raise RecipeError(
            f"model.dtype is {dtype!r}, and target {name!r} computes in: {', '.join(found.model_dtypes)}",
            hint=f"--set model.dtype={found.model_dtypes[0]}",
        )
    return found
