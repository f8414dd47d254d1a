"""Is this machine able to build and run for a target: what is there, what is missing, and the command that fixes it.

Nothing is imported and nothing changed: files are looked at and a few programs asked for their versions.
"""

from __future__ import annotations

from retentive_export.doctor.examine import Diagnosis, examine
from retentive_export.doctor.finding import Finding, Status
from retentive_export.doctor.system import System

__all__ = ["Diagnosis", "Finding", "Status", "System", "examine"]
