"""Deployment bundles: what of an artifact can be made without the device, and the one command that finishes it there.

On the host the steps of `make` turn an artifact into a bundle, on the device `finish` turns a bundle into an artifact:

    toolchain.py  which compilers are here, and which of a target's software stacks each serves
    compile.py    the plugin library, kept by the hash of what it depends on
    wheel.py      the light runtime
    make.py       the steps of a build that ends with a bundle
    readme.py     its README.md
    signing.py    ed25519
    archive.py    one file of it, and back
    verify.py     is it what its maker wrote
    machine.py    is this machine what it was made for
    device.py     the steps that finish it
    finish.py     all of that in order
"""

from __future__ import annotations

from retentive_export.bundle.archive import SUFFIX, check_archives, pack, unpack
from retentive_export.bundle.finish import FinishResult, finish
from retentive_export.bundle.make import bundle_steps, makes_bundle
from retentive_export.bundle.readme import README, readme
from retentive_export.bundle.signing import load_private_key, load_public_key, sign
from retentive_export.bundle.verify import checksum, open_bundle

__all__ = [
    "README",
    "SUFFIX",
    "FinishResult",
    "bundle_steps",
    "check_archives",
    "checksum",
    "finish",
    "load_private_key",
    "load_public_key",
    "makes_bundle",
    "open_bundle",
    "pack",
    "readme",
    "sign",
    "unpack",
]
