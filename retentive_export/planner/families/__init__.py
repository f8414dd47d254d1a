"""One file per model family: how many parameters its vision part has, and what a frame becomes.

The arithmetic is that of transformers' modules and image processors; tests/planner compares both with it.
"""

from __future__ import annotations

from retentive_export.errors import ModelNotSupportedError
from retentive_export.planner.families import idefics3, llava, qwen3_vl, text
from retentive_export.planner.families.base import Family

__all__ = ["FAMILIES", "Family", "family_of"]

FAMILIES: tuple[Family, ...] = (qwen3_vl.FAMILY, llava.FAMILY, idefics3.FAMILY, text.FAMILY)


def family_of(model_type: object) -> Family:
    """The family of a config.json's `model_type`.

    Raises:
        ModelNotSupportedError: there is none; lists those that there are.
    """
    for family in FAMILIES:
        if model_type in family.model_types:
            return family
    known = "; ".join(f"{family.name}: {', '.join(family.model_types)}" for family in FAMILIES)
    raise ModelNotSupportedError(
        f"model_type={model_type!r} is not supported", hint=f"supported model types are {known}"
    )
