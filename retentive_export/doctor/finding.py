"""What a probe found."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["Finding", "Status", "fail", "ok", "warn"]

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of a diagnosis.

    name: what was looked at. status: "fail" is what keeps a target from being served. seen: what is there. remedy: the
    command or the step that mends it; "" where nothing need be done.
    """

    name: str
    status: Status
    seen: str
    remedy: str = ""

    def at_most(self, status: Status) -> Finding:
        """The same, a failure softened to `status`."""
        return replace(self, status=status) if self.status == "fail" else self


def ok(name: str, seen: str) -> Finding:
    """All is well."""
    return Finding(name=name, status="ok", seen=seen)


def warn(name: str, seen: str, remedy: str) -> Finding:
    """It works, with a drawback."""
    return Finding(name=name, status="warn", seen=seen, remedy=remedy)


def fail(name: str, seen: str, remedy: str) -> Finding:
    """It does not work."""
    return Finding(name=name, status="fail", seen=seen, remedy=remedy)
