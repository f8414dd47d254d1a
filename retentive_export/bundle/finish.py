"""`finish`: a bundle becomes an artifact for the machine that it runs on, validated, in resumable steps.

Nothing of the bundle is loaded or executed before its files are verified and this machine is known to be the right one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export.bundle.archive import SUFFIX, unpack
from retentive_export.bundle.device import REPORT, Finishing
from retentive_export.bundle.machine import finish_target
from retentive_export.bundle.signing import load_public_key
from retentive_export.bundle.verify import bundle_section, open_bundle
from retentive_export.doctor import System
from retentive_export.errors import ArtifactError
from retentive_export.spec.files import storage_errors
from retentive_export.spec.manifest import MANIFEST, Manifest
from retentive_export.steps import RECORD, Progress, StepRunner, put_in_place, work_directory
from retentive_export.validate import ValidationReport

__all__ = ["FinishResult", "finish"]


@dataclass(frozen=True, kw_only=True)
class FinishResult:
    """What finishing did: the artifact, its manifest, the steps that ran and those whose files were reused.

    verdict: of the validation, in a line. validation: all of it; None where the step was reused, and the files in
    `report` have it.
    """

    directory: Path
    manifest: Manifest
    ran: list[str]
    reused: list[str]
    verdict: str
    validation: ValidationReport | None

    @property
    def report(self) -> Path:
        """Folder of validation.json, .md and .html."""
        return self.directory / REPORT


def finish(
    bundle: str | Path,
    output: str | Path | None = None,
    *,
    target_name: str | None = None,
    key: str | Path | None = None,
    plugin_library: str | Path | None = None,
    system: System | None = None,
    progress: Progress | None = None,
) -> FinishResult:
    """Finish a bundle on the device.

    Args:
        bundle: its directory, or its archive, which is unpacked beside it.
        output: of the artifact; None: beside the bundle, with the target's name behind the bundle's.
        target_name: the bundle's own if None; "cpu" checks the bundle where there is no GPU.
        key: PEM file of the public key that must have signed it; None: hashes alone are checked.
        plugin_library: in the place of the bundle's.
        system: the machine; tests give another.
        progress: called with (step, event), see `StepRunner`.

    Raises:
        ArtifactError: the bundle is not what its maker wrote. DeviceError: this machine is not the target, or lacks
            something. ExportError: an engine or the plugins cannot be built. ValidationError: the outputs are not those
            of the golden run; the report is kept. StorageError: the disk is full or not writable.
    """
    told = progress or (lambda step, event: None)
    told("verify", "run")
    public = load_public_key(Path(key)) if key is not None else None
    directory = _directory(Path(os.path.abspath(bundle)), public)
    manifest = open_bundle(directory, public)
    told("verify", "done")
    chosen = finish_target(manifest, bundle_section(manifest), target_name)
    there = Path(os.path.abspath(output)) if output else directory.with_name(f"{directory.name}.{chosen.name}")
    if there == directory:
        raise ArtifactError(f"the output is {there}, which is the bundle", hint="choose another -o")
    work = work_directory(there)
    runner = StepRunner(work, there, told)
    job = Finishing(directory, manifest, chosen, runner, library=plugin_library, system=system or System())
    job.check()
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
        job.run()
        done = job.write_manifest()
        runner.prune({MANIFEST, RECORD, *done.files})
    put_in_place(work, there)
    return FinishResult(
        directory=there,
        manifest=done,
        ran=runner.ran,
        reused=runner.reused,
        verdict=runner.facts["verdict"],
        validation=job.validation,
    )


def _directory(bundle: Path, public: Any) -> Path:
    """The bundle as a directory; an archive is unpacked beside itself."""
    if bundle.is_dir():
        return bundle
    if not bundle.is_file() or not bundle.name.endswith(SUFFIX):
        raise ArtifactError(f"{bundle} is neither a bundle's directory nor a {SUFFIX} archive")
    directory = bundle.with_name(bundle.name.removesuffix(SUFFIX))
    unpack(bundle, directory, public)
    return directory
