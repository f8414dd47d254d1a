"""Eviction policies, one per file, behind one interface."""

from __future__ import annotations

from retentive_export.cache.policies.base import Policy
from retentive_export.cache.policies.coverage import Coverage
from retentive_export.cache.policies.full import Full
from retentive_export.cache.policies.h2o import H2O
from retentive_export.cache.policies.key_norm import KeyNorm
from retentive_export.cache.policies.keydiff import KeyDiff
from retentive_export.cache.policies.momentkv import MomentKV
from retentive_export.cache.policies.random import Random
from retentive_export.cache.policies.retentive import Retentive
from retentive_export.cache.policies.snapkv import SnapKV
from retentive_export.cache.policies.streaming_llm import StreamingLLM
from retentive_export.cache.policies.tova import TOVA
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.policies import policy_spec

__all__ = ["CLASSES", "Policy", "policy"]

CLASSES: dict[str, type[Policy]] = {
    cls.name: cls
    for cls in (Retentive, Coverage, Full, StreamingLLM, H2O, SnapKV, TOVA, Random, KeyNorm, KeyDiff, MomentKV)
}


def policy(name: str, base: GateConfig | None = None) -> Policy:
    """The policy called `name`, with the constants that it makes of the recipe's gate `base`.

    Raises:
        RecipeError: there is no such policy; the message lists those that exist.
    """
    return CLASSES[policy_spec(name).name](base)
