"""What every arm does for the harness: it holds one sequence, is fed tokens, and says what a token moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

__all__ = ["MODULES", "Arm"]

MODULES = {
    "artifact": "artifact",
    "transformers": "transformers_arm",
    "genai": "genai_arm",
    "llama_cpp": "llama_cpp_arm",
    "fake": "fake",
}
"""Kind of arm -> its module; each has a function `open_arm(spec, threads)`."""


class Arm(Protocol):
    """An opened runtime with one sequence.

    facts: what the table says of it: versions, weights_bytes (read per token), kv_bytes_per_token (of a growing cache)
    or state_bytes (of one whose size is fixed), anything else worth knowing.
    """

    facts: dict[str, Any]

    def feed(self, ids: Sequence[int]) -> None:
        """Append tokens and compute the logits of the last one, in whatever pieces the runtime likes best."""

    def step(self, token: int) -> None:
        """Append one token and compute its logits."""

    def set_threads(self, threads: int) -> None:
        """Go on with another number of threads and the same sequence."""
