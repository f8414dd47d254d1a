"""What finishing a bundle did: plain data for `--json`, tables for people."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from retentive_export.report.artifact import facts_table
from retentive_export.report.sizes import human_bytes
from retentive_export.spec.manifest import Manifest

__all__ = ["finish_data", "finish_table"]


class Finished(Protocol):
    """What finishing left behind, as `bundle.FinishResult` says it."""

    @property
    def directory(self) -> Path: ...
    @property
    def manifest(self) -> Manifest: ...
    @property
    def ran(self) -> list[str]: ...
    @property
    def reused(self) -> list[str]: ...
    @property
    def verdict(self) -> str: ...
    @property
    def report(self) -> Path: ...


def finish_data(result: Finished) -> dict[str, Any]:
    """What finishing did, as plain data."""
    manifest = result.manifest
    return {
        "artifact": str(result.directory),
        "name": manifest.name,
        "target": manifest.target,
        "ran": result.ran,
        "reused": result.reused,
        "validation": result.verdict,
        "report": str(result.report),
        "engine": manifest.engine.model_dump(mode="json") if manifest.engine else None,
        "files": {name: entry.bytes for name, entry in manifest.files.items()},
    }


def finish_table(result: Finished) -> Table:
    """What finishing did."""
    manifest = result.manifest
    table = facts_table(f"{manifest.name} for {manifest.target}")
    table.add_row("artifact", str(result.directory))
    table.add_row("steps run", ", ".join(result.ran) or "none")
    table.add_row("steps reused", ", ".join(result.reused) or "none")
    table.add_row("files", f"{len(manifest.files)}, {human_bytes(sum(e.bytes for e in manifest.files.values()))}")
    table.add_row("validation", result.verdict)
    table.add_row("report", str(result.report / "validation.html"))
    return table
