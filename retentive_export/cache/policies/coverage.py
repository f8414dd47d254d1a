"""Even coverage of what was seen, for questions that are not asked yet."""

from __future__ import annotations

from torch import Tensor

from retentive_export.cache.gate import RowStatistics, coverage_score
from retentive_export.cache.policies.base import Policy

__all__ = ["Coverage"]


class Coverage(Policy):
    """Keeps an even sample of every picture and of the text.

    Idea: attention tells what mattered so far, not what the next question needs; a sample that is spread evenly over
    the frame serves every question alike. No paper; the lattice is the R2 sequence of Roberts (2018), and the golden
    ratio's for text.

    Score [B, Hkv, C]: a fixed priority of a visual row's cell, or a text row's position, moved from head to head so
    that heads keep different rows. The rows above any threshold are spread evenly, so it needs no statistics.

    Caveats: all pictures are thinned alike, the latest too; text is thinned as evenly as pictures.
    """

    name = "coverage"

    def score(self, statistics: RowStatistics) -> Tensor:
        return coverage_score(statistics)
