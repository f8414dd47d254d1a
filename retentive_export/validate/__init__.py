"""Validation: does an artifact compute what the model it was made from computes?"""

from __future__ import annotations

from retentive_export.validate.golden import Check, GoldenReport, StepReport, validate_golden

__all__ = ["Check", "GoldenReport", "StepReport", "validate_golden"]
