"""Token ids to text, piece by piece."""

from __future__ import annotations

from typing import Any

__all__ = ["TextStream"]

REPLACEMENT = "\ufffd"
LONGEST_CHARACTER = 16
"""Tokens to wait for the rest of a character; a valid one needs at most four bytes."""


class TextStream:
    """Incremental decoding: a piece is held back while its last character is incomplete.

    Args:
        tokenizer: a `tokenizers.Tokenizer`. Special tokens give no text.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # context for the decoder, which may join pieces with spaces
        self._done = 0  # tokens whose text was returned

    def push(self, token: int) -> str:
        """Text that `token` completes, perhaps none."""
        self._ids.append(token)
        text = self._pending()
        if text.endswith(REPLACEMENT) and len(self._ids) - self._done < LONGEST_CHARACTER:
            return ""
        self._start, self._done = self._done, len(self._ids)
        return text

    def flush(self) -> str:
        """What was held back."""
        text = self._pending()
        self._start, self._done = self._done, len(self._ids)
        return text

    def _pending(self) -> str:
        known = self._decode(self._ids[self._start : self._done])
        return self._decode(self._ids[self._start :])[len(known) :]

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text
