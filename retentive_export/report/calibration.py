"""What a calibration is worth: plain data for `--json`, tables for people."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.table import Table

from retentive_export.report.artifact import facts_table

if TYPE_CHECKING:
    from retentive_export.calibrate import Calibration

__all__ = ["calibration_data", "calibration_tables"]


def calibration_data(result: Calibration) -> dict[str, Any]:
    """A calibration as plain data, without the constants themselves."""
    return {
        "fitted_on": result.fitted_on,
        "held_out_on": result.held_out_on,
        "seed": result.seed,
        "lambda": result.gate.lambda_,
        "beta": result.gate.beta,
        "searched": [dict(zip(("lambda", "beta", "kl"), one, strict=True)) for one in result.searched],
        "held_out": [asdict(one) for one in result.held_out],
    }


def calibration_tables(title: str, result: Calibration) -> list[Table]:
    """What was fitted, and the held-out comparison with the full cache."""
    facts = facts_table(title)
    facts.add_row("dialogues", f"{result.fitted_on} to fit on, {result.held_out_on} held out (seed {result.seed})")
    facts.add_row("gate", f"lambda {result.gate.lambda_:g}, beta {result.gate.beta:g}")
    facts.add_row("tried", f"{len(result.searched)} pairs of lambda and beta, on the dialogues to fit on")
    table = Table(
        "held out, against the full cache", "KL (nats)", "greedy agreement", "tokens", box=None, pad_edge=False
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for one in result.held_out:
        table.add_row(one.constants, f"{one.kl:.3g}", f"{one.agreement:.3f}", str(one.tokens))
    return [facts, table]
