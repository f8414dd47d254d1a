"""Build: a recipe and a target become an artifact, in ordered steps, each of which a repeated build reuses.

Steps write into `OUT.partial`; a step's record (its key and the hashes of its files) is kept in `build.json` there.
When all are done the directory is renamed to OUT. A step runs again only if its key changed or one of its files did.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export.bundle import README, SUFFIX, check_archives, checksum, load_private_key, pack, readme, sign
from retentive_export.errors import RecipeError
from retentive_export.job import Job
from retentive_export.spec.bundle import CHECKSUM, SIGNATURE
from retentive_export.spec.files import atomic_file, storage_errors, write_text
from retentive_export.spec.manifest import MANIFEST, Manifest, file_entry
from retentive_export.spec.plan import CachePlan
from retentive_export.spec.recipe import Recipe
from retentive_export.spec.sources import locate
from retentive_export.spec.targets import Target, target
from retentive_export.steps import RECORD, Progress, StepRunner, put_in_place, work_directory

__all__ = ["BuildResult", "Job", "build", "describe", "locate"]


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did: the artifact, its manifest, the steps that ran and those whose files were reused.

    signed, archive: of a bundle.
    """

    directory: Path
    manifest: Manifest
    ran: list[str]
    reused: list[str]
    signed: bool = False
    archive: Path | None = None


def describe(
    recipe: Recipe, target_name: str, *, targets_file: str | Path | None = None
) -> tuple[Target, CachePlan, dict[str, Any]]:
    """What a build would make, without making it: the model is read, nothing is written."""
    build_job = Job(recipe, target(target_name, recipe.model.dtype, file=targets_file))
    plan = build_job.plan
    facts = {
        "model": build_job.adapter.family,
        "parameters": sum(p.numel() for p in build_job.adapter.model.parameters()),
        "rows": plan.geometry.rows,
        "state_bytes": plan.state_bytes,
        "full_cache_bytes": plan.full_cache_bytes,
    }
    return build_job.target, plan, facts


def build(
    recipe: Recipe,
    target_name: str,
    output: str | Path,
    *,
    plugin_library: str | Path | None = None,
    targets_file: str | Path | None = None,
    bundle: bool = False,
    archive: bool = False,
    sign_key: str | Path | None = None,
    progress: Progress | None = None,
) -> BuildResult:
    """Make the artifact of `recipe` for a target at `output`: a bundle where its engines cannot be built here.

    Args:
        plugin_library: libretentive_plugins.so for a target with engines; None: where the package's build puts it, or
            for a bundle, compiled for the target.
        targets_file: YAML file with targets besides the package's.
        bundle: make a bundle even where this machine is the target. archive: write it as OUTPUT.tar.zst too.
            sign_key: PEM file of the ed25519 key to sign it with.
        progress: called with (step, event), see `StepRunner`.

    Raises:
        RecipeError, ModelError, ExportError: as their names say; `output` is left as it was.
        MissingExtraError, DeviceError: what the target needs is not installed, or there is no GPU to build on.
        StorageError: the disk is full or not writable; finished steps are kept for the next try.
    """
    chosen = target(target_name, recipe.model.dtype, file=targets_file)
    output = Path(os.path.abspath(output))  # "." has no name to put a suffix on
    work = work_directory(output)
    runner = StepRunner(work, output, progress or (lambda step, event: None))
    job = Job(recipe, chosen, plugin_library=plugin_library, runner=runner, bundle=bundle)
    signer = load_private_key(Path(sign_key)) if sign_key is not None else None
    if not job.makes_bundle and (archive or signer is not None):
        what = "an archive" if archive else "a signature"
        raise RecipeError(
            f"{what} is asked for, and the target {target_name!r} gives no bundle on this machine",
            hint="--bundle makes one for a target whose engines are built on the device",
        )
    if archive:
        check_archives()
    steps = job.steps()
    if not all(runner.knows(name, key) for name, key, _ in steps):
        job.check()
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    for name, key, make in steps:
        with storage_errors(work):
            runner.run(name, key, make)
    manifest, kept = _write_manifest(work, job.manifest(runner.files, runner.facts), signer)
    runner.prune({RECORD, *kept, *manifest.files})
    put_in_place(work, output)
    packed = output.with_name(output.name + SUFFIX) if archive else None
    if packed is not None:
        pack(output, manifest, packed)
    return BuildResult(
        directory=output,
        manifest=manifest,
        ran=runner.ran,
        reused=runner.reused,
        signed=signer is not None,
        archive=packed,
    )


def _write_manifest(work: Path, manifest: Manifest, signer: Any) -> tuple[Manifest, set[str]]:
    """Write it; in a bundle, before it the README, which it lists, and behind it its hash and the signature.

    The manifest, and the names of files that it does not list.
    """
    if manifest.bundle is not None:
        write_text(work / README, readme(manifest, signed=signer is not None))
        manifest = manifest.model_copy(update={"files": manifest.files | {README: file_entry(work / README)}})
    content = manifest.to_json().encode()
    files = {MANIFEST: content}
    if manifest.bundle is not None:
        files[CHECKSUM] = checksum(content)
    if signer is not None:
        files[SIGNATURE] = sign(content, signer)
    for name, data in files.items():
        with atomic_file(work / name) as stream:
            stream.write(data)
    return manifest, set(files)
