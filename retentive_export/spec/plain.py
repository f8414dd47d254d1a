"""Plain data: nested mappings, lists and scalars, as YAML and JSON carry them, and what is wrong with them in words."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import ValidationError

__all__ = ["describe_errors", "parse_bytes", "plain_copy", "plain_yaml"]

_UNITS = {"": 1, "b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "kb": 10**3, "mb": 10**6, "gb": 10**9}
_SEEN = reprlib.Repr()  # cuts long and deep values
_SEEN.maxstring = _SEEN.maxother = 60


def plain_yaml(text: str) -> Any:
    """The value of a YAML text; ValueError for all that is not one, cycles included.

    PyYAML's constructors raise whatever `int()`, indexing and the like do at a malformed tagged value.
    """
    try:
        return plain_copy(yaml.safe_load(text))
    except RecursionError:
        raise ValueError("it is nested too deeply, or in itself") from None
    except Exception as error:
        raise ValueError(str(error) or type(error).__name__) from None


def plain_copy(data: Any) -> Any:
    """A copy that shares no mapping and no list with `data`."""
    if isinstance(data, list):
        return [plain_copy(value) for value in data]
    return {key: plain_copy(value) for key, value in data.items()} if isinstance(data, Mapping) else data


def parse_bytes(value: Any) -> Any:
    """ "512 KiB" -> 524288; what is no string passes through.

    Raises:
        ValueError: a string that is no size.
    """
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", value)
    if not match or len(match[1]) > 24 or match[2].lower() not in _UNITS:
        raise ValueError("a number of bytes, or a string such as '512 KiB' or '2 MiB'")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def describe_errors(error: ValidationError, whole: str) -> str:
    """Every error as `field: what, got value`, joined by semicolons. whole: what to call data that is wrong as such."""
    return "; ".join(_describe(dict(item), whole) for item in error.errors(include_url=False))


def _describe(item: dict[str, Any], whole: str) -> str:
    field = ".".join(str(part) for part in item["loc"]) or whole
    if item["type"] == "extra_forbidden":
        return f"{field}: unknown key"
    if item["type"] == "missing":
        return f"{field}: required"
    message = item["msg"].removeprefix("Value error, ")
    return f"{field}: {message} (got {_SEEN.repr(item.get('input'))})"
