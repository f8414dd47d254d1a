"""The part of a manifest that makes an artifact a deployment bundle: for which machine, and what is left to do."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from retentive_export.spec.targets import Target

__all__ = ["CHECKSUM", "SIGNATURE", "BundleLibrary", "BundleSection"]

CHECKSUM = "manifest.json.sha256"
"""File beside the manifest: its sha256, in the form that `sha256sum -c` reads."""
SIGNATURE = "manifest.json.sig"
"""File beside the manifest: 64 bytes, the ed25519 signature of the manifest's bytes."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BundleLibrary(_Part):
    """The plugin library for some of the target's stacks, those of one major version of CUDA.

    stacks: their names; empty for a target that names none. cuda: version that it was compiled with. file: null where
    no compiler for these stacks was found, and `why` says which was missing.
    """

    stacks: tuple[str, ...]
    cuda: str | None = None
    file: str | None = None
    why: str = ""


class BundleSection(_Part):
    """What the device needs to finish a bundle.

    target: as the registry had it where the bundle was made; one of the user's own need not be known on the device.
    libraries: one for each major version of CUDA among the target's stacks. sources: folder of the plugins' sources.
    runtime: wheel of this package.
    """

    target: Target
    libraries: tuple[BundleLibrary, ...]
    sources: str
    runtime: str

    def files(self) -> list[str]:
        """Every file that the section names."""
        return [self.runtime, *(library.file for library in self.libraries if library.file)]
