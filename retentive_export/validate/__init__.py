"""Validation: does an artifact compute what the model it was made from computes?"""

from __future__ import annotations

from retentive_export.validate.golden import validate_golden
from retentive_export.validate.layers import LayerReport, StateLimits
from retentive_export.validate.live import REFERENCES, validate_against
from retentive_export.validate.metrics import StepReport
from retentive_export.validate.result import Check, ValidationReport

__all__ = [
    "REFERENCES",
    "Check",
    "LayerReport",
    "StateLimits",
    "StepReport",
    "ValidationReport",
    "validate_against",
    "validate_golden",
]
