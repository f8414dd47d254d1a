"""Version numbers as tuples."""

from __future__ import annotations

import re

__all__ = ["numbers"]


def numbers(version: str) -> tuple[int, ...]:
    """(10, 16, 2) of "10.16.2.post1": the leading numbers."""
    match = re.match(r"\d+(?:\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()
