"""ctypes mirror of plugins/include/retentive/params.h: the structs, and how to fill them. Torch-free.

Fields have the names and the order of the C structs; tensors are addresses (`c_void_p`). `tests/plugins` holds sizes
and offsets against the compiler's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.geometry import CacheGeometry

__all__ = [
    "AttentionParams",
    "GateParams",
    "RetentiveGate",
    "RetentiveGeometry",
    "RetentiveSigmoid",
    "RetentiveState",
    "StepParams",
    "TransitionParams",
    "attention_params",
    "gate_params",
    "gate_struct",
    "geometry_struct",
    "step_params",
    "transition_params",
]

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2, "int8": 3, "int4": 4}
STORES = {"exact": 0, "coarse": 1}
READOUTS = {"none": 0, "mass": 1, "residual": 2}
SCORES = {"retention": 0, "recency": 1}

_int, _float, _pointer = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class RetentiveGeometry(ctypes.Structure):
    _fields_ = (
        ("batch", _int),
        ("kv_heads", _int),
        ("q_heads", _int),
        ("head_dim", _int),
        ("dtype", _int),
        ("exact_rows", _int),
        ("coarse_rows", _int),
        ("coarse_dtype", _int),
        ("memory_grid", _int * 2),
        ("frame_grid", _int * 2),
        ("recall_rows", _int),
        ("memory_store", _int),
        ("sinks", _int),
        ("window", _int),
        ("chunk", _int),
        ("readout", _int),
        ("track_importance", _int),
        ("track_entropy", _int),
    )


class RetentiveSigmoid(ctypes.Structure):
    _fields_ = (("enabled", _int), ("weight", _float), ("bias", _float))


class RetentiveGate(ctypes.Structure):
    _fields_ = (
        ("lambda_", _float),
        ("score", _int),
        ("importance_decay", _float),
        ("importance_gain", _float),
        ("entropy_decay", _float),
        ("entropy_gain", _float),
        ("retention", RetentiveSigmoid),
        ("absorption", RetentiveSigmoid),
        ("readout", RetentiveSigmoid),
        ("beta", _float),
    )


class RetentiveState(ctypes.Structure):
    _fields_ = (
        ("key_rows", _pointer),
        ("value_rows", _pointer),
        ("key_codes", _pointer),
        ("value_codes", _pointer),
        ("value_scale", _pointer),
        ("row_meta", _pointer),
        ("importance", _pointer),
        ("entropy", _pointer),
        ("memory_mass", _pointer),
        ("recall_state", _pointer),
        ("visual_state", _pointer),
    )


_WORKSPACE = (("workspace", _pointer), ("workspace_bytes", ctypes.c_size_t))


class AttentionParams(ctypes.Structure):
    """`RetentiveAttentionParams`."""

    _fields_ = (
        ("geometry", RetentiveGeometry),
        ("gate", RetentiveGate),
        ("scale", _float),
        ("steps", _int),
        ("query", _pointer),
        ("key", _pointer),
        ("value", _pointer),
        ("token_meta", _pointer),
        ("key_scale", _pointer),
        ("state", RetentiveState),
        ("output", _pointer),
        ("received", _pointer),
        ("surprise", _pointer),
        ("visual_entropy", _pointer),
        *_WORKSPACE,
    )


class GateParams(ctypes.Structure):
    """`RetentiveGateParams`."""

    _fields_ = (
        ("geometry", RetentiveGeometry),
        ("gate", RetentiveGate),
        ("steps", _int),
        ("received", _pointer),
        ("surprise", _pointer),
        ("visual_entropy", _pointer),
        ("token_meta", _pointer),
        ("state", RetentiveState),
        ("victims", _pointer),
        ("importance_next", _pointer),
        ("entropy_next", _pointer),
        ("absorption", _pointer),
        ("retention", _pointer),
        *_WORKSPACE,
    )


class TransitionParams(ctypes.Structure):
    """`RetentiveTransitionParams`."""

    _fields_ = (
        ("geometry", RetentiveGeometry),
        ("steps", _int),
        ("victims", _pointer),
        ("importance_next", _pointer),
        ("entropy_next", _pointer),
        ("absorption", _pointer),
        ("retention", _pointer),
        ("key", _pointer),
        ("value", _pointer),
        ("token_meta", _pointer),
        ("key_scale", _pointer),
        ("before", RetentiveState),
        ("after", RetentiveState),
        *_WORKSPACE,
    )


class StepParams(ctypes.Structure):
    """`RetentiveStepParams`."""

    _fields_ = (
        ("geometry", RetentiveGeometry),
        ("gate", RetentiveGate),
        ("scale", _float),
        ("steps", _int),
        ("query", _pointer),
        ("key", _pointer),
        ("value", _pointer),
        ("token_meta", _pointer),
        ("key_scale", _pointer),
        ("state", RetentiveState),
        ("output", _pointer),
        ("victims", _pointer),
        *_WORKSPACE,
    )


def geometry_struct(geometry: CacheGeometry) -> RetentiveGeometry:
    """The geometry in C. Raises RecipeError for the readout 'moments', which has no operator."""
    if geometry.readout not in READOUTS:
        raise RecipeError(
            f"readout is {geometry.readout!r}: it has no operator; accepted: {', '.join(map(repr, READOUTS))}",
            hint="run this policy with the reference, retentive_export.cache",
        )
    if geometry.latent_rows:
        raise RecipeError(
            f"latent_rows is {geometry.latent_rows}: the compiled operators read exact, int8 and int4 rows only",
            hint="run latent rows on ONNX Runtime, or set cache.rows.latent to null",
        )
    return RetentiveGeometry(
        batch=geometry.batch,
        kv_heads=geometry.kv_heads,
        q_heads=geometry.q_heads,
        head_dim=geometry.head_dim,
        dtype=DTYPES[geometry.dtype],
        exact_rows=geometry.exact_rows,
        coarse_rows=geometry.coarse_rows,
        coarse_dtype=DTYPES[geometry.coarse_dtype],
        memory_grid=(_int * 2)(*geometry.memory_grid),
        frame_grid=(_int * 2)(*geometry.frame_grid),
        recall_rows=geometry.recall_rows,
        memory_store=STORES[geometry.memory_store],
        sinks=geometry.sinks,
        window=geometry.window,
        chunk=geometry.chunk,
        readout=READOUTS[geometry.readout],
        track_importance=geometry.track_importance,
        track_entropy=geometry.track_entropy,
    )


def gate_struct(gate: GateConfig) -> RetentiveGate:
    """The gate's constants in C, as float32. Raises RecipeError for the score 'coverage', which has no kernel."""
    if gate.score not in SCORES:
        raise RecipeError(
            f"score is {gate.score!r}: the compiled operators know {', '.join(map(repr, SCORES))}",
            hint="run this policy on ONNX Runtime, or set cache.policy to 'retentive'",
        )

    def sigmoid(one: SigmoidGate) -> RetentiveSigmoid:
        return RetentiveSigmoid(enabled=one.enabled, weight=one.weight, bias=one.bias)

    return RetentiveGate(
        lambda_=gate.lambda_,
        score=SCORES[gate.score],
        importance_decay=gate.importance_decay,
        importance_gain=gate.importance_gain,
        entropy_decay=gate.entropy_decay,
        entropy_gain=gate.entropy_gain,
        retention=sigmoid(gate.retention),
        absorption=sigmoid(gate.absorption),
        readout=sigmoid(gate.readout),
        beta=gate.beta,
    )


def attention_params(
    geometry: CacheGeometry, gate: GateConfig, scale: float, steps: int, tensors: Mapping[str, int]
) -> AttentionParams:
    """Arguments of RetentiveAttention for T = `steps`.

    `tensors` maps names of `ops.contract` (inputs, outputs and state tensors) to addresses, here and below. A name
    that it lacks stays NULL, which the library refuses by name where the tensor is needed; other names are ignored.
    The workspace is `params.workspace` and `params.workspace_bytes`, none at first.
    """
    params = AttentionParams(geometry_struct(geometry), gate_struct(gate), scale, steps)
    _point(params, tensors)
    _point(params.state, tensors)
    return params


def gate_params(geometry: CacheGeometry, gate: GateConfig, steps: int, tensors: Mapping[str, int]) -> GateParams:
    """Arguments of EntropyGate."""
    params = GateParams(geometry_struct(geometry), gate_struct(gate), steps)
    _point(params, tensors)
    _point(params.state, tensors)
    return params


def transition_params(
    geometry: CacheGeometry, steps: int, tensors: Mapping[str, int], after: Mapping[str, int] | None = None
) -> TransitionParams:
    """Arguments of StateTransition; `after` maps the state tensors to where the new state goes, by default in place."""
    params = TransitionParams(geometry_struct(geometry), steps)
    _point(params, tensors)
    _point(params.before, tensors)
    _point(params.after, tensors if after is None else after)
    return params


def step_params(
    geometry: CacheGeometry, gate: GateConfig, scale: float, steps: int, tensors: Mapping[str, int]
) -> StepParams:
    """Arguments of a layer's whole step, in place; `victims` is optional."""
    params = StepParams(geometry_struct(geometry), gate_struct(gate), scale, steps)
    _point(params, tensors)
    _point(params.state, tensors)
    return params


def _point(struct: ctypes.Structure, tensors: Mapping[str, int]) -> None:
    """Set every pointer of `struct` that `tensors` names."""
    for field in struct._fields_:
        if field[1] is _pointer and field[0] in tensors:
            setattr(struct, field[0], tensors[field[0]])
