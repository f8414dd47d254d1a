"""What a recipe takes on a target, on paper: bytes, whether they fit, tokens per second.

Nothing is downloaded, no weight is read, and no torch, transformers or TensorRT is imported: sizes come from the
model's config.json or from `shapes.yaml`. State bytes and parameter counts are exact; activations, workspace and speed
are estimates, by the formulas of `estimates.py`.
"""

from __future__ import annotations

from retentive_export.planner.fit import BoardPlan, Budget, Point
from retentive_export.planner.frames import FrameTokens
from retentive_export.planner.measured import MeasuredArm, read_measured
from retentive_export.planner.plan import Assumptions, Plan, plan_recipe
from retentive_export.planner.shape import ModelShape, model_shape

__all__ = [
    "Assumptions",
    "BoardPlan",
    "Budget",
    "FrameTokens",
    "MeasuredArm",
    "ModelShape",
    "Plan",
    "Point",
    "model_shape",
    "plan_recipe",
    "read_measured",
]
