"""Reference == torch operator == ONNX function under ONNX Runtime, for every geometry and any number of tokens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from retentive_export.cache.attention import retentive_attention
from retentive_export.cache.gate import entropy_gate
from retentive_export.cache.step import layer_step as reference_step
from retentive_export.cache.transition import state_transition
from retentive_export.ops.constants import constants_of
from retentive_export.ops.torch_ops import layer_step as operator_step
from tests.ops.helpers import (
    GATE,
    GEOMETRIES,
    SCALE,
    key_scale,
    latent_basis,
    random_state,
    random_tokens,
    run_function,
)

TOLERANCE = 1e-5


@pytest.fixture(params=list(GEOMETRIES))
def geometry(request):
    return GEOMETRIES[request.param]


def assert_close(got: torch.Tensor, want: torch.Tensor, name: str) -> None:
    assert got.shape == want.shape, name
    assert got.dtype == want.dtype, name
    if want.dtype.is_floating_point:
        scale = max(1.0, want.abs().max().item())
        assert (got - want).abs().max().item() <= TOLERANCE * scale, name
    else:
        assert torch.equal(got, want), name


@pytest.mark.parametrize("tokens", [0, 7, 60])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_functions_equal_reference(geometry, tokens, steps):
    generator = torch.Generator().manual_seed(tokens * 10 + steps)
    state = random_state(geometry, tokens, generator)
    query, key, value, meta = random_tokens(geometry, steps, tokens, generator)
    scale, basis = key_scale(geometry), latent_basis(geometry)
    named = dict(state) | {"query": query, "key": key, "value": value, "token_meta": meta}
    named |= constants_of(scale, basis)

    attention = retentive_attention(
        query, key, value, meta, state, scale, geometry=geometry, gate=GATE, scale=SCALE, basis=basis
    )
    got = run_function("RetentiveAttention", geometry, named)
    for name, want in attention._asdict().items():
        assert_close(got[name], want, name)

    named |= attention._asdict()
    decision = entropy_gate(attention, meta, state, scale, geometry=geometry, gate=GATE)
    got = run_function("EntropyGate", geometry, named)
    for name, want in zip(got, decision, strict=True):
        assert_close(got[name], want, name)

    named |= dict(zip(got, decision, strict=True))
    after = state_transition(decision, key, value, meta, state, scale, geometry=geometry, basis=basis)
    got = run_function("StateTransition", geometry, named)
    for name, want in after.items():
        assert_close(got[name], want, name)


@pytest.mark.parametrize("name", ["latent", "exact+int4"])
def test_the_gates_other_scores_have_functions(name):
    geometry, generator = GEOMETRIES[name], torch.Generator().manual_seed(7)
    state = random_state(geometry, 60, generator)
    query, key, value, meta = random_tokens(geometry, 3, 60, generator)
    attention = retentive_attention(
        *(query, key, value, meta, state, key_scale(geometry)),
        geometry=geometry,
        gate=GATE,
        scale=SCALE,
        basis=latent_basis(geometry),
    )
    named = dict(state) | {"token_meta": meta} | attention._asdict()
    for score in ("coverage", "recency"):
        gate = replace(GATE, score=score)
        want = entropy_gate(attention, meta, state, None, geometry=geometry, gate=gate)
        got = run_function("EntropyGate", geometry, named, gate)
        for label, tensor in zip(got, want, strict=True):
            assert_close(got[label], tensor, f"{score}: {label}")


def test_torch_operators_equal_reference(geometry):
    generator = torch.Generator().manual_seed(5)
    state = random_state(geometry, 40, generator)
    fresh = random_tokens(geometry, 3, 40, generator)
    constants = {"geometry": geometry, "gate": GATE, "scale": SCALE, "basis": latent_basis(geometry)}
    scale = key_scale(geometry)
    want_output, want = reference_step(*fresh, state, scale, **constants)
    got_output, got = operator_step(*fresh, state, scale, **constants)
    assert torch.equal(got_output, want_output)
    assert all(torch.equal(got[name], want[name]) for name in want)


def test_torch_operators_pass_opcheck(geometry):
    from retentive_export.ops.contract import encode_config
    from retentive_export.ops.torch_ops import _pack

    generator = torch.Generator().manual_seed(6)
    state = random_state(geometry, 40, generator)
    fresh = random_tokens(geometry, 3, 40, generator)
    named = state | constants_of(key_scale(geometry), latent_basis(geometry))
    pack = _pack("RetentiveAttention", named, geometry)
    arguments = (*fresh, pack, encode_config(geometry, GATE, SCALE))
    torch.library.opcheck(torch.ops.retentivekv.attention.default, arguments)


def test_torch_operator_refuses_a_policy_score():
    with pytest.raises(ValueError, match="score is set"):
        operator_step(*[torch.zeros(1)] * 4, {}, geometry=None, gate=None, scale=1.0, score=lambda s: s)
