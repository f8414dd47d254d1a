"""`inspect`: look at a finished artifact."""

from __future__ import annotations

from pathlib import Path

import click

from retentive_export.cli.shared import (
    artifact_argument,
    echo_json,
    json_option,
    print_tables,
)

__all__ = ["inspect"]


@click.command()
@artifact_argument
@click.option("-v", "--verbose", is_flag=True, help="Also list the inputs and outputs of the graphs.")
@json_option
def inspect(out: Path, verbose: bool, as_json: bool) -> None:
    """Print what the artifact OUT is: model, cache, bytes of a session, files."""
    from retentive_export import report
    from retentive_export.spec.manifest import read_manifest

    manifest = read_manifest(out)
    if as_json:
        data = report.manifest_data(out, manifest)
        if verbose:
            contract = manifest.contract.items()
            data["contract"] = {graph: [t.model_dump(mode="json") for t in tensors] for graph, tensors in contract}
        echo_json(data)
        return
    tables = [report.manifest_table(manifest), report.files_table(manifest)]
    if verbose:
        tables += [report.contract_table(graph, manifest) for graph in manifest.contract]
    print_tables(*(part for table in tables for part in (table, "")))
