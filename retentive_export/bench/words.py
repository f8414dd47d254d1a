"""Real text that every machine has: the documentation topics that CPython carries, about 700 KB of English."""

from __future__ import annotations

import pydoc_data.topics
from pathlib import Path

from retentive_export.errors import InputError

__all__ = ["SOURCE", "token_ids"]

SOURCE = "pydoc_data.topics of Python"


def token_ids(artifact: Path, count: int, text: Path | None = None) -> list[int]:
    """`count` token ids of real text in the artifact's vocabulary; a text that is too short is read again.

    Raises:
        InputError: the file cannot be read, or its text has no tokens.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(artifact / "tokenizer.json"))
    if text is None:
        topics = pydoc_data.topics.topics
        words = "\n\n".join(topics[name] for name in sorted(topics))
    else:
        try:
            words = text.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"text {str(text)!r} cannot be read: {error}") from None
    ids: list[int] = tokenizer.encode(words[: 16 * count], add_special_tokens=False).ids
    if not ids:
        raise InputError("the text has no tokens in the artifact's vocabulary", hint="give another one with --text")
    while len(ids) < count:
        ids = ids + ids
    return ids[:count]
