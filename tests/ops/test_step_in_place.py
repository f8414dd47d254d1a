"""The whole step as one operator that writes the state where it is."""

from __future__ import annotations

import pytest
import torch

from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.step import layer_step
from retentive_export.ops.contract import encode_config
from retentive_export.ops.torch_ops import step_in_place
from retentive_export.spec.geometry import CacheGeometry
from tests.ops.helpers import GATE, GEOMETRIES, SCALE, key_scale, latent_basis, random_state, random_tokens

KERNELS = [name for name, geometry in GEOMETRIES.items() if not geometry.latent_rows]


@pytest.fixture(params=list(GEOMETRIES))
def geometry(request: pytest.FixtureRequest) -> CacheGeometry:
    return GEOMETRIES[request.param]


def test_a_loop_in_place_equals_one_out_of_place(geometry: CacheGeometry) -> None:
    """Bit by bit over 40 steps; the state's tensors stay where they are."""
    scale, basis = key_scale(geometry), latent_basis(geometry)
    constants = {"key_scales": None if scale is None else [scale], "bases": None if basis is None else [basis]}
    loops = [CacheLoop(geometry, GATE, 1, step=step, **constants) for step in (step_in_place, layer_step)]
    for loop in loops:
        loop.reset()
    before = [tensor.data_ptr() for tensor in loops[0].flat()]
    generator, seen = torch.Generator().manual_seed(3), 0
    for index in range(40):
        steps = (5, 1, 2)[index % 3]
        query, key, value, meta = random_tokens(geometry, steps, seen, generator)
        outputs = []
        for loop in loops:
            loop.token_meta = meta
            outputs.append(loop.attend(0, query, key, value, SCALE))
        assert torch.equal(*outputs)
        assert all(torch.equal(a, b) for a, b in zip(loops[0].flat(), loops[1].flat(), strict=True))
        seen += steps
    assert [tensor.data_ptr() for tensor in loops[0].flat()] == before


@pytest.mark.parametrize("geometry", [GEOMETRIES[name] for name in KERNELS], ids=KERNELS)
def test_the_operator_passes_opcheck(geometry: CacheGeometry) -> None:
    generator = torch.Generator().manual_seed(6)
    state = random_state(geometry, 40, generator)
    fresh = random_tokens(geometry, 3, 40, generator)
    arguments = (*fresh, list(state.values()), key_scale(geometry), encode_config(geometry, GATE, SCALE))
    torch.library.opcheck(torch.ops.retentivekv.step_.default, arguments)


def test_a_policy_score_is_refused() -> None:
    with pytest.raises(ValueError, match="score is set"):
        step_in_place(*[torch.zeros(1)] * 4, {}, geometry=None, gate=None, scale=1.0, score=lambda s: s)  # type: ignore[arg-type]
