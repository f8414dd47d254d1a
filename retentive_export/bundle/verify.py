"""Is a directory the bundle that its maker wrote: asked before anything of it is loaded or executed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from retentive_export.bundle.signing import check_signature
from retentive_export.errors import ArtifactError
from retentive_export.spec.bundle import CHECKSUM, SIGNATURE, BundleSection
from retentive_export.spec.manifest import MANIFEST, Manifest, parse_manifest, verify_files
from retentive_export.steps import RECORD

__all__ = ["MOST_MANIFEST_BYTES", "bundle_manifest", "bundle_section", "checksum", "open_bundle"]

MOST_MANIFEST_BYTES = 64 << 20


def open_bundle(directory: Path, key: Any = None) -> Manifest:
    """Check everything about a bundle that can be checked without running any of it.

    In this order: the signature, when there is a key; the manifest; the names in it; that no other file and no link is
    there; size and sha256 of every file.

    Args:
        key: public key, see `load_public_key`; without one hashes are checked and a signature is not looked at.

    Raises:
        ArtifactError: it is no bundle, or not the one that its maker wrote.
    """
    signature = _read(directory, SIGNATURE) if (directory / SIGNATURE).exists() else None
    content, stated = _read(directory, MANIFEST), _read(directory, CHECKSUM)
    manifest = bundle_manifest(content, stated, signature, directory / MANIFEST, key)
    _check_paths(directory, manifest)
    verify_files(directory, manifest)
    return manifest


def checksum(content: bytes) -> bytes:
    """What `CHECKSUM` holds for a manifest."""
    return f"{hashlib.sha256(content).hexdigest()}  {MANIFEST}\n".encode()


def bundle_manifest(content: bytes, stated: bytes, signature: bytes | None, path: Path, key: Any) -> Manifest:
    """The manifest of a bundle from its bytes, signature first.

    Args:
        stated: what `CHECKSUM` holds. signature: what `SIGNATURE` holds; None if there is none.
        path: what to call the manifest in messages. key: public key, or None.

    Raises:
        ArtifactError: signature or hash is missing or wrong, or this is no bundle's manifest.
    """
    if key is not None:
        check_signature(content, signature, key, MANIFEST)
    if stated != checksum(content):
        raise ArtifactError(
            f"{MANIFEST} was altered: its sha256 is not that in {CHECKSUM}", hint="copy the bundle again"
        )
    manifest = parse_manifest(content, path)
    bundle_section(manifest)
    for name in manifest.files:
        parts = PurePosixPath(name).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in name or "\0" in name or name != "/".join(parts):
            raise ArtifactError(f"{MANIFEST} lists {name!r}, which leaves the bundle's directory or is no plain path")
        if name in (MANIFEST, CHECKSUM, SIGNATURE, RECORD):
            raise ArtifactError(f"{MANIFEST} lists {name!r}, which is not for it to list")
    return manifest


def bundle_section(manifest: Manifest) -> BundleSection:
    """What makes it a bundle.

    Raises:
        ArtifactError: it is an artifact that is finished already.
    """
    if manifest.bundle is None:
        raise ArtifactError(
            f"{manifest.name} was built for the target {manifest.target} and is no bundle: nothing is left to finish",
            hint="run it, or make a bundle with: retentive-export build RECIPE --target jetson-orin",
        )
    return manifest.bundle


def _read(directory: Path, name: str) -> bytes:
    path = directory / name
    try:
        if path.is_symlink() or path.stat().st_size > MOST_MANIFEST_BYTES:
            raise ArtifactError(f"{path} is a link, or larger than a manifest can be")
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(f"{directory} holds no {name}: it is no bundle", hint="copy the bundle again") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error.strerror}") from None


def _check_paths(directory: Path, manifest: Manifest) -> None:
    """Raises ArtifactError for a link, and for a file that the manifest does not list."""
    allowed = {*manifest.files, MANIFEST, CHECKSUM, SIGNATURE, RECORD}
    for path in _walk(directory):
        name = path.relative_to(directory).as_posix()
        if path.is_symlink():
            raise ArtifactError(f"{name} in {directory} is a link, and a bundle holds plain files")
        if not path.is_dir() and name not in allowed:
            raise ArtifactError(
                f"{name} in {directory} is not listed in {MANIFEST}: it was added later",
                hint="remove it, or unpack the bundle's archive again",
            )


def _walk(directory: Path) -> Iterable[Path]:
    for folder, folders, files in os.walk(directory):
        yield from (Path(folder, name) for name in sorted([*folders, *files]))
