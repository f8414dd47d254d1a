"""Uses the plugins wrongly in every way we know and prints, per line of JSON, how each was answered.

Run as `python -m tests.plugins.malformed_plugin_use BUILD_FOLDER` in a process of its own, which must survive.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retentive_export.ops.contract import OPS, attributes
from retentive_export.spec.geometry import CacheGeometry
from tests.plugins.plugin_cases import CASES, GATE, SCALE, signature
from tests.plugins.plugin_driver import Offer, Plugin, PluginLibrary

Answer = Callable[[], bool]
"""Makes the call; true when it was refused."""

Case = tuple[str, str, str, Answer]
"""Group, what was wrong, what the log must name, the call."""

MASS, RESIDUAL = CASES["exact+int4"], CASES["residual"]

BAD_VALUES: dict[str, tuple[Any, ...]] = {
    "batch": (0, -1),
    "kv_heads": (0, np.int64(2**40)),
    "q_heads": (0, 5),
    "head_dim": (0, 7, 512),
    "dtype": ("float64", ""),
    "exact_rows": (-1, 3),
    "coarse_rows": (-1, 1),
    "coarse_dtype": ("int2",),
    "memory_grid": ([-1, 2], [1], [1, 2, 3]),
    "frame_grid": ([0, 4], [4]),
    "recall_rows": (-1,),
    "memory_store": ("nowhere",),
    "sinks": (-1, 100),
    "window": (0, 4, 100),
    "chunk": (0, 6),
    "readout": ("moments", "residual", "none", "Mass"),
    "track_importance": (2, -1),
    "track_entropy": (2,),
    "lambda": (1.5, -0.1, math.nan),
    "score": ("random",),
    "importance_decay": (1.5, -0.1),
    "importance_gain": (-0.1, math.inf),
    "entropy_decay": (1.5,),
    "entropy_gain": (-0.1,),
    "retention_gate_enabled": (2,),
    "retention_gate_weight": (math.inf,),
    "absorption_gate_enabled": (-1,),
    "absorption_gate_bias": (math.nan,),
    "readout_gate_weight": (math.nan,),
    "beta": (math.inf,),
    "scale": (math.nan, math.inf),
    "declare_alias": (2, "yes"),
}
"""Values that no plugin takes, in a geometry with exact and int4 rows and a merged memory."""

NO_ROWS = {"exact_rows": 0, "coarse_rows": 0, "memory_grid": [0, 0], "recall_rows": 0, "readout": "none"}
WRONG_TYPE = {int: 1.5, float: "1.5", str: 3, list: "11"}


def attribute_cases(library: PluginLibrary, op: str) -> Iterator[Case]:
    """Nodes that no plugin is made for."""
    good = attributes(MASS, GATE, SCALE)

    def refused(fields: dict[str, Any]) -> Answer:
        def answer() -> bool:
            plugin = library.create(op, fields)
            if plugin is not None:
                with plugin:
                    return False
            return True

        return answer

    for name, value in good.items():
        rest = {key: item for key, item in good.items() if key != name}
        yield "attribute", f"{op} without {name}", f"'{name}'", refused(rest)
        wrong = WRONG_TYPE[type(value)]
        yield "attribute", f"{op} {name}={wrong!r}", f"'{name}'", refused(good | {name: wrong})
    for name, values in BAD_VALUES.items():
        for value in values:
            yield "attribute", f"{op} {name}={value!r}", name, refused(good | {name: value})
    yield "attribute", f"{op} with no rows", "rows", refused(good | NO_ROWS)
    yield "attribute", f"{op} with no attributes", "missing", refused({})


def tensor_cases(plugin: Plugin, op: str, geometry: CacheGeometry) -> Iterator[Case]:
    """Calls with a wrong number of tensors, a wrong dtype or a wrong shape."""
    inputs, outputs = signature(op, geometry, 2)
    names = OPS[op].input_names(geometry)
    for label, some in (("fewer", inputs[:-1]), ("more", (*inputs, inputs[-1]))):
        yield from _refusals(plugin, f"{op} with {label} inputs", "inputs", some, outputs)
    yield from _refusals(plugin, f"{op} with fewer outputs", "outputs", inputs, outputs[:-1], building=False)
    for i, (name, offer) in enumerate(zip(names, inputs, strict=True)):
        other = "int32" if offer.dtype != "int32" else "float32"
        wrong_type = _replaced(inputs, i, offer._replace(dtype=other))
        yield from _refusals(plugin, f"{op} {name} as {other}", name, wrong_type, outputs)
        flat = offer._replace(shape=(math.prod(offer.shape),))
        yield from _refusals(plugin, f"{op} {name} flat", name, _replaced(inputs, i, flat), outputs)
        for axis in range(len(offer.shape)):
            longer = tuple(n + (k == axis) for k, n in enumerate(offer.shape))
            wrong = _replaced(inputs, i, offer._replace(shape=longer))
            # A longer T of token_meta makes every other tensor wrong.
            yield from _refusals(plugin, f"{op} {name} {longer}", "accepted", wrong, outputs)
    for i, (name, offer) in enumerate(zip(OPS[op].output_names(geometry), outputs, strict=True)):
        wrong = _replaced(outputs, i, offer._replace(shape=(*offer.shape[:-1], offer.shape[-1] + 1)))
        yield from _refusals(plugin, f"{op} output {name} longer", name, inputs, wrong, building=False)
    for steps in (0, geometry.chunk + 1, geometry.window + 7):
        yield from _refusals(plugin, f"{op} T = {steps}", "T is", *_with_steps(op, geometry, steps), building=False)


def pointer_cases(plugin: Plugin, op: str, geometry: CacheGeometry) -> Iterator[Case]:
    """enqueue with null or misaligned addresses; nothing may be launched, so no address is ever followed."""
    inputs, outputs = (_addressed(offers) for offers in signature(op, geometry, 2))
    for address, label in ((0, "null"), (4096 + 2, "misaligned")):
        for i, name in enumerate(OPS[op].input_names(geometry)):
            wrong = _replaced(inputs, i, inputs[i]._replace(address=address))
            yield "pointer", f"{op} {label} input {name}", name, _enqueue(plugin, wrong, outputs)
        for i, name in enumerate(OPS[op].output_names(geometry)):
            wrong = _replaced(outputs, i, outputs[i]._replace(address=address))
            yield "pointer", f"{op} {label} output {name}", name, _enqueue(plugin, inputs, wrong)
    if plugin.workspace(inputs, outputs):
        yield "pointer", f"{op} null workspace", "workspace", _enqueue(plugin, inputs, outputs)


def _refusals(
    plugin: Plugin, what: str, names: str, inputs: Sequence[Offer], outputs: Sequence[Offer], building: bool = True
) -> Iterator[Case]:
    offered = (inputs, outputs)
    yield "tensor", f"configurePlugin: {what}", names, lambda: plugin.configure(offered, offered) != 0
    yield "tensor", f"onShapeChange: {what}", names, lambda: plugin.shape_change(*offered) != 0
    if "inputs" not in names and "outputs" not in names:  # enqueue is not told how many there are
        yield "tensor", f"enqueue: {what}", names, _enqueue(plugin, _addressed(inputs), _addressed(outputs))
    if building:

        def build() -> bool:
            return plugin.output_types(inputs) is None or plugin.output_shapes(inputs, 2) is None

        yield "tensor", f"building: {what}", names, build


def _enqueue(plugin: Plugin, inputs: Sequence[Offer], outputs: Sequence[Offer]) -> Answer:
    return lambda: plugin.enqueue(inputs, outputs) != 0


def _addressed(offers: Sequence[Offer]) -> tuple[Offer, ...]:
    return tuple(offer._replace(address=4096 * (i + 1)) for i, offer in enumerate(offers))


def _replaced(offers: Sequence[Offer], index: int, offer: Offer) -> tuple[Offer, ...]:
    return (*offers[:index], offer, *offers[index + 1 :])


def _with_steps(op: str, geometry: CacheGeometry, steps: int) -> tuple[tuple[Offer, ...], ...]:
    """The call with a T that the geometry does not allow, every shape following it."""

    def stretch(one: Offer, two: Offer) -> Offer:
        shape = tuple(a + (b - a) * (steps - 1) for a, b in zip(one.shape, two.shape, strict=True))
        return one._replace(shape=shape)

    pairs = zip(signature(op, geometry, 1), signature(op, geometry, 2), strict=True)
    return tuple(tuple(map(stretch, ones, twos)) for ones, twos in pairs)


def main() -> None:
    """Print a line for each case and, when all were answered, a last line that says so."""
    library = PluginLibrary(Path(sys.argv[1]))

    def report(cases: Iterator[Case]) -> None:
        for group, what, names, answer in cases:
            refused = answer()
            line = {"group": group, "what": what, "names": names, "refused": refused, "log": library.messages()}
            print(json.dumps(line), flush=True)

    for op in OPS:
        report(attribute_cases(library, op))
        for geometry in (MASS, RESIDUAL):
            plugin = library.create(op, attributes(geometry, GATE, SCALE))
            assert plugin is not None, library.messages()
            with plugin:
                report(tensor_cases(plugin, op, geometry))
                report(pointer_cases(plugin, op, geometry))
    library.close()
    print(json.dumps({"survived": True}))


if __name__ == "__main__":
    main()
