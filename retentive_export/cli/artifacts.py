"""`inspect` and `validate`: look at a finished artifact."""

from __future__ import annotations

from pathlib import Path

import click

from retentive_export.cli.shared import (
    artifact_argument,
    backend_options,
    echo_json,
    given,
    json_option,
    print_tables,
    quiet_libraries,
)
from retentive_export.errors import ValidationError

__all__ = ["inspect", "validate"]


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


@click.command()
@artifact_argument
@backend_options
@json_option
def validate(
    out: Path, backend: str | None, threads: int | None, provider: str | None, device: str | None, as_json: bool
) -> None:
    """Verify the files of the artifact OUT and replay its golden run against the reference's results."""
    from retentive_export import report
    from retentive_export.validate import validate_golden

    quiet_libraries()
    result = validate_golden(out, backend, **given(threads=threads, provider=provider, device=device))
    if as_json:
        echo_json(report.golden_data(result))
    else:
        print_tables(report.golden_table(result))
    if not result.passed:
        raise ValidationError(
            f"{out} differs from its reference: {'; '.join(result.failures())}",
            hint="build it again; if that does not help, this machine's runtime computes differently",
        )
