"""Fits the constants of a recipe's cache on sample dialogues, and says what that is worth on dialogues left out.

samples -> split -> fit (key scales, latent bases, the gate's lambda and beta) -> held-out measurement -> recipe
"""

from retentive_export.calibrate.fit import Calibration, Measured, Setup, calibrate
from retentive_export.calibrate.samples import answered, prompted_samples, split

__all__ = ["Calibration", "Measured", "Setup", "answered", "calibrate", "prompted_samples", "split"]
