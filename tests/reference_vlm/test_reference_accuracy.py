"""The shipped weights: size, tokenizer, and accuracy on held-out digits with the full KV cache."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.reference_vlm import weights_dir
from retentive_export.reference_vlm.dialogue import Turn, all_questions, chat_text

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture(scope="module")
def evaluation() -> Any:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import eval_reference_vlm
    finally:
        sys.path.remove(str(SCRIPTS))
    return eval_reference_vlm


@pytest.fixture(scope="module")
def vlm(evaluation: Any) -> Any:
    return evaluation.ReferenceVLM(weights_dir(), torch.float32)


def test_weights_are_small_and_bfloat16() -> None:
    from safetensors import safe_open

    path = weights_dir() / "model.safetensors"
    assert path.stat().st_size <= 20_000_000
    with safe_open(path, "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.bfloat16}  # noqa: SIM118


def test_held_out_accuracy_with_the_full_cache(evaluation: Any, vlm: Any) -> None:
    scores = evaluation.measure(vlm, pictures=16, turns=16, seed=5, free=False)
    assert scores["questions"] == 256
    assert scores["all"] >= 0.95, scores


def test_free_running_answers_equal_the_truth_of_a_sample(vlm: Any) -> None:
    import json

    import numpy as np
    from PIL import Image

    from retentive_export.reference_vlm import samples_dir

    sample = json.loads((samples_dir() / "sample-1.json").read_text(encoding="utf-8"))
    picture = np.asarray(Image.open(samples_dir() / "sample-1.png"))
    turns = sample["dialogue"][:4]
    answers = vlm.free_running(picture, [turn["question"] for turn in turns])
    assert answers == [turn["answer"] for turn in turns]


def test_chat_template_writes_the_training_text(vlm: Any) -> None:
    turns = [Turn("Read row 2.", "1 4 0 9 9 2 3 5"), Turn("How many 4s are in row 6?", "2")]
    messages: list[dict[str, Any]] = []
    for index, turn in enumerate(turns):
        picture = [{"type": "image"}] if index == 0 else []
        messages.append({"role": "user", "content": [*picture, {"type": "text", "text": turn.question}]})
        messages.append({"role": "assistant", "content": turn.answer})
    written = vlm.tokenizer.apply_chat_template(messages, tokenize=False)
    assert written == chat_text(turns)
    asked = vlm.tokenizer.apply_chat_template(messages[:3], tokenize=False, add_generation_prompt=True)
    assert asked == chat_text(turns).removesuffix("2<|im_end|>\n")


def test_each_question_word_is_one_token(vlm: Any) -> None:
    for question in all_questions():
        ids = vlm.tokenizer.encode(question, add_special_tokens=False)
        assert vlm.tokenizer.decode(ids) == question
        assert len(ids) <= 9


@given(text=st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_tokenizer_round_trips_any_text(text: str) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(weights_dir() / "tokenizer.json"))
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids, skip_special_tokens=False) == text
    assert all(index < 384 for index in ids)
