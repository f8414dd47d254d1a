"""Streamed text is the text of all ids together, and never a part of a character."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.runtime.detokenize import TextStream
from tests.factories import make_tokenizer

TOKENIZERS = {family: make_tokenizer(family).backend_tokenizer for family in ("qwen3_vl", "llava", "smolvlm")}


@pytest.mark.parametrize("family", TOKENIZERS)
@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\ufffd", min_codepoint=32), max_size=40))
def test_pieces_join_to_the_text(family, text):
    tokenizer = TOKENIZERS[family]
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert all("\ufffd" not in piece for piece in pieces)
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("family", TOKENIZERS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_any_ids_stream_without_error(family, data):
    """A model may emit bytes that are no UTF-8; what is held back stays bounded."""
    tokenizer = TOKENIZERS[family]
    ids = data.draw(st.lists(st.integers(0, tokenizer.get_vocab_size() - 1), max_size=60))
    stream = TextStream(tokenizer)
    for token in ids:
        stream.push(token)
        assert len(stream._ids) - stream._done < 16
    stream.flush()
    assert stream.flush() == ""
