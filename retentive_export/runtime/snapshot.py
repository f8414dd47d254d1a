"""Snapshots of a session's state: one .npz file, bound to the artifact that made it."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from retentive_export.errors import InputError
from retentive_export.spec.arrays import Array
from retentive_export.spec.files import atomic_file
from retentive_export.spec.manifest import Manifest

__all__ = ["Place", "fingerprint", "read_snapshot", "write_snapshot"]

PLACE = "place"
_UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, RecursionError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, struct.error, MemoryError),
)


class Place(BaseModel):
    """Where a dialogue stands. unfed: tokens of the past that were not fed yet."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    tokens_seen: int = Field(ge=0)
    rope: int = Field(ge=0)
    frames_in_turn: int = Field(ge=0)
    started: bool
    unfed: list[Annotated[int, Field(ge=0)]]


def fingerprint(manifest: Manifest) -> str:
    """Hash of what a state depends on: the graph, its weights and the cache's plan."""
    parts = {name: entry.sha256 for name, entry in manifest.files.items() if name.startswith("decoder")}
    return hashlib.sha256(json.dumps([parts, manifest.cache], sort_keys=True).encode()).hexdigest()


def write_snapshot(path: Path, manifest: Manifest, tensors: dict[str, Array], place: Place) -> None:
    """Write whole or not at all.

    Raises:
        StorageError: the disk is full or the path not writable.
    """
    header = json.dumps({"artifact": fingerprint(manifest), "place": place.model_dump()})
    with atomic_file(path) as stream:
        np.savez(stream, **tensors, **{PLACE: np.frombuffer(header.encode(), np.uint8)})  # type: ignore[arg-type]


def read_snapshot(path: Path, manifest: Manifest) -> tuple[dict[str, Array], Place]:
    """Tensors by name, and the dialogue's place.

    Raises:
        InputError: unreadable, not a snapshot, or made with another artifact.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            tensors = {name: archive[name] for name in archive.files}
        header = json.loads(tensors.pop(PLACE).tobytes())
        artifact, place = header["artifact"], Place.model_validate(header["place"])
    except _UNREADABLE as error:
        raise InputError(f"{path} is not a session snapshot: {str(error).splitlines()[0]}") from None
    if artifact != fingerprint(manifest):
        raise InputError(f"{path} was saved with another artifact than {manifest.name}")
    if any(token >= manifest.text.vocab for token in place.unfed):
        raise InputError(f"{path} holds token ids beyond the vocabulary of {manifest.text.vocab}")
    return tensors, place
