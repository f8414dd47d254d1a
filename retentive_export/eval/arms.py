"""What is compared: a policy, the type of its rows and its readout, spelled in one line. Torch-free.

    h2o                       plain eviction, rows in the cache's dtype
    snapkv+int4               the same bytes spent on more, coarser rows
    retentive+int8+exact+mass exact rows for sinks and window, int8 behind them, merged memory
    uniform+int4+latent32+front   latent rows of rank 32 (int8; latent32-int4, latent32-model), behind int4 rows for
                              sinks and window
    uniform+int8+latent24.152.152+front   mixed latents: 24 numbers of 8 bits, 152 of 4 and 152 of 2
    recipe                    the cache section of the model's recipe, as it is
    uniform+gate.beta=0.5     any field of the recipe's cache section

The words are those of the recipe: a policy of `spec.policies`, a row type or a readout that the recipe accepts is known
here by its name. Besides the policies there are two selections that only an evaluation has (`scores`): `oracle`, which
knows the future attention (`oracle_peak`: its largest share instead of its sum), and `uniform`, which covers what was
seen evenly.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, get_args

from retentive_export.errors import RecipeError
from retentive_export.spec.policies import POLICIES
from retentive_export.spec.recipe import CacheSection, RowsSection

__all__ = ["RECIPE", "SELECTIONS", "Arm", "parse_arm", "readouts", "row_types", "suite"]

SELECTIONS = {
    "oracle": "future attention mass, exactly",
    "oracle_peak": "largest share of any future query, exactly",
    "uniform": "even coverage, staggered between heads",
}
RECIPE = "recipe"
_PLANNED_AS = "random"  # a policy without statistics: what a selection costs that needs none
_OWN = "retentive"
_LATENT = re.compile(r"latent(\d+)(?:-(model|int8|int4)|\.(\d+)\.(\d+))?")
_LATENTS = (
    "uniform+int4+latent32+front",
    "uniform+int4+latent32-int4+front",
    "uniform+latent80-int4",
    "retentive+int4+latent32+front",
)
_RANKS = (32, 64, 96)
"""Of the latent rows in the long suite."""
_COMPARED = ("retentive", "h2o", "snapkv", "uniform")
"""Selections whose rows and readouts are varied too."""


def row_types() -> tuple[str, ...]:
    """Types of local rows that a recipe accepts, the model's own first."""
    return tuple(get_args(RowsSection.model_fields["dtype"].annotation))


def readouts() -> tuple[str, ...]:
    """Readouts that a recipe accepts."""
    return tuple(get_args(CacheSection.model_fields["readout"].annotation))


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One side of the comparison.

    name: as it was spelled. policy: in the recipe, which decides what the state tracks and takes. selection: the
    score's name, a policy's or one of `SELECTIONS`. rows: type of the local rows. exact: how many of them stay in the
    model's dtype in front of coarser ones; None: sinks and window. latent: section of the latent rows. front: how
    many rows of the type `rows` stand before the latents; None: sinks and window. readout: of the memory. overrides:
    further fields of the cache section.
    """

    name: str
    policy: str
    selection: str
    rows: str = "model"
    exact: int | None = 0
    latent: dict[str, Any] | None = None
    front: int | None = 0
    readout: str = "none"
    overrides: dict[str, str] = field(default_factory=dict)

    @property
    def group(self) -> str:
        """`full`, `ceiling` (the oracle), `baseline` (a published policy on plain rows), `paper` (its form of the
        readout), or `ours`."""
        if self.selection == "full":
            return "full"
        if self.selection.startswith("oracle"):
            return "ceiling"
        if self.readout == "residual":
            return "paper"
        if self.policy == RECIPE:
            return "ours"
        plain = self.rows == row_types()[0] and self.readout == "none" and not (self.overrides or self.latent)
        return "baseline" if plain and self.selection != _OWN else "ours"

    def cache(self, base: dict[str, Any], *, sinks: int, window: int) -> list[str]:
        """`key=value` overrides of a recipe whose cache section is `base`."""
        exact, front = (sinks + window if one is None else one for one in (self.exact, self.front))
        fields = {
            "policy": self.policy,
            "readout": self.readout,
            "rows.dtype": self.rows,
            "rows.exact": exact,
            "sinks": sinks,
            "window": window,
            "chunk": window,
            **({} if self.latent is None else {"rows.latent": json.dumps({**self.latent, "front": front})}),
            **base,
            **self.overrides,
        }
        return [f"cache.{key}={value}" for key, value in fields.items()]


def parse_arm(text: str) -> Arm:
    """The arm spelled `text`.

    Raises:
        RecipeError: a word is neither a row type nor a readout nor `key=value`; the message lists what is known.
    """
    if text == RECIPE:
        return Arm(name=text, policy=RECIPE, selection=RECIPE)
    first, *words = text.split("+")
    if first not in POLICIES and first not in SELECTIONS:
        raise RecipeError(
            f"arm {text!r}: {first!r} is neither a policy nor a selection",
            hint=f"one of: {', '.join([*POLICIES, *SELECTIONS])}",
        )
    fields: dict[str, Any] = {"policy": first if first in POLICIES else _PLANNED_AS, "selection": first}
    overrides: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if equals:
            overrides[key] = value
        elif word in row_types():
            fields["rows"] = word
        elif word in readouts():
            fields["readout"] = word
        elif found := _LATENT.fullmatch(word):
            fields["latent"] = _latent_section(*found.groups())
        elif word[:5] in ("exact", "front") and (len(word) == 5 or word[5:].isdecimal()):
            fields[word[:5]] = int(word[5:]) if word[5:] else None
        else:
            known = [
                *row_types(),
                *readouts(),
                "exact",
                "exactN",
                "latentR",
                "latentR-int4",
                "latentR.R.R",
                "front",
                "frontN",
                "key=value",
            ]
            raise RecipeError(f"arm {text!r}: {word!r} is not known", hint=f"one of: {', '.join(known)}")
    return Arm(name=text, overrides=overrides, **fields)


def _latent_section(first: str, dtype: str | None, *rest: str | None) -> dict[str, Any]:
    """The recipe's section of a word's groups."""
    if rest[0] is None:
        return {"rank": int(first), "dtype": dtype or "int8"}
    counts = [int(first), *(int(count) for count in rest if count)]
    return {"rank": sum(counts), "dtype": "mixed", "int8": counts[0], "int4": counts[1]}


def suite(name: str) -> list[Arm]:
    """`small`: the full cache, the published policies, coarse rows, memory. `long`: every selection on every type of
    rows, and every readout.

    Raises:
        RecipeError: no such suite.
    """
    if name not in ("small", "long"):
        raise RecipeError(f"suite is {name!r}, and must be small or long")
    policies = [spec for spec in POLICIES.values() if spec.name != "full"]
    names = ["full", *(spec.name for spec in policies), *SELECTIONS]
    coarse = row_types()[1:]
    names += [f"{one}+{coarse[-1]}" for one in _COMPARED]
    names += ["retentive+mass", "retentive+residual", f"uniform+{coarse[-1]}+mass"]
    names += [*_LATENTS, RECIPE]
    if name == "long":
        free = [spec.name for spec in policies if spec.readout is None]
        names += [f"{one}+{coarse[-1]}" for one in (*free, *SELECTIONS)]
        names += [f"{one}+{rows}" for rows in coarse for one in _COMPARED]
        names += [f"{one}+{rows}+exact" for rows in coarse for one in _COMPARED]
        rich = [one for one in readouts() if one != "none"]
        names += [f"{one}+{readout}" for readout in rich for one in ("retentive", "uniform")]
        names += [f"{one}+{rows}+mass" for rows in coarse for one in _COMPARED]
        names += [f"{one}+int4+latent{rank}+front" for rank in _RANKS for one in _COMPARED]
        kinds = ("latent{}", "latent{}+front", "int4+latent{}-int4+front", "int4+latent{}+front+mass")
        names += [f"uniform+{kind.format(rank)}" for rank in _RANKS for kind in kinds]
    return [parse_arm(one) for one in dict.fromkeys(names)]
