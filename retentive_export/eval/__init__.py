"""Evaluation: what a bounded cache loses, policy by policy, at equal bytes.

`arms` names what is compared, `tasks` what is asked, `harness` runs every arm on every task; results are plain data
(`result`), with paired bootstrap intervals (`statistics`). Importing this package needs no torch.
"""

from __future__ import annotations

from retentive_export.eval.arms import Arm, parse_arm, suite
from retentive_export.eval.result import Cell, Evaluation, load_evaluation, save_evaluation

__all__ = ["Arm", "Cell", "Evaluation", "load_evaluation", "parse_arm", "save_evaluation", "suite"]
