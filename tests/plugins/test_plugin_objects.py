"""The real plugin objects through their TensorRT interface, without TensorRT and without a GPU."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from retentive_export.ops.contract import DOMAIN, OPS, VERSION, attributes
from retentive_export.spec.geometry import CacheGeometry
from tests.plugins.plugin_cases import CASES, GATE, SCALE, signature, symbolic
from tests.plugins.plugin_driver import BUILD, DATA_TYPES, Offer, Plugin, PluginLibrary

EXPORTS = {
    "getCreators",
    "setLoggerFinder",
    *(f"retentive_{op}{suffix}" for op in ("attention", "gate", "transition", "step") for suffix in ("", "_workspace")),
    "retentive_step_attend",
    "retentive_step_settle",
    "retentive_message",
}
INT32, FLOAT32, CHAR = 5, 1, 6
"""nvinfer1::PluginFieldType of an attribute by the type of its value."""
FIELD_TYPES = {int: (INT32, 1), float: (FLOAT32, 1), str: (CHAR, 1), list: (INT32, 2)}

every_op = pytest.mark.parametrize("op", OPS)
every_geometry = pytest.mark.parametrize("geometry", CASES.values(), ids=CASES)


@pytest.fixture(scope="module")
def library(plugin_build: Path) -> Iterator[PluginLibrary]:
    library = PluginLibrary(plugin_build)
    yield library
    library.close()


def make(library: PluginLibrary, op: str, geometry: CacheGeometry, **changed: object) -> Plugin:
    plugin = library.create(op, attributes(geometry, GATE, SCALE) | changed)
    assert plugin is not None, library.messages()
    return plugin


def test_exports_the_protocol_and_the_c_abi_alone(plugin_build: Path) -> None:
    table = _readelf("--dyn-syms", plugin_build / "libretentive_plugins.so")
    defined = re.findall(r"(?:FUNC|OBJECT)\s+(?:GLOBAL|WEAK|UNIQUE)\s+\S+\s+\d+ ([^\s@]+)", table)
    assert set(defined) == EXPORTS


def test_links_neither_tensorrt_nor_a_shared_cuda_runtime(plugin_build: Path) -> None:
    needed = re.findall(r"NEEDED.*\[(.+?)\.so", _readelf("--dynamic", plugin_build / "libretentive_plugins.so"))
    assert needed
    assert set(needed) <= {
        "libstdc++",
        "libgcc_s",
        "libm",
        "libc",
        "libdl",
        "librt",
        "libpthread",
        "ld-linux-x86-64",
        "ld-linux-aarch64",
    }


def test_creators_are_the_contracts_operators(library: PluginLibrary) -> None:
    creators = library.creators()
    assert list(creators) == list(OPS)
    expected = {name: FIELD_TYPES[type(value)] for name, value in attributes(CASES["mass"], GATE, SCALE).items()}
    for op, creator in creators.items():
        assert (creator.version, creator.namespace) == (str(VERSION), DOMAIN)
        alias = {"declare_alias": (INT32, 1)} if op == "StateTransition" else {}
        assert creator.attributes == expected | alias


@every_op
@every_geometry
def test_outputs_are_the_contracts(library: PluginLibrary, op: str, geometry: CacheGeometry) -> None:
    with make(library, op, geometry) as plugin:
        for steps in (1, 2, geometry.chunk):
            inputs, outputs = signature(op, geometry, steps)
            assert plugin.output_types(inputs) == [offer.dtype for offer in outputs]
            assert plugin.output_shapes(symbolic(op, geometry), steps) == [offer.shape for offer in outputs]
            assert plugin.output_shapes(inputs, steps) == [offer.shape for offer in outputs]


@every_op
@every_geometry
def test_one_type_and_the_linear_format_at_each_position(
    library: PluginLibrary, op: str, geometry: CacheGeometry
) -> None:
    inputs, outputs = signature(op, geometry, 1)
    count, every = len(inputs), [*inputs, *outputs]
    with make(library, op, geometry) as plugin:
        for position, offer in enumerate(every):

            def supported(changed: Offer, position: int = position) -> bool:
                offers = [*every[:position], changed, *every[position + 1 :]]
                return plugin.supports(offers[:count], offers[count:], position)

            types = {name for name in DATA_TYPES if supported(offer._replace(dtype=name))}
            # int4 codes travel as int8 too; what StateTransition writes has the type of what it read.
            bytes_ = {"int8", "uint8"} if offer.dtype == "uint8" and position < count else {offer.dtype}
            assert types == bytes_
            assert not supported(offer._replace(format=1))


def test_packed_codes_keep_the_type_that_the_graph_gives_them(library: PluginLibrary) -> None:
    geometry = CASES["exact+int4"]

    def as_int8(offers: tuple[Offer, ...]) -> list[Offer]:
        return [offer._replace(dtype="int8") if offer.dtype == "uint8" else offer for offer in offers]

    inputs, outputs = map(as_int8, signature("StateTransition", geometry, 1))
    with make(library, "StateTransition", geometry) as plugin:
        assert plugin.output_types(inputs) == [offer.dtype for offer in outputs]
        assert all(plugin.supports(inputs, outputs, i) for i in range(len(inputs) + len(outputs)))


@every_op
@every_geometry
def test_a_plugins_life(library: PluginLibrary, op: str, geometry: CacheGeometry) -> None:
    least, most = signature(op, geometry, 1), signature(op, geometry, geometry.chunk)
    with make(library, op, geometry) as plugin:
        assert plugin.configure(least, most) == 0, library.messages()
        assert 0 <= plugin.workspace(*least) <= plugin.workspace(*most)
        fields = plugin.serialised()
        copies = (plugin.clone(), plugin.deserialise(), plugin.attach())
    for copy in copies:
        assert copy is not None, library.messages()
        with copy:
            assert copy.serialised() == fields
            assert copy.workspace(*most) >= 0
            for steps in range(1, geometry.chunk + 1):
                assert copy.shape_change(*signature(op, geometry, steps)) == 0
    assert library.messages() == ""


@every_op
def test_every_attribute_is_serialised(library: PluginLibrary, op: str) -> None:
    expected = attributes(CASES["bfloat16"], GATE, SCALE) | {"declare_alias": 0}
    with make(library, op, CASES["bfloat16"]) as plugin:
        fields = plugin.serialised()
    assert set(fields) == set(expected)
    for name, value in expected.items():
        if isinstance(value, float):
            assert np.float32(fields[name]) == pytest.approx(np.float32(value), abs=1e-6)
        else:
            assert fields[name] == (",".join(map(str, value)) if isinstance(value, list) else str(value))


def test_wider_numbers_are_read_too(library: PluginLibrary) -> None:
    geometry = CASES["exact"]
    wide = {"kv_heads": np.int64(geometry.kv_heads), "scale": np.float64(SCALE)}
    with make(library, "EntropyGate", geometry, **wide) as plugin, make(library, "EntropyGate", geometry) as other:
        assert plugin.serialised() == other.serialised()


@pytest.mark.parametrize("declared", [0, 1])
@every_geometry
def test_declared_alias_names_the_input_that_an_output_replaces(
    library: PluginLibrary, geometry: CacheGeometry, declared: int
) -> None:
    op = OPS["StateTransition"]
    names = op.input_names(geometry)
    expected = [names.index(name) if declared and name in names else -1 for name in op.output_names(geometry)]
    with make(library, "StateTransition", geometry, declare_alias=declared) as plugin:
        assert [plugin.aliased_input(i) for i in range(len(expected))] == expected
        assert plugin.aliased_input(len(expected)) == plugin.aliased_input(-1) == -1


def test_other_operators_alias_nothing(library: PluginLibrary) -> None:
    for op in ("RetentiveAttention", "EntropyGate"):
        with make(library, op, CASES["mass"], declare_alias=1) as plugin:
            assert plugin.aliased_input(0) == -1


def test_phases_do_not_differ(library: PluginLibrary) -> None:
    with make(library, "EntropyGate", CASES["mass"]) as plugin:
        built = plugin.serialised()
    loaded = library.create("EntropyGate", attributes(CASES["mass"], GATE, SCALE), 1 - BUILD)
    assert loaded is not None
    with loaded:
        assert loaded.serialised() == built


def _readelf(option: str, path: Path) -> str:
    return subprocess.run(["readelf", "-W", option, path], capture_output=True, text=True, check=True).stdout
