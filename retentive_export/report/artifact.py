"""What an artifact is, and what a build did: plain data for `--json`, tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from retentive_export.report.sizes import human_bytes
from retentive_export.spec.bundle import BundleSection
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.manifest import EngineSection, Manifest, cache_fields
from retentive_export.spec.plan import CachePlan
from retentive_export.spec.targets import Target

__all__ = [
    "build_data",
    "build_table",
    "bundle_words",
    "cache_words",
    "contract_table",
    "engine_words",
    "facts_table",
    "files_table",
    "made_data",
    "made_table",
    "manifest_data",
    "manifest_table",
    "plan_data",
    "plan_table",
]


class Made(Protocol):
    """A finished artifact and the steps that it took."""

    @property
    def directory(self) -> Path: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def ran(self) -> list[str]: ...
    @property
    def reused(self) -> list[str]: ...


class Build(Made, Protocol):
    """What a build left behind, as `pipeline.BuildResult` says it."""

    @property
    def signed(self) -> bool: ...
    @property
    def archive(self) -> Path | None: ...


def facts_table(title: str) -> Table:
    """An empty table of names and values."""
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    return table


def _ratio(state: int, full: int) -> str:
    return f"{human_bytes(state)}, {full / state:.2f}x smaller than the full cache's {human_bytes(full)}"


def cache_words(plan: CachePlan) -> list[str]:
    """The cache's geometry, one sentence a line."""
    geometry = plan.geometry
    lines = [f"policy {plan.policy}, {plan.layers} layers, {geometry.kv_heads} KV heads of size {geometry.head_dim}"]
    lines.append(
        f"{geometry.rows} rows per {'layer' if geometry.latent_rows else 'head'}: " + ", ".join(_tiers(geometry))
    )
    protected = f"the first {geometry.sinks} tokens and the latest {geometry.window} are never evicted"
    lines.append(f"{protected}; prefill in chunks of {geometry.chunk}")
    if plan.capacity is not None:
        lines.append(f"nothing is evicted; a session holds {plan.capacity} tokens")
    else:
        lines.append(f"evicted tokens: {_READOUTS[geometry.readout]}; a session has no end")
    return lines


def engine_words(engine: EngineSection) -> list[str]:
    """What the engines are bound to, and what is in them, one sentence a line."""
    capability = engine.compute_capability
    bound = "any GPU that it supports" if capability is None else "GPUs of compute capability {}.{}".format(*capability)
    plugins = ", ".join(f"{count} {op}" for op, count in engine.plugin_layers.items())
    lines = [f"{engine.backend} {engine.version}, for {bound}"]
    lines.append(f"decoder of {engine.layers['decoder']} layers, of which plugins: {plugins}")
    lines.append(f"scratch memory: {human_bytes(max(engine.activation_bytes.values()))}")
    return lines


def bundle_words(section: BundleSection) -> list[str]:
    """The plugin library for each group of software stacks, one sentence a line."""
    lines = []
    for library in section.libraries:
        stacks = ", ".join(library.stacks) or "any software"
        made = f"{library.file}" + (f", by CUDA {library.cuda}" if library.cuda else "")
        lines.append(f"{stacks}: {made if library.file else f'compiled on the device; {library.why}'}")
    return lines


_READOUTS = {
    "mass": "merged into the memory rows and read with their mass",
    "residual": "folded into a state matrix per head and read as a residual",
    "moments": "kept as moments per head",
    "none": "dropped",
}


def _tiers(geometry: CacheGeometry) -> list[str]:
    tiers = []
    if geometry.exact_rows:
        tiers.append(f"{geometry.exact_rows} {geometry.dtype}")
    if geometry.coarse_rows:
        tiers.append(f"{geometry.coarse_rows} {geometry.coarse_dtype}")
    if geometry.latent_rows:
        parts = " + ".join(f"{count} int{bits}" for bits, count in geometry.latent_parts)
        kind = parts if geometry.latent_dtype == "mixed" else f"rank {geometry.latent_rank}"
        dtype = geometry.dtype if geometry.latent_dtype == "model" else geometry.latent_dtype
        tiers.append(f"{geometry.latent_rows} {dtype} latents of {kind}")
    if geometry.visual_rows:
        tiers.append(f"{geometry.memory_grid[0]} x {geometry.memory_grid[1]} memory for vision")
    if geometry.recall_rows:
        tiers.append(f"{geometry.recall_rows} memory for text")
    return tiers


def manifest_data(directory: Path, manifest: Manifest) -> dict[str, Any]:
    """Summary of an artifact as plain data."""
    return {
        "artifact": str(directory),
        "name": manifest.name,
        "target": manifest.target,
        "family": manifest.family,
        "dtype": manifest.dtype,
        "text": manifest.text.model_dump(mode="json"),
        "frame": list(manifest.vision.frame) if manifest.vision else None,
        "tokens_per_frame": len(manifest.vision.block_ids) if manifest.vision else None,
        "weights": manifest.weights.model_dump(mode="json") if manifest.weights else None,
        "cache": manifest.cache,
        "engine": manifest.engine.model_dump(mode="json") if manifest.engine else None,
        "bundle": manifest.bundle.model_dump(mode="json") if manifest.bundle else None,
        "state_bytes": manifest.state_bytes,
        "full_cache_bytes": manifest.full_cache_bytes,
        "tools": manifest.tools,
        "files": {name: entry.bytes for name, entry in manifest.files.items()},
        "total_bytes": sum(entry.bytes for entry in manifest.files.values()),
    }


def manifest_table(manifest: Manifest) -> Table:
    """Model, cache and bytes of an artifact."""
    plan, text = manifest.plan(), manifest.text
    table = facts_table(f"{manifest.name} for {manifest.target}")
    table.add_row("model", f"{manifest.family}, {text.layers} layers, hidden {text.hidden}, {manifest.dtype}")
    if manifest.vision:
        height, width = manifest.vision.frame
        tokens = len(manifest.vision.block_ids)
        table.add_row("frame", f"{height} x {width} pixels (height x width), {tokens} tokens")
    if quantised := manifest.weights:
        words = f"{quantised.format} in blocks of {quantised.block}, {human_bytes(quantised.bytes)}"
        table.add_row("weights", f"{words} for {quantised.parameters:,} parameters in {quantised.matrices} matrices")
    for index, line in enumerate(cache_words(plan)):
        table.add_row("cache" if index == 0 else "", line)
    table.add_row("bytes per session", _ratio(manifest.state_bytes, manifest.full_cache_bytes))
    table.add_row("", f"full cache: {plan.context} tokens in {manifest.dtype}")
    if manifest.engine is not None:
        for index, line in enumerate(engine_words(manifest.engine)):
            table.add_row("engine" if index == 0 else "", line)
    if manifest.bundle is not None:
        _add_bundle(table, manifest.bundle)
    return table


def _add_bundle(table: Table, section: BundleSection) -> None:
    table.add_row("bundle", f"engines are built on the device: {section.target.description}")
    for index, line in enumerate(bundle_words(section)):
        table.add_row("plugin library" if index == 0 else "", line)


def files_table(manifest: Manifest) -> Table:
    """Every file with its size."""
    table = Table("file", "size", title="files", title_justify="left", box=None, pad_edge=False)
    table.columns[1].justify = "right"
    for name, entry in sorted(manifest.files.items()):
        table.add_row(name, human_bytes(entry.bytes))
    table.add_row("total", human_bytes(sum(entry.bytes for entry in manifest.files.values())), style="bold")
    return table


def contract_table(graph: str, manifest: Manifest) -> Table:
    """Inputs and outputs of one graph."""
    columns = ("tensor", "shape", "dtype", "role", "shares memory with")
    table = Table(*columns, title=f"{graph}: inputs and outputs", title_justify="left", box=None, pad_edge=False)
    for tensor in manifest.contract[graph]:
        shape = " x ".join(str(size) for size in tensor.shape)
        table.add_row(tensor.name, shape, tensor.dtype, tensor.role, tensor.alias or "")
    return table


def build_data(result: Build) -> dict[str, Any]:
    """What a build did, as plain data."""
    manifest = result.manifest
    return made_data(
        result,
        state_bytes=manifest.state_bytes,
        full_cache_bytes=manifest.full_cache_bytes,
        bundle=_bundle_data(result) if manifest.bundle else None,
    )


def made_data(result: Made, **facts: Any) -> dict[str, Any]:
    """An artifact and its steps, as plain data; `facts` stand before its files."""
    manifest = result.manifest
    return {
        "artifact": str(result.directory),
        "name": manifest.name,
        "target": manifest.target,
        "ran": result.ran,
        "reused": result.reused,
        **facts,
        "files": {name: entry.bytes for name, entry in manifest.files.items()},
    }


def made_table(result: Made) -> Table:
    """An artifact and its steps, for more rows to follow."""
    manifest = result.manifest
    table = facts_table(f"{manifest.name} for {manifest.target}")
    table.add_row("bundle" if manifest.bundle else "artifact", str(result.directory))
    table.add_row("steps run", ", ".join(result.ran) or "none")
    table.add_row("steps reused", ", ".join(result.reused) or "none")
    table.add_row("files", f"{len(manifest.files)}, {human_bytes(sum(e.bytes for e in manifest.files.values()))}")
    return table


def _bundle_data(result: Build) -> dict[str, Any]:
    section = result.manifest.bundle
    assert section is not None
    libraries = [library.model_dump(mode="json") for library in section.libraries]
    return {"libraries": libraries, "signed": result.signed, "archive": str(result.archive) if result.archive else None}


def build_table(result: Build) -> Table:
    """What a build did."""
    manifest, table = result.manifest, made_table(result)
    table.add_row("bytes per session", _ratio(manifest.state_bytes, manifest.full_cache_bytes))
    if manifest.bundle is not None:
        _add_bundle(table, manifest.bundle)
        table.add_row("signature", "ed25519, over manifest.json" if result.signed else "none")
        if result.archive:
            table.add_row("archive", f"{result.archive}, {human_bytes(result.archive.stat().st_size)}")
        table.add_row("on the device", f"retentive-export finish {(result.archive or result.directory).name}")
    return table


def plan_data(target: Target, plan: CachePlan, facts: dict[str, Any]) -> dict[str, Any]:
    """What a build would make, as plain data."""
    return {"target": target.name, **facts, "cache": cache_fields(plan)}


def plan_table(target: Target, plan: CachePlan, facts: dict[str, Any]) -> Table:
    """What a build would make."""
    table = facts_table(f"would build for {target.name} ({target.description})")
    table.add_row("model", f"{facts['model']}, {facts['parameters']:,} parameters, {plan.geometry.dtype}")
    for index, line in enumerate(cache_words(plan)):
        table.add_row("cache" if index == 0 else "", line)
    table.add_row("bytes per session", _ratio(plan.state_bytes, plan.full_cache_bytes))
    return table
