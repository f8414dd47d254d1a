"""Single fields of plain data, set by the names on the way to them: `--set cache.window=64`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from retentive_export.errors import RecipeError
from retentive_export.spec.plain import plain_copy, plain_yaml

__all__ = ["apply_overrides", "set_field"]


def apply_overrides(data: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """A copy of `data` with `a.b.c=value` set; values are YAML. A new budget replaces the old one."""
    result: dict[str, Any] = plain_copy(data)
    for override in overrides:
        key, separator, text = override.partition("=")
        parts = key.strip().split(".")
        if not separator or not all(parts):
            raise RecipeError(f"--set {override!r} is not of the form key=value, such as cache.window=64")
        try:
            value = plain_yaml(text)
        except ValueError:
            raise RecipeError(f"--set {key}: {text!r} is not a YAML value") from None
        set_field(result, parts, value, f"--set {key}")
        _overrule_engines(result, parts, value)
    return result


def _overrule_engines(data: dict[str, Any], parts: list[str], value: Any) -> None:
    """What is set by hand also holds where the recipe has another value for engines."""
    fields = data.get("engines")
    if parts[0] == "engines" or not isinstance(fields, dict):
        return
    for name in list(fields):
        other = name.split(".")
        common = min(len(parts), len(other))
        if other[:common] == parts[:common] and len(other) < len(parts) and isinstance(fields[name], dict):
            set_field(fields[name], parts[common:], value, "engines")
        elif other[:common] == parts[:common] or other[:2] == parts[:2] == ["cache", "budget"]:
            del fields[name]


def set_field(data: dict[str, Any], parts: list[str], value: Any, origin: str) -> None:
    """Set one field by the names on the way to it, in place. A section that a complete recipe spells null is made."""
    for part in parts[:-1]:
        if data.get(part) is None:
            data[part] = {}
        if not isinstance(data[part], dict):
            raise RecipeError(f"{origin}: {part!r} is a value, not a section")
        data = data[part]
        if part == "budget":
            data.clear()
    data[parts[-1]] = value
