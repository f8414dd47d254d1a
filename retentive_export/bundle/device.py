"""The steps that finish a bundle on the machine that runs it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retentive_export.backends.tensorrt.builder import DECODER, VISION, EnginePlan, build_engines, engine_key
from retentive_export.backends.tensorrt.layers import FLAVOUR
from retentive_export.bundle.compile import LIBRARY, check_library, compile_library
from retentive_export.bundle.machine import check_machine, check_plugins, choose_library
from retentive_export.bundle.make import PLUGINS
from retentive_export.bundle.readme import README
from retentive_export.bundle.toolchain import Compilation, find_toolkits, plan_compilations
from retentive_export.bundle.verify import bundle_section
from retentive_export.doctor import System
from retentive_export.errors import DeviceError, ValidationError
from retentive_export.ops.native import find
from retentive_export.report import validation_files, verdict
from retentive_export.spec.files import write_text
from retentive_export.spec.manifest import MANIFEST, EngineSection, FileEntry, Manifest, verify_files
from retentive_export.spec.provenance import versions
from retentive_export.spec.targets import Target
from retentive_export.steps import StepRunner, link
from retentive_export.validate import ValidationReport, validate_golden

__all__ = ["REPORT", "Finishing"]

REPORT = "report"
OBJECTS = ".compile"


class Finishing:
    """One bundle, verified, for one target.

    Args:
        bundle: its directory. manifest: the bundle's. target: what to finish it for.
        runner: runs the steps.
        library: libretentive_plugins.so in the place of the bundle's. system: the machine.

    `validation` is what the validation found, None until it has run; the reports are below `REPORT`.
    """

    def __init__(
        self,
        bundle: Path,
        manifest: Manifest,
        target: Target,
        runner: StepRunner,
        *,
        library: str | Path | None,
        system: System,
    ) -> None:
        self.bundle, self.manifest, self.target, self.runner = bundle, manifest, target, runner
        self.section = bundle_section(manifest)
        self.validation: ValidationReport | None = None
        self._given, self._system = library, system
        self._library: Path | None = None
        self._compilation: Compilation | None = None

    def check(self) -> None:
        """Hold that this machine can do it; nothing is written, nothing of the bundle loaded.

        Raises:
            DeviceError: this machine is not the target, or lacks something. ArtifactError: the given library is not for
                the target.
        """
        check_machine(self.target, self._system)
        if self.target.engines == "none":
            return
        if self._given is not None:
            self._library = find("plugins", self._given)
            check_library(self._library, self.target.machine, self.target.sm)
        else:
            chosen = choose_library(self.section, self.target, self._system)
            self._library = self.bundle / chosen.file if chosen.file else None
            if self._library is None:
                self._compilation = self._to_compile(chosen.stacks)
        check_plugins(self.target, self._system, self._library)

    def run(self) -> None:
        """All steps, the validation last.

        Raises:
            ExportError: the plugins or an engine cannot be built. ValidationError: outputs are not the golden run's.
        """
        files = self._artifact_files()
        self.runner.run("files", _plain(files), lambda work: self._files(work, files))
        if self.target.engines != "none":
            self._run_engine()
        self.write_manifest()
        self.runner.run("validate", self._validation_key(), self._validate)

    def write_manifest(self) -> Manifest:
        """The artifact's manifest, of the steps that are done; written where they work."""
        engine = self.runner.facts.get("engine")
        changes = {
            "bundle": None,
            "engine": EngineSection.model_validate(engine) if engine else None,
            "files": self.runner.files,
            "target": self.target.name,
        }
        manifest = self.manifest.model_copy(update=changes)
        write_text(self.runner.work / MANIFEST, manifest.to_json())
        return manifest

    def _artifact_files(self) -> dict[str, FileEntry]:
        """What the artifact has too: all but what only bundles have."""
        own, sources = {README, *self.section.files()}, f"{self.section.sources}/"
        every = self.manifest.files.items()
        return {name: entry for name, entry in every if name not in own and not name.startswith(sources)}

    def _files(self, work: Path, files: Mapping[str, FileEntry]) -> dict[str, Any]:
        for name in files:
            link(self.bundle / name, work / name)
        verify_files(work, self.manifest, files)
        return {}

    def _to_compile(self, stacks: tuple[str, ...]) -> Compilation:
        kept = tuple(stack for stack in self.target.stacks if stack.name in stacks)
        sources = self.bundle / self.section.sources
        plan = plan_compilations(self.target.model_copy(update={"stacks": kept}), sources, find_toolkits())[0]
        if plan.toolkit is None:
            raise DeviceError(
                f"the bundle has no plugin library for {', '.join(stacks) or 'this target'}, and none can be compiled "
                f"here: {plan.why}",
                hint="install what is missing, or give a library that was compiled elsewhere: --plugin-library",
            )
        return plan

    def _run_engine(self) -> None:
        library, plan = self._library, self._compilation
        if plan is not None:
            sources = {n: e for n, e in self.manifest.files.items() if n.startswith(f"{self.section.sources}/")}
            self.runner.run(PLUGINS, [plan.key(""), _plain(sources)], lambda work: self._compile(work, plan))
            library = self.runner.work / PLUGINS / LIBRARY
        assert library is not None
        assert self.target.backend is not None
        if self._given is None and plan is None:
            verify_files(self.bundle, self.manifest, [library.relative_to(self.bundle).as_posix()])
        found = library
        key = [_plain(self._artifact_files()), engine_key(self.target.backend, found), self.target.builder_flags]
        self.runner.run("engine", key, lambda work: self._engine(work, found))

    def _compile(self, work: Path, plan: Compilation) -> dict[str, Any]:
        objects = self.runner.work / OBJECTS  # survives an interruption, and is pruned at the end
        sources = self.bundle / self.section.sources
        made = compile_library(plan, sources, objects, lambda line: self.runner.progress(PLUGINS, f"compile {line}"))
        (work / PLUGINS).mkdir()
        shutil.copyfile(made, work / PLUGINS / LIBRARY)
        return {}

    def _engine(self, work: Path, library: Path) -> dict[str, Any]:
        assert self.target.backend is not None
        graphs, plan = {DECODER: work.parent / self.manifest.graphs[FLAVOUR]}, self.manifest.plan()
        if self.manifest.vision_graph is not None:
            graphs[VISION] = work.parent / self.manifest.vision_graph
        engines = EnginePlan(
            backend=self.target.backend,
            graphs=graphs,
            contract=self.manifest.contract,
            layers=plan.layers,
            chunk=plan.geometry.chunk,
            plugin_library=library,
            earlier=self.runner.finished,
            flags=self.target.builder_flags,
        )
        section = build_engines(engines, work, lambda text: self.runner.progress("engine", text))
        return {"engine": section.model_dump(mode="json")}

    def _validation_key(self) -> list[Any]:
        """Files and, where they are run by ONNX Runtime, its version; an engine's is in its own step."""
        found = versions(("onnxruntime", "onnxruntime-gpu"))
        return [_plain(self.runner.files), [f"{name} {version}" for name, version in found.items()]]

    def _validate(self, work: Path) -> dict[str, Any]:
        result = self.validation = validate_golden(work.parent)
        folder = (work if result.passed else work.parent) / REPORT
        for name, text in validation_files(result).items():
            write_text(folder / name, text)
        if not result.passed:
            raise ValidationError(
                f"{self.manifest.name} on {self.target.name} differs from its golden run: "
                f"{'; '.join(result.failures())}",
                hint=f"the report is in {folder}",
            )
        return {"verdict": verdict(result)}


def _plain(files: Mapping[str, FileEntry]) -> str:
    """Names and hashes, as text."""
    return json.dumps({name: entry.sha256 for name, entry in files.items()}, sort_keys=True)
