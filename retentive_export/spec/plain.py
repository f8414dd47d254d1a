"""Plain data: nested mappings, lists and scalars, as YAML and JSON carry them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["plain_copy", "plain_yaml"]


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
