"""Token pieces against the chat template itself."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.errors import ModelError
from retentive_export.models.dialogue import derive_dialogue
from retentive_export.spec.layout import DialogueLayout
from tests.factories import CHATML, VISION_FAMILIES, make_adapter, make_tokenizer

ADAPTERS = {family: make_adapter(family) for family in (*VISION_FAMILIES, "llama")}
LAYOUTS = {family: adapter.dialogue_layout() for family, adapter in ADAPTERS.items()}
BRACKETS = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}"
    "[INST] {{ message['content'] }} [/INST]{% else %}{{ message['content'] }}</s>{% endif %}{% endfor %}"
)
words = st.text(st.characters(codec="utf-8", exclude_characters="<>", exclude_categories=("Cc",)), max_size=24)
asks = st.one_of(words, words.map("\n".__add__), words.map(" ".__add__), words.map(lambda text: text + "\n\n"))
answers = st.text(st.sampled_from("abcdefg 137."), min_size=1, max_size=12).filter(lambda text: text == text.strip())


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def _whole(adapter: Any, turns: list[tuple[str, str]], frames: int) -> list[int]:
    """Ids of the rendered dialogue, a short block in place of each picture, with the bos that the processor adds."""
    tokenizer = adapter.tokenizer
    listed = adapter.takes_frames
    messages = [
        {
            "role": role,
            "content": [{"type": "image"}] * (frames if role == "user" else 0) + [{"type": "text", "text": text}]
            if listed
            else text,
        }
        for role, text in turns
    ]
    if not listed:
        return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    text = text.replace(adapter.image_markup, _block(adapter))
    bos = tokenizer.bos_token
    return list(tokenizer.encode(text, add_special_tokens=not (bos and text.startswith(bos))))


def _pieces(adapter: Any, layout: DialogueLayout, turns: list[tuple[str, str]], frames: int) -> list[int]:
    tokenizer = adapter.tokenizer
    block = _encode(tokenizer, _block(adapter)) if frames else []
    ids = list(layout.prefix)
    for role, text in turns:
        if role == "user":
            for piece in layout.user_turn(lambda words: _encode(tokenizer, words), text, frames=frames):
                ids += block if piece is None else piece
        else:
            # What a model would have generated: "Assistant:" is followed by a space in these templates' history.
            spaced = adapter.family == "idefics3"
            ids += _encode(tokenizer, " " + text if spaced else text) + layout.assistant_close
    return ids


def _block(adapter: Any) -> str:
    """The shortest text that begins and ends as a real block of the family does."""
    markup = str(adapter.image_markup)
    return adapter.frame_anchor + markup + adapter.frame_anchor if adapter.family == "idefics3" else markup


@pytest.mark.parametrize(
    ("family", "frames"),
    [(f, n) for f, layout in LAYOUTS.items() for n in (0, 1, 2) if not n or layout.frame_before_text],
)
@settings(max_examples=25, deadline=None)
@given(first=asks, second=asks, answer=answers)
def test_two_turns_equal_the_template(family: str, frames: int, first: str, second: str, answer: str) -> None:
    adapter, layout = ADAPTERS[family], LAYOUTS[family]
    if family == "llava" and not (first.strip() and second.strip()):
        return
    turns = [("user", first), ("assistant", answer), ("user", second)]
    assert _pieces(adapter, layout, turns, frames) == _whole(adapter, turns, frames)


def test_pieces_of_chatml() -> None:
    tokenizer = make_tokenizer("llama")
    layout = LAYOUTS["llama"]
    assert tokenizer.decode(layout.prefix) == "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n"
    assert tokenizer.decode(layout.user_open) == "<|im_start|>user\n"
    assert tokenizer.decode(layout.user_close) == "<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(layout.assistant_close) == "<|im_end|>\n"
    assert layout.assistant_stop_length == 1
    assert layout.stop_ids == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert not layout.frame_before_text
    with pytest.raises(ValueError, match="text only"):
        layout.user_turn(lambda text: _encode(tokenizer, text), "x", frames=1)


def test_plain_concatenation_is_right_for_plain_text() -> None:
    for family in ("llama", "qwen3_vl"):
        tokenizer, layout = ADAPTERS[family].tokenizer, LAYOUTS[family]
        plain = layout.user_open + _encode(tokenizer, "Where is the cat?") + layout.user_close
        assert layout.user_turn(lambda text, t=tokenizer: _encode(t, text), "Where is the cat?") == [plain]


def test_layout_survives_json() -> None:
    for layout in LAYOUTS.values():
        assert DialogueLayout.model_validate_json(layout.model_dump_json()) == layout


def test_without_a_template() -> None:
    tokenizer = make_tokenizer("llava")
    tokenizer.chat_template = None
    plain = derive_dialogue(tokenizer, template=None, image_markup=None, stop_ids=[1])
    assert (plain.prefix, plain.user_open, plain.user_close, plain.stop_ids) == ([tokenizer.bos_token_id], [], [], [1])
    encoded = plain.user_turn(lambda text: _encode(tokenizer, text), "a cat")
    assert encoded == [_encode(tokenizer, "a cat")]


def test_llava_has_a_default_template() -> None:
    adapter = make_adapter("llava")
    adapter.tokenizer.chat_template = None
    assert adapter.dialogue_layout() == LAYOUTS["llava"]


def test_bracket_template() -> None:
    tokenizer = make_tokenizer("llava")
    layout = derive_dialogue(tokenizer, template=BRACKETS, image_markup=None)
    assert tokenizer.decode(layout.prefix) == "<s>"
    assert layout.assistant_stop_length == 1
    assert tokenizer.decode(layout.assistant_close) == "</s>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[-1]['content'] }}", "drops or reorders"),
        ("{{ raise_exception('no') }}", "does not render"),
        (CHATML.replace("<|im_start|>{{", "{{ loop.index }}<|im_start|>{{"), "differently"),
        (CHATML.replace("<|im_end|>\n{% endfor %}", "{{ '' if loop.last else '<|im_end|>' }}X{% endfor %}"), "depends"),
    ],
)
def test_templates_that_cannot_be_split(template: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        derive_dialogue(make_tokenizer("llama"), template=template, image_markup=None)


def test_frames_need_the_markup_before_the_text() -> None:
    with pytest.raises(ModelError, match="does not render '<image>' before"):
        derive_dialogue(
            make_tokenizer("qwen3_vl"), template=make_tokenizer("qwen3_vl").chat_template, image_markup="<image>"
        )
