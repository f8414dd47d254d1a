"""Real English texts that Python's documentation and scikit-learn carry: nothing to download, licences that allow it.

Held out: the calibration sets hold none of them. SmolLM2's training data is not known in that detail and may well
hold some; what is measured is the distance to the same model's full cache, which that does not favour.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
from functools import lru_cache
from pathlib import Path

from retentive_export.errors import MissingExtraError

__all__ = ["held_out_texts", "text_hashes"]

TOPICS = ("compound", "types", "formatstrings", "string-methods", "debugger", "assignment", "execmodel", "import")
"""Chapters of the Python language reference in `pydoc_data.topics` (PSF licence)."""

MODULES = ("doctest", "pickletools", "difflib")
"""Modules of the standard library whose long docstrings are read (PSF licence)."""


@lru_cache(maxsize=1)
def held_out_texts() -> tuple[tuple[str, str], ...]:
    """(name, text) of every text, always in the same order.

    Raises:
        MissingExtraError: scikit-learn, which carries one of them, is not installed.
    """
    from pydoc_data import topics

    texts = [(f"python topics: {name}", str(topics.topics[name])) for name in TOPICS]  # type: ignore[attr-defined]
    texts += [(f"python docstrings: {name}", _docstrings(name)) for name in MODULES]
    return (*texts, ("scikit-learn dataset descriptions", _descriptions()))


def text_hashes() -> dict[str, str]:
    """Name -> first 16 hex digits of the SHA-256: texts change with the version of what carries them."""
    return {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in held_out_texts()}


def _docstrings(name: str) -> str:
    module = importlib.import_module(name)
    parts = [inspect.getdoc(module) or ""]
    for _, member in sorted(vars(module).items()):
        if getattr(member, "__module__", None) == name:
            parts.append(inspect.getdoc(member) or "")
            functions = vars(member).values() if inspect.isclass(member) else ()
            parts += [inspect.getdoc(one) or "" for one in functions if inspect.isfunction(one)]
    return "\n\n".join(part for part in parts if len(part) > 200)


def _descriptions() -> str:
    try:
        import sklearn.datasets
    except ImportError:
        raise MissingExtraError.of("sklearn", "train") from None
    folder = Path(sklearn.datasets.__file__).parent / "descr"
    return "\n\n".join(path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst")))
