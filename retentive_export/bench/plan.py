"""What to measure: which arms of which artifacts, at which contexts, how often; checked before anything starts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retentive_export.errors import InputError
from retentive_export.spec.manifest import Manifest, read_manifest

__all__ = ["ArmPlan", "BenchSettings", "artifact_arm"]


@dataclass(frozen=True, kw_only=True)
class BenchSettings:
    """How a run measures.

    contexts: tokens held at the end of a measured stretch, ascending. threads: the first number is measured at every
    context, with peak memory and the time to the first token; the others at `headline` alone. headline: the context of
    the comparison, None: the largest that every arm reaches. rounds: times that all arms decode in turn. tokens:
    decoded per round; warm_up: decoded before them in every round, and not counted. peers: name -> interpreter.
    folder: where the peers' converted models are kept. text: file with the text, None: Python's own documentation.
    """

    contexts: tuple[int, ...] = (512, 1024, 2048, 4096, 8192)
    threads: tuple[int, ...] = (2,)
    headline: int | None = None
    rounds: int = 5
    tokens: int = 4
    warm_up: int = 1
    backend: str | None = None
    backend_options: Mapping[str, Any] = field(default_factory=dict)
    peers: Mapping[str, str] = field(default_factory=dict)
    folder: Path = Path("bench-peers")
    text: Path | None = None

    def __post_init__(self) -> None:
        for name in ("contexts", "threads"):
            values = getattr(self, name)
            if not values or min(values) < 1:
                raise InputError(f"{name} is {list(values)}, and must hold numbers of at least 1")
        for name, least in (("rounds", 1), ("tokens", 1), ("warm_up", 0)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}, and must be at least {least}")
        if list(self.contexts) != sorted(set(self.contexts)):
            raise InputError(f"contexts is {list(self.contexts)}, and must ascend")
        if self.headline is not None and self.headline not in self.contexts:
            raise InputError(f"headline is {self.headline}, and must be one of contexts, {list(self.contexts)}")
        steps = self.stretch * len(self.threads)
        before = 0
        for context in self.contexts:
            if context - before <= steps:
                raise InputError(
                    f"contexts has {context} after {before}, and {steps} tokens are decoded in between",
                    hint="lower --rounds or --tokens, or leave a context out",
                )
            before = context

    @property
    def stretch(self) -> int:
        """Tokens decoded at one context with one number of threads."""
        return self.rounds * (self.warm_up + self.tokens)


@dataclass(frozen=True, kw_only=True)
class ArmPlan:
    """An arm to run. limit: contexts beyond it are left out, None: there is none. weights_bytes: read per token;
    state_bytes: of a cache of fixed size, else kv_bytes_per_token of a growing one."""

    name: str
    spec: dict[str, Any]
    python: str
    ours: bool
    limit: int | None
    weights_bytes: int | None
    state_bytes: int | None
    kv_bytes_per_token: int | None
    note: str | None = None

    def moved_bytes(self, context: int) -> int | None:
        """Bytes of weights and cache that one token reads; None where the weights' are not known."""
        if self.weights_bytes is None:
            return None
        cache = self.state_bytes if self.state_bytes is not None else (self.kv_bytes_per_token or 0) * context
        return self.weights_bytes + cache


def artifact_arm(path: Path, settings: BenchSettings, python: str) -> tuple[ArmPlan, Manifest]:
    """The arm of an artifact; a full cache counts as growing, although its buffer is as large as it gets.

    Raises:
        ArtifactError: it is none.
    """
    manifest = read_manifest(path)
    plan = manifest.plan()
    full = plan.capacity is not None
    spec = {
        "kind": "artifact",
        "path": str(path),
        "backend": settings.backend,
        "options": dict(settings.backend_options),
    }
    return (
        ArmPlan(
            name=f"{path.name} ({plan.policy})",
            spec=spec,
            python=python,
            ours=True,
            limit=plan.capacity,
            weights_bytes=decoder_bytes(manifest),
            state_bytes=None if full else plan.state_bytes,
            kv_bytes_per_token=plan.layers * plan.geometry.full_cache_bytes(1) if full else None,
        ),
        manifest,
    )


def decoder_bytes(manifest: Manifest) -> int | None:
    """Bytes of all weights that the decoder stores: an embedding table that is not shared with the head counts whole,
    though a token reads one row of it."""
    names: Sequence[str] = [f"{name}.data" for name in manifest.graphs.values() if f"{name}.data" in manifest.files]
    return manifest.files[names[0]].bytes if names else None
