"""manifest.json: everything that a runtime or a validator needs to know of an artifact, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from retentive_export.errors import ArtifactError, RecipeError
from retentive_export.spec.bundle import BundleSection
from retentive_export.spec.layout import DialogueLayout, TextShape, VisionLayout
from retentive_export.spec.plan import CachePlan
from retentive_export.spec.recipe import GenerationSection, Thresholds
from retentive_export.spec.weights import WeightsRecord

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "EngineSection",
    "FileEntry",
    "Manifest",
    "TensorContract",
    "cache_fields",
    "file_entry",
    "parse_manifest",
    "read_manifest",
    "verify_files",
]

SCHEMA = "retentive-export/1"
MANIFEST = "manifest.json"


_PLAN = TypeAdapter(CachePlan)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FileEntry(_Part):
    """Size in bytes and sha256 of one file."""

    bytes: int
    sha256: str


class TensorContract(_Part):
    """One input or output of a graph. A dimension is a number or the name of a dynamic one; `alias` names the state
    input whose memory this output may share; `flavours` has the type of the same bytes in a flavour where it is not
    `dtype`."""

    name: str
    shape: list[int | str]
    dtype: str
    role: Literal["input", "output", "state_in", "state_out"]
    alias: str | None = None
    flavours: dict[str, str] = Field(default_factory=dict)

    def dtype_in(self, flavour: str) -> str:
        """The type in the graph of a flavour."""
        return self.flavours.get(flavour, self.dtype)


class EngineSection(_Part):
    """The engines that were built into the artifact, and what they are bound to.

    backend: "tensorrt" or "tensorrt_rtx". version: of that library, all of it. compute_capability: of the GPU that the
    engines were built on; null where they were built without one, for every GPU that the library supports. graphs:
    graph ("decoder", "vision") -> plan file. plugin_library, timing_cache: files. profiles: (smallest, typical,
    largest) T of each optimisation profile of the decoder. activation_bytes: graph -> scratch memory on the device
    besides weights and state. layers: graph -> layers of the engine. plugin_layers: operator of ours -> layers of
    the decoder's engine that are its plugin.
    """

    backend: str = Field(pattern="^tensorrt(_rtx)?$")
    version: str
    compute_capability: tuple[int, int] | None
    graphs: dict[str, str]
    plugin_library: str
    timing_cache: str | None
    profiles: list[tuple[int, int, int]] = Field(min_length=1)
    activation_bytes: dict[str, int]
    layers: dict[str, int]
    plugin_layers: dict[str, int]

    def files(self) -> list[str]:
        """Every file that the section names."""
        return [*self.graphs.values(), self.plugin_library, *([self.timing_cache] if self.timing_cache else [])]


class Manifest(_Part):
    """The manifest, version 1.

    graphs: flavour -> graph file; `vision` is the same for all flavours. cache: geometry, gate, layers, policy,
    capacity (null: unbounded run) and context, from which every byte of a session follows. scale: factor on q k^T.
    weights: what was quantised; null where weights are in `dtype`. engine: null where the target runs graphs, and in a
    bundle, whose `bundle` section says what is left to do on the device.
    """

    schema_: str = Field(default=SCHEMA, alias="schema")
    name: str
    target: str
    family: str
    dtype: str
    tools: dict[str, str]
    recipe: dict[str, Any]
    text: TextShape
    vision: VisionLayout | None
    dialogue: DialogueLayout
    cache: dict[str, Any]
    scale: float
    graphs: dict[str, str]
    vision_graph: str | None
    contract: dict[str, list[TensorContract]]
    state_bytes: int
    full_cache_bytes: int
    thresholds: Thresholds
    generation: GenerationSection
    weights: WeightsRecord | None = None
    engine: EngineSection | None = None
    bundle: BundleSection | None = None
    files: dict[str, FileEntry] = Field(default_factory=dict)

    def plan(self) -> CachePlan:
        """The cache as the exporter planned it."""
        return _PLAN.validate_python(self.cache)

    def to_json(self) -> str:
        """Stable text: sorted keys, no timestamps, so that equal builds give equal bytes."""
        return json.dumps(self.model_dump(mode="json", by_alias=True), indent=1, sort_keys=True) + "\n"


def cache_fields(plan: CachePlan) -> dict[str, Any]:
    """A plan as plain data, for `Manifest.cache`."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(plan)))
    return fields


def read_manifest(directory: Path) -> Manifest:
    """Read and check the manifest of an artifact.

    Raises:
        ArtifactError: no manifest, not JSON, another schema version, a field that is wrong.
    """
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(
            f"{directory} holds no {MANIFEST}: it is not a finished artifact",
            hint="retentive-export build RECIPE -o OUT",
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path} is not readable JSON: {error}") from None
    return parse_manifest(content, path)


def parse_manifest(content: bytes, path: Path) -> Manifest:
    """Check the bytes of a manifest; path: what to call it in messages.

    Raises:
        ArtifactError: not JSON, another schema version, a field that is wrong.
    """
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not readable JSON: {error}") from None
    seen = data.get("schema") if isinstance(data, dict) else None
    if seen != SCHEMA:
        raise ArtifactError(
            f"{path}: schema is {seen!r}, and this version reads {SCHEMA!r}", hint="build the artifact again"
        )
    try:
        manifest = Manifest.model_validate(data)
        plan = manifest.plan()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in (*(("cache",) if error.title == "CachePlan" else ()), *first["loc"]))
        raise ArtifactError(f"{path}: {field}: {first['msg']}") from None
    except RecipeError as error:
        raise ArtifactError(f"{path}: the cache section is not consistent: {error.message}") from None
    named = [*manifest.graphs.values(), *([manifest.vision_graph] if manifest.vision_graph else [])]
    if manifest.engine is not None:
        named += manifest.engine.files()
        if lacking := sorted(set(manifest.contract) - set(manifest.engine.graphs)):
            raise ArtifactError(f"{path}: the engine section has no engine for the graph {lacking[0]!r}")
    if manifest.bundle is not None:
        named += manifest.bundle.files()
    if unlisted := [name for name in named if name not in manifest.files]:
        raise ArtifactError(f"{path}: the graph, engine or bundle file {unlisted[0]!r} is not among its files")
    if plan.state_bytes != manifest.state_bytes:
        raise ArtifactError(f"{path}: state_bytes is {manifest.state_bytes}, and its geometry takes {plan.state_bytes}")
    return manifest


def file_entry(path: Path) -> FileEntry:
    """Hash a file, in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return FileEntry(bytes=path.stat().st_size, sha256=digest.hexdigest())


def verify_files(directory: Path, manifest: Manifest, names: Iterable[str] | None = None) -> None:
    """Check that files (all that the manifest lists, if none are named) are there and unaltered.

    Raises:
        ArtifactError: a name that leaves the directory, a file that is missing, truncated or altered.
    """
    for name in manifest.files if names is None else names:
        if name not in manifest.files:
            raise ArtifactError(f"{name!r} is not listed in {MANIFEST}")
        pure = PurePosixPath(name)
        if pure.is_absolute() or ".." in pure.parts or "\\" in name:
            raise ArtifactError(f"{MANIFEST} lists {name!r}, which leaves the artifact's directory")
        path, expected = directory / name, manifest.files[name]
        if not path.is_file():
            raise ArtifactError(f"{name} is missing from {directory}", hint="copy or build the artifact again")
        size = path.stat().st_size
        if size != expected.bytes:
            raise ArtifactError(
                f"{name} has {size} bytes, and the manifest says {expected.bytes}: truncated or altered"
            )
        if file_entry(path).sha256 != expected.sha256:
            raise ArtifactError(f"{name} was altered: its sha256 is not the manifest's")
