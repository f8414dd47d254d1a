"""The command line: parse, call, print. Commands import what they need when they run, so that `--help` is quick and a
base install needs no more than its own packages."""

from __future__ import annotations

from retentive_export.cli.app import main

__all__ = ["main"]
