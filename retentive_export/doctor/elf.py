"""The little of ELF and of CUDA's fat binaries that says where a library can be loaded and which GPUs it has code for.

The layout of fat binaries is not documented; a test reads one that nvcc made for known GPUs.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from pathlib import Path

from retentive_export.errors import ArtifactError

__all__ = ["Library", "read_library"]

_MACHINES = {62: "x86_64", 183: "aarch64"}
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_FATBIN_MAGIC = 0xBA55ED50
_FATBIN_HEADER = struct.Struct("<IHHQ")
_FATBIN_ENTRY = struct.Struct("<HHIQIIHHI")
_PTX, _CUBIN = 1, 2


@dataclass(frozen=True, kw_only=True)
class Library:
    """A shared library. machine: "x86_64", "aarch64", or ELF's number. symbols: names that it shows or takes from
    others. glibc: the newest version of the C library that it asks for. cubins, ptx: compute capabilities, such as 87,
    that it has machine code and PTX for."""

    machine: str
    symbols: frozenset[str]
    glibc: tuple[int, ...]
    cubins: frozenset[int]
    ptx: frozenset[int]


def read_library(path: Path) -> Library:
    """Look into a 64-bit little-endian shared library.

    Raises:
        ArtifactError: it is none, or it is cut short.
    """
    try:
        data = path.read_bytes()
        if data[:6] != b"\x7fELF\x02\x01":
            raise ArtifactError(f"{path} is no 64-bit ELF library", hint="build it again with scripts/build_plugins.sh")
        sections = _sections(data)
        names = frozenset(one.decode(errors="replace") for one in sections.get(".dynstr", b"").split(b"\0"))
        cubins, ptx = _gpu_code(sections.get(".nv_fatbin", b""))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from None
    except (struct.error, IndexError) as error:
        raise ArtifactError(f"{path} is cut short: {error}", hint="copy or build it again") from None
    number = _HEADER.unpack_from(data)[2]
    versions = [re.fullmatch(r"GLIBC_(\d+(?:\.\d+)+)", name) for name in names]
    return Library(
        machine=_MACHINES.get(number, str(number)),
        symbols=names,
        glibc=max((tuple(int(part) for part in one[1].split(".")) for one in versions if one), default=()),
        cubins=cubins,
        ptx=ptx,
    )


def _sections(data: bytes) -> dict[str, bytes]:
    header = _HEADER.unpack_from(data)
    start, size, count, names_at = header[6], header[11], header[12], header[13]
    table = [_SECTION.unpack_from(data, start + index * size) for index in range(count)]
    if not table:
        return {}
    names = _content(data, table[names_at])
    return {names[one[0] :].split(b"\0", 1)[0].decode(errors="replace"): _content(data, one) for one in table}


def _content(data: bytes, section: tuple[int, ...]) -> bytes:
    kind, offset, size = section[1], section[4], section[5]
    no_bits = 8  # the section takes memory and no bytes of the file
    return b"" if kind == no_bits else data[offset : offset + size]


def _gpu_code(fat: bytes) -> tuple[frozenset[int], frozenset[int]]:
    """Compute capabilities of machine code and of PTX in a section `.nv_fatbin`: containers one after the other, each
    with entries one after the other."""
    found: dict[int, set[int]] = {_PTX: set(), _CUBIN: set()}
    at = 0
    while at + _FATBIN_HEADER.size <= len(fat):
        magic, _, header_size, size = _FATBIN_HEADER.unpack_from(fat, at)
        if magic != _FATBIN_MAGIC:
            at += 8  # padding between containers
            continue
        entry, end = at + header_size, at + header_size + size
        while entry < end:
            fields = _FATBIN_ENTRY.unpack_from(fat, entry)
            kind, entry_header, payload, capability = fields[0], fields[2], fields[3], fields[8]
            found.setdefault(kind, set()).add(capability)
            entry += max(1, entry_header + payload)
        at = end
    return frozenset(found[_CUBIN]), frozenset(found[_PTX])
