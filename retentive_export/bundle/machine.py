"""Can this machine finish a bundle, and with which of its plugin libraries: asked before anything of it is loaded."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from retentive_export.doctor import Finding, System, examine
from retentive_export.doctor.gpu import cuda_version
from retentive_export.doctor.tensorrt import tensorrt_version
from retentive_export.doctor.versions import numbers
from retentive_export.errors import DeviceError, RecipeError
from retentive_export.spec.bundle import BundleLibrary, BundleSection
from retentive_export.spec.manifest import Manifest
from retentive_export.spec.targets import Stack, Target, target

__all__ = ["check_machine", "check_plugins", "choose_library", "finish_target"]

_OF_LIBRARY = ("plugins", "plugin ABI", "plugin code")
_TO_COMPILE = ("compilers", "TensorRT headers")


def finish_target(manifest: Manifest, section: BundleSection, name: str | None) -> Target:
    """The target to finish a bundle for: its own, one that runs graphs, or another of the same SM.

    Raises:
        RecipeError: no such target, one that lacks the precision, or one whose engines this bundle has no code for.
    """
    if name is None or name == section.target.name:
        return section.target
    chosen = target(name, manifest.dtype)
    if chosen.backend == "onnxruntime":
        return chosen
    if chosen.backend == section.target.backend and chosen.sm == section.target.sm:
        return chosen
    raise RecipeError(
        f"target is {name!r}, and this bundle is for {section.target.name!r} and others of SM "
        f"{', '.join(section.target.sm)}",
        hint="leave out --target, or --target cpu to check it with ONNX Runtime",
    )


def check_machine(chosen: Target, system: System) -> None:
    """Hold that this machine is the target, with everything that finishing takes but a plugin library.

    Raises:
        DeviceError: names what is missing, the GPU first, and the remedy.
    """
    found = examine(chosen, system).findings
    lacking = [one for one in found if one.status == "fail" and one.name not in _OF_LIBRARY]
    if not lacking:
        return
    lacking.sort(key=lambda one: one.name != "gpu")
    remedy = lacking[0].remedy
    if lacking[0].name == "gpu":
        remedy = "copy the bundle to the device and run finish there; --target cpu checks it here, with ONNX Runtime"
    raise _cannot(chosen, lacking, remedy)


def check_plugins(chosen: Target, system: System, library: Path | None) -> None:
    """Hold that the plugin library can be loaded here, or compiled.

    Args:
        library: the file that will be loaded; None: it will be compiled here.

    Raises:
        DeviceError: names what is missing, and the remedy.
    """
    names = _TO_COMPILE if library is None else _OF_LIBRARY
    found = examine(chosen, replace(system, plugins=library)).findings
    wrong = [
        one for one in found if one.name in names and (one.status == "fail" or (not library and one.status != "ok"))
    ]
    if wrong:
        raise _cannot(chosen, wrong, wrong[0].remedy)


def _cannot(chosen: Target, findings: list[Finding], hint: str) -> DeviceError:
    words = "; ".join(f"{one.name}: {one.seen}" for one in findings)
    sm = f" (SM {', '.join(chosen.sm)})" if chosen.sm else ""
    return DeviceError(f"this machine cannot finish a bundle for {chosen.name}{sm}: {words}", hint=hint)


def choose_library(section: BundleSection, chosen: Target, system: System) -> BundleLibrary:
    """The library for the software that is installed here.

    That of a stack whose TensorRT is of the same major version as the one here and not newer, and whose CUDA the driver
    can run; one that is compiled already before others, then the one for the newest CUDA.

    Raises:
        DeviceError: the bundle is for other versions.
    """
    if not chosen.stacks:
        return section.libraries[0]
    here, driver = tensorrt_version(system) or "", cuda_version(system)
    fitting = [stack for stack in chosen.stacks if _fits(stack, here, driver[0] if driver else None)]
    stacks = {library: _newest(library, fitting) for library in section.libraries}
    usable = [library for library, cuda in stacks.items() if cuda]
    if not usable:
        known = "; ".join(f"{one.name}: TensorRT {one.tensorrt}, CUDA {one.cuda}" for one in chosen.stacks)
        cuda = f"CUDA {driver[0]}" if driver else "an unknown CUDA"
        raise DeviceError(
            f"here are TensorRT {here or 'of no known version'} and {cuda}, and this bundle is for: {known}",
            hint="install one of these, or make the bundle with --targets-file for what is here",
        )
    return max(usable, key=lambda library: (library.file is not None, stacks[library]))


def _fits(stack: Stack, tensorrt: str, cuda: str | None) -> bool:
    wanted, here = numbers(stack.tensorrt), numbers(tensorrt)
    return wanted[:1] == here[:1] and wanted <= here and (cuda is None or numbers(stack.cuda)[:1] <= numbers(cuda)[:1])


def _newest(library: BundleLibrary, fitting: list[Stack]) -> tuple[int, ...]:
    return max((numbers(stack.cuda) for stack in fitting if stack.name in library.stacks), default=())
