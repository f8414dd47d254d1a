"""Questions and answers about a digit grid."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retentive_export.reference_vlm import samples_dir
from retentive_export.reference_vlm.dialogue import (
    KINDS,
    Turn,
    all_questions,
    answer,
    cell_question,
    chat_text,
    count_question,
    kind_of,
    row_question,
    sample_dialogue,
)

seeds = st.integers(0, 2**32 - 1)


@given(seed=seeds)
@settings(max_examples=20, deadline=None)
def test_answers_agree_with_the_grid_and_with_each_other(seed: int) -> None:
    grid = np.random.default_rng(seed).integers(0, 10, (8, 8))
    for row in range(8):
        cells = [answer(cell_question(row, column), grid) for column in range(8)]
        assert cells == [str(digit) for digit in grid[row]]
        assert answer(row_question(row), grid.tolist()) == " ".join(cells)
        counts = [int(answer(count_question(digit, row), grid)) for digit in range(10)]
        assert sum(counts) == 8
        assert counts == [cells.count(str(digit)) for digit in range(10)]


def test_every_question_is_distinct_and_has_its_kind() -> None:
    questions = all_questions()
    assert len(set(questions)) == len(questions) == 64 + 8 + 80
    assert [kind_of(question) for question in questions] == ["cell"] * 64 + ["row"] * 8 + ["count"] * 80


@pytest.mark.parametrize(
    "question",
    ["", "Read row 9.", "Read row 0.", "What digit is at row 3 column 5", "How many 10s are in row 1?", "Read row 1. "],
)
def test_unknown_question_is_refused_with_the_known_forms(question: str) -> None:
    with pytest.raises(ValueError, match="known forms"):
        kind_of(question)
    with pytest.raises(ValueError, match="known forms"):
        answer(question, np.zeros((8, 8), dtype=int))


def test_grid_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(8, 8\)"):
        answer("Read row 1.", np.zeros((8, 7), dtype=int))


@given(seed=seeds, turns=st.integers(1, 64))
@settings(max_examples=40, deadline=None)
def test_dialogue_is_distinct_true_and_repeatable(seed: int, turns: int) -> None:
    grid = np.random.default_rng(seed).integers(0, 10, (8, 8))
    dialogue = sample_dialogue(grid, np.random.default_rng(seed), turns)
    assert len({turn.question for turn in dialogue}) == len(dialogue) == turns
    assert all(turn.answer == answer(turn.question, grid) for turn in dialogue)
    assert dialogue == sample_dialogue(grid, np.random.default_rng(seed), turns)


def test_dialogue_follows_the_mix() -> None:
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 10, (8, 8))
    for index, kind in enumerate(KINDS):
        mix = [float(index == other) for other in range(3)]
        assert {kind_of(turn.question) for turn in sample_dialogue(grid, rng, 2, mix)} == {kind}
    asked = [kind_of(turn.question) for _ in range(200) for turn in sample_dialogue(grid, rng)]
    assert [asked.count(kind) / len(asked) for kind in KINDS] == pytest.approx([0.64, 0.16, 0.2], abs=0.04)


@pytest.mark.parametrize(
    ("turns", "mix", "message"),
    [
        (0, (1, 0, 0), "turns"),
        (65, (1, 0, 0), "turns"),
        (4, (1, 1, 0), "mix"),
        (4, (2, -1, 0), "mix"),
        (4, (1,), "mix"),
    ],
)
def test_bad_dialogue_arguments_are_refused(turns: int, mix: tuple[float, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_dialogue(np.zeros((8, 8), dtype=int), np.random.default_rng(0), turns, mix)


def test_chat_text_puts_the_picture_before_the_first_question() -> None:
    text = chat_text([Turn("Read row 1.", "1 2"), Turn("Q?", "3")], image="#")
    assert text == (
        "<|im_start|>user\n<|vision_start|>#<|vision_end|>Read row 1.<|im_end|>\n<|im_start|>assistant\n1 2<|im_end|>\n"
        "<|im_start|>user\nQ?<|im_end|>\n<|im_start|>assistant\n3<|im_end|>\n"
    )


@pytest.mark.parametrize("number", [1, 2])
def test_sample_dialogues_are_true(number: int) -> None:
    sample = json.loads((samples_dir() / f"sample-{number}.json").read_text(encoding="utf-8"))
    assert len(sample["dialogue"]) >= 8
    assert all(turn["answer"] == answer(turn["question"], sample["grid"]) for turn in sample["dialogue"])
