"""The steps of a build that make an artifact a bundle: plugin libraries and sources, the runtime's wheel, README."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from retentive_export.backends.tensorrt.device import compute_capability
from retentive_export.bundle.compile import LIBRARY, check_library, compile_library, source_digest, source_files
from retentive_export.bundle.toolchain import Compilation, find_toolkits, plan_compilations
from retentive_export.bundle.wheel import build_wheel, checkout, wheel_key
from retentive_export.errors import DeviceError, MissingExtraError
from retentive_export.ops.native import find
from retentive_export.spec.bundle import BundleLibrary
from retentive_export.spec.manifest import file_entry
from retentive_export.spec.targets import Target
from retentive_export.steps import Step

__all__ = ["PLUGINS", "RUNTIME", "SOURCES", "bundle_steps", "is_this_machine", "makes_bundle"]

PLUGINS, RUNTIME = "plugins", "runtime"
SOURCES = "plugins/source"
Progress = Callable[[str, str], None]


def makes_bundle(target: Target, *, always: bool = False) -> bool:
    """Whether a build for `target` ends with a bundle here: its engines are built on the device, which is of a known
    kind, and this machine is of another.

    Args:
        always: also where this machine is of that kind.
    """
    return target.engines == "device" and bool(target.sm) and (always or not is_this_machine(target))


def is_this_machine(target: Target) -> bool:
    """Whether this machine has a GPU of the target's SM that can be used."""
    try:
        return compute_capability() in target.capabilities
    except (DeviceError, MissingExtraError):
        return False


def bundle_steps(target: Target, library: str | Path | None, progress: Progress) -> list[tuple[str, Any, Step]]:
    """Steps for `StepRunner`: (name, key, function). Their facts are `libraries` and `runtime` of a `BundleSection`.

    Args:
        library: libretentive_plugins.so for the target; None: compiled here, as far as there are compilers.
        progress: called with (step, line).

    Raises:
        MissingExtraError: this is no source checkout. ArtifactError: the library is not for the target.
    """
    root = checkout()
    sources = root / "plugins"
    digest = source_digest(sources)
    steps: list[tuple[str, Any, Step]]
    if library is not None:
        given = find("plugins", library)
        check_library(given, target.machine, target.sm)
        steps = [(PLUGINS, [digest, file_entry(given).sha256], lambda work: _given(work, target, given, sources))]
    else:
        plans = plan_compilations(target, sources, find_toolkits())
        key = [digest, [[list(plan.stacks), plan.key(digest) if plan.toolkit else plan.why] for plan in plans]]
        steps = [(PLUGINS, key, lambda work: _compiled(work, plans, sources, lambda line: progress(PLUGINS, line)))]
    return [
        *steps,
        (RUNTIME, wheel_key(root), lambda work: {"runtime": f"{RUNTIME}/{build_wheel(root, work / RUNTIME)}"}),
    ]


def _given(work: Path, target: Target, library: Path, sources: Path) -> dict[str, Any]:
    _copy_sources(sources, work)
    name = f"{PLUGINS}/{target.machine}/{LIBRARY}"
    (work / name).parent.mkdir(parents=True)
    shutil.copyfile(library, work / name)
    return _facts([BundleLibrary(stacks=tuple(stack.name for stack in target.stacks), file=name)])


def _compiled(work: Path, plans: list[Compilation], sources: Path, progress: Callable[[str], None]) -> dict[str, Any]:
    _copy_sources(sources, work)
    libraries = []
    for plan in plans:
        if plan.toolkit is None:
            libraries.append(BundleLibrary(stacks=plan.stacks, why=plan.why))
            continue
        made = compile_library(plan, sources, sources / "build" / "targets", lambda line: progress(f"compile {line}"))
        name = f"{PLUGINS}/{plan.name}/{LIBRARY}"
        (work / name).parent.mkdir(parents=True)
        shutil.copyfile(made, work / name)
        libraries.append(BundleLibrary(stacks=plan.stacks, cuda=plan.toolkit.version, file=name))
    return _facts(libraries)


def _facts(libraries: list[BundleLibrary]) -> dict[str, Any]:
    return {"libraries": [library.model_dump(mode="json") for library in libraries]}


def _copy_sources(sources: Path, work: Path) -> None:
    for name in source_files(sources):
        copy = work / SOURCES / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources / name, copy)
