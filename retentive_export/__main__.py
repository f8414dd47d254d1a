"""`python -m retentive_export`: the command line, where its script is not on PATH."""

from __future__ import annotations

from retentive_export.cli import main

if __name__ == "__main__":
    main(prog_name="retentive-export")
