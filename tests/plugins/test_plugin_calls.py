"""What the plugins hand over in enqueue: the real plugin objects over the C++ reference against the torch operators."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from retentive_export.ops import torch_ops
from retentive_export.ops.contract import OPS, attributes, encode_config
from retentive_export.spec.geometry import CacheGeometry
from tests.ops.helpers import GATE, SCALE, key_scale, random_state, random_tokens
from tests.plugins.plugin_cases import SERVED
from tests.plugins.plugin_driver import Offer, PluginLibrary

TORCH = {
    "RetentiveAttention": torch_ops.attention,
    "EntropyGate": torch_ops.gate,
    "StateTransition": torch_ops.transition,
}
every_geometry = pytest.mark.parametrize("geometry", SERVED.values(), ids=SERVED)


@pytest.fixture(scope="module")
def library(plugin_build: Path) -> Iterator[PluginLibrary]:
    library = PluginLibrary(plugin_build, "libretentive_plugins_on_cpu.so")
    yield library
    library.close()


def layer_inputs(geometry: CacheGeometry, steps: int) -> dict[str, Tensor]:
    """The tensors of a layer that has seen more tokens than it has rows, and `steps` new ones."""
    generator = torch.Generator().manual_seed(7)
    state = random_state(geometry, 40, generator)
    names = ("query", "key", "value", "token_meta")
    tokens = random_tokens(geometry, steps, 40, generator)
    named = dict(zip(names, tokens, strict=True)) | state
    scale = key_scale(geometry)
    return named if scale is None else named | {"key_scale": scale}


def run_torch(op: str, geometry: CacheGeometry, named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Outputs of the torch operator by name."""
    names = OPS[op].input_names(geometry)
    fixed = len(OPS[op].inputs)
    outputs = TORCH[op](
        *(named[name] for name in names[:fixed]),
        [named[name] for name in names[fixed:]],
        encode_config(geometry, GATE, SCALE),
    )
    return dict(zip(OPS[op].output_names(geometry), outputs, strict=True))


def run_plugin(
    library: PluginLibrary, op: str, geometry: CacheGeometry, named: Mapping[str, Tensor], outputs: Mapping[str, Tensor]
) -> None:
    """Enqueue a deserialised plugin, which writes `outputs`."""
    built = library.create(op, attributes(geometry, GATE, SCALE))
    assert built is not None, library.messages()
    with built:
        loaded = built.deserialise()
    assert loaded is not None, library.messages()
    offers = [_offer(named[name]) for name in OPS[op].input_names(geometry)]
    results = [_offer(outputs[name]) for name in OPS[op].output_names(geometry)]
    with loaded:
        assert loaded.enqueue(offers, results) == 0, library.messages()


@pytest.mark.parametrize("steps", [1, 4])
@every_geometry
def test_a_layers_step_equals_the_torch_operators(library: PluginLibrary, geometry: CacheGeometry, steps: int) -> None:
    named = layer_inputs(geometry, steps)
    for op in OPS:
        expected = run_torch(op, geometry, named)
        outputs = {name: _poisoned(tensor) for name, tensor in expected.items()}
        run_plugin(library, op, geometry, named, outputs)
        for name, tensor in expected.items():
            slack = 1 if tensor.dtype in (torch.int8, torch.uint8) else 1e-5
            torch.testing.assert_close(outputs[name], tensor, rtol=1e-5, atol=slack, msg=lambda m, n=name: f"{n}: {m}")
        named |= {name: tensor for name, tensor in expected.items() if op != "StateTransition"}


@every_geometry
def test_in_place_equals_out_of_place(library: PluginLibrary, geometry: CacheGeometry) -> None:
    named = layer_inputs(geometry, 3)
    for op in ("RetentiveAttention", "EntropyGate"):
        named |= run_torch(op, geometry, named)
    names = OPS["StateTransition"].output_names(geometry)
    apart = {name: _poisoned(named[name]) for name in names}
    run_plugin(library, "StateTransition", geometry, named, apart)
    run_plugin(library, "StateTransition", geometry, named, named)
    for name in names:
        torch.testing.assert_close(named[name], apart[name], rtol=0, atol=0, msg=lambda m, n=name: f"{n}: {m}")


def _offer(tensor: Tensor) -> Offer:
    assert tensor.is_contiguous()
    return Offer(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape), tensor.data_ptr())


def _poisoned(like: Tensor) -> Tensor:
    """Memory of the same shape whose content must not survive."""
    poison = torch.nan if like.is_floating_point() else 77
    return torch.full_like(like, poison, memory_format=torch.contiguous_format)
