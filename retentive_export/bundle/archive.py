"""A bundle as one file, .tar.zst: equal bundles give equal bytes; unpacked only as far as it is what it says."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from retentive_export.bundle.verify import MOST_MANIFEST_BYTES, bundle_manifest
from retentive_export.bundle.wheel import EPOCH
from retentive_export.errors import ArtifactError, MissingExtraError, StorageError
from retentive_export.spec.bundle import CHECKSUM, SIGNATURE
from retentive_export.spec.files import storage_errors
from retentive_export.spec.manifest import MANIFEST, Manifest

__all__ = ["SUFFIX", "check_archives", "pack", "unpack"]

SUFFIX = ".tar.zst"
LEVEL = 6
BLOCK = 1 << 20


def pack(directory: Path, manifest: Manifest, archive: Path) -> None:
    """Write a bundle's files into `archive`, whole or not at all: manifest, hash and signature first, then by name.

    Owner, time and mode of every file are fixed. The compressed bytes are the same for one version of zstandard.

    Raises:
        MissingExtraError: zstandard is not installed. StorageError: the disk is full or not writable.
    """
    folder = f"{manifest.name}-{manifest.target}"
    first = [MANIFEST, CHECKSUM, *([SIGNATURE] if (directory / SIGNATURE).is_file() else [])]
    compressor = _zstandard().ZstdCompressor(level=LEVEL, write_checksum=True)
    partial = archive.with_name(f"{archive.name}.partial")  # one name, so that a try that was killed leaves no litter
    with storage_errors(archive):
        with partial.open("wb") as stream:
            with (
                compressor.stream_writer(stream, closefd=False) as packed,
                tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
            ):
                for name in [*first, *sorted(manifest.files)]:
                    member = tarfile.TarInfo(f"{folder}/{name}")
                    member.size, member.mode, member.mtime = (directory / name).stat().st_size, 0o644, EPOCH
                    with (directory / name).open("rb") as file:
                        tar.addfile(member, file)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, archive)


def unpack(archive: Path, directory: Path, key: Any = None) -> None:
    """Unpack a bundle into `directory`, which appears whole or not at all.

    The manifest comes first, and is checked, its signature too when there is a key; of what follows only files that it
    lists are taken, up to the size that it says, and each must have its hash.

    Args:
        key: public key, or None.

    Raises:
        ArtifactError: it is no bundle's archive, it is damaged, or it holds what it should not.
        StorageError: something else stands at `directory`; the disk is full or not writable.
    """
    work = directory.with_name(f"{directory.name}.unpacking")
    with storage_errors(work):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            _unpack(archive, work, directory, key)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _unpack(archive: Path, work: Path, directory: Path, key: Any) -> None:
    with _members(archive) as members:
        folder, head, rest = _head(archive, members)
        content = head[MANIFEST]
        manifest = bundle_manifest(content, head[CHECKSUM], head.get(SIGNATURE), Path(archive.name, MANIFEST), key)
        if directory.exists():
            if (directory / MANIFEST).is_file() and (directory / MANIFEST).read_bytes() == content:
                return  # unpacked before; whoever opens it checks its files
            raise StorageError(f"{directory} exists, and is not what {archive} holds", hint="remove it, or rename it")
        for name, data in head.items():
            (work / name).write_bytes(data)
        missing = dict(manifest.files)
        for member, file in rest:
            name = member.name.removeprefix(f"{folder}/")
            entry = missing.pop(name, None)
            if entry is None or file is None or member.size != entry.bytes or member.name != f"{folder}/{name}":
                raise ArtifactError(f"{archive} holds {member.name!r}, which is not what its {MANIFEST} lists")
            if _copy(file, work / name) != entry.sha256:
                raise ArtifactError(f"{name} in {archive} was altered: its sha256 is not the manifest's")
        if missing:
            raise ArtifactError(f"{min(missing)} is missing from {archive}", hint="copy the archive again")
    os.replace(work, directory)


Member = tuple[tarfile.TarInfo, BinaryIO | None]
"""Content is None for what is no plain file."""
_END: tuple[tarfile.TarInfo | None, BinaryIO | None] = (None, None)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    """Members of an archive with their content, in order; what is wrong with the file is an ArtifactError."""
    zstandard = _zstandard()
    try:
        with (
            archive.open("rb") as stream,
            zstandard.ZstdDecompressor().stream_reader(stream) as plain,
            tarfile.open(fileobj=plain, mode="r|") as tar,
        ):
            yield ((member, _content(tar, member)) for member in tar)
            while plain.read(BLOCK):  # to the end, where the checksum is
                pass
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise ArtifactError(f"{archive} is no readable {SUFFIX} archive: {error}", hint="copy it again") from None


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Any:
    return tar.extractfile(member) if member.isreg() else None


def _head(archive: Path, members: Iterator[Member]) -> tuple[str, dict[str, bytes], Iterator[Member]]:
    """(folder in the archive, content of manifest, hash and signature, what comes behind them)."""
    head: dict[str, bytes] = {}
    folder = ""
    member, file = next(members, _END)
    for name in (MANIFEST, CHECKSUM, SIGNATURE):
        folder = folder or (PurePosixPath(member.name).parts[0] if member else "")
        if member is None or file is None or member.name != f"{folder}/{name}":
            break
        if member.size > MOST_MANIFEST_BYTES:
            raise ArtifactError(f"{member.name} in {archive} is larger than it can be")
        head[name] = file.read()
        member, file = next(members, _END)
    if CHECKSUM not in head:
        raise ArtifactError(f"{archive} does not begin with {MANIFEST} and {CHECKSUM}: it is no bundle's archive")
    return folder, head, chain([(member, file)] if member else [], members)


def _copy(source: BinaryIO, path: Path) -> str:
    """Write a file; sha256 of what was written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        while block := source.read(BLOCK):
            digest.update(block)
            file.write(block)
    return digest.hexdigest()


def check_archives() -> None:
    """Raise MissingExtraError where no archive can be written or read."""
    MissingExtraError.check("zstandard", extra="bundle")


def _zstandard() -> Any:
    check_archives()
    import zstandard

    return zstandard
