"""Build: a recipe and a target become an artifact, in ordered steps, each of which a repeated build reuses.

Steps write into `OUT.partial`; a step's record (its key and the hashes of its files) is kept in `build.json` there.
When all are done the directory is renamed to OUT. A step runs again only if its key changed or one of its files did.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export.errors import StorageError
from retentive_export.job import Job
from retentive_export.spec.files import atomic_file, storage_errors
from retentive_export.spec.manifest import MANIFEST, Manifest
from retentive_export.spec.plan import CachePlan
from retentive_export.spec.recipe import Recipe
from retentive_export.spec.sources import locate
from retentive_export.spec.targets import Target, target
from retentive_export.steps import RECORD, Progress, StepRunner

__all__ = ["BuildResult", "Job", "build", "describe", "locate"]


@dataclass(frozen=True, kw_only=True)
class BuildResult:
    """What a build did: the artifact, its manifest, the steps that ran and those whose files were reused."""

    directory: Path
    manifest: Manifest
    ran: list[str]
    reused: list[str]


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
    progress: Progress | None = None,
) -> BuildResult:
    """Make the artifact of `recipe` for a target at `output`.

    Args:
        plugin_library: libretentive_plugins.so for a target with engines; None: where the package's build puts it.
        targets_file: YAML file with targets besides the package's.
        progress: called with (step, event), see `StepRunner`.

    Raises:
        RecipeError, ModelError, ExportError: as their names say; `output` is left as it was.
        MissingExtraError, DeviceError: what the target needs is not installed, or there is no GPU to build on.
        StorageError: the disk is full or not writable; finished steps are kept for the next try.
    """
    chosen = target(target_name, recipe.model.dtype, file=targets_file)
    output = Path(os.path.abspath(output))  # "." has no name to put a suffix on
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise StorageError(f"{output} exists and is not an artifact", hint="choose another -o, or remove it")
    work = output.with_name(f"{output.name}.partial")
    runner = StepRunner(work, output, progress or (lambda step, event: None))
    job = Job(recipe, chosen, plugin_library=plugin_library, runner=runner)
    steps = job.steps()
    if not all(runner.knows(name, key) for name, key, _ in steps):
        job.check()
    with storage_errors(work):
        work.mkdir(parents=True, exist_ok=True)
    for name, key, make in steps:
        with storage_errors(work):
            runner.run(name, key, make)
    manifest = job.manifest(runner.files, runner.facts)
    with atomic_file(work / MANIFEST) as stream:
        stream.write(manifest.to_json().encode())
    runner.prune({MANIFEST, RECORD, *manifest.files})
    with storage_errors(output):
        _replace(work, output)
    return BuildResult(directory=output, manifest=manifest, ran=runner.ran, reused=runner.reused)


def _replace(work: Path, output: Path) -> None:
    """Rename `work` to `output`; what stood there is moved aside first and removed afterwards."""
    old = output.with_name(f"{output.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if output.exists():
        os.replace(output, old)
    os.replace(work, output)
    shutil.rmtree(old, ignore_errors=True)
