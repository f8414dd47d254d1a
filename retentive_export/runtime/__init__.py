"""Runtime: dialogue and generation on an opened artifact. Needs numpy, tokenizers, pillow and one backend; no torch."""

from retentive_export.runtime.sampling import Sampler
from retentive_export.runtime.session import Generation, Session

__all__ = ["Generation", "Sampler", "Session"]
