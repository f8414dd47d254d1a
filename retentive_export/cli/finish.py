"""`finish`: a bundle becomes an artifact for the machine that it runs on."""

from __future__ import annotations

from pathlib import Path

import click

from retentive_export.cli.shared import echo_json, json_option, print_tables, quiet_libraries

__all__ = ["finish"]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--target", "target_name", help="Finish it for another target; cpu needs no GPU.  [default: its own]")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Directory of the artifact.  [default: beside the bundle, BUNDLE.TARGET]",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path),
    help="Public key (ed25519, PEM) that must have signed it.  [default: hashes alone are checked]",
)
@click.option(
    "--plugin-library",
    type=click.Path(path_type=Path),
    help="libretentive_plugins.so to take in the place of the bundle's.",
)
@click.option("-v", "--verbose", is_flag=True, help="Progress lines on stderr where it is no terminal.")
@json_option
def finish(
    bundle: Path,
    target_name: str | None,
    output: Path | None,
    key: Path | None,
    plugin_library: Path | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Finish BUNDLE, a directory or its .tar.zst, on the device.

    Verifies signature and files, checks the machine, builds the engines, compares them with the golden run and writes
    a report. Nothing is loaded before it is verified. Interrupted, it goes on where it was. Exit codes: 6 the bundle is
    not what its maker wrote, 10 the outputs differ, 12 this machine is not the target.
    """
    from retentive_export import report
    from retentive_export.bundle import finish as finish_bundle
    from retentive_export.cli.progress import build_progress

    quiet_libraries()
    with build_progress(verbose) as progress:
        result = finish_bundle(
            bundle, output, target_name=target_name, key=key, plugin_library=plugin_library, progress=progress
        )
    if as_json:
        echo_json(report.finish_data(result))
        return
    if result.validation is not None:
        print_tables(report.validation_table(result.validation), "")
    print_tables(report.finish_table(result))
