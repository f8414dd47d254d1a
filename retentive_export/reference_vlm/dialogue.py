"""Questions about a grid of digits and their true answers.

Three kinds: a single cell ("What digit is at row 3 column 5?"), a whole row ("Read row 2.") and a count
("How many 4s are in row 6?"). Rows and columns count from 1, top left first. A dialogue asks many of them in random
order, so that what a later question needs was unremarkable when an earlier one was asked.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .pictures import GRID

__all__ = [
    "DEFAULT_MIX", "KINDS", "Turn", "all_questions", "answer", "cell_question", "chat_text", "count_question",
    "kind_of", "row_question", "sample_dialogue",
]  # fmt: skip

KINDS = ("cell", "row", "count")
DEFAULT_MIX = (0.6, 0.2, 0.2)
"""Share of each of `KINDS` in a dialogue."""

_CELL = re.compile(r"What digit is at row ([1-8]) column ([1-8])\?")
_ROW = re.compile(r"Read row ([1-8])\.")
_COUNT = re.compile(r"How many ([0-9])s are in row ([1-8])\?")

Grid = NDArray[np.integer] | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Turn:
    """One question and its true answer."""

    question: str
    answer: str


def cell_question(row: int, column: int) -> str:
    """Question for one cell; `row` and `column` count from 0."""
    return f"What digit is at row {row + 1} column {column + 1}?"


def row_question(row: int) -> str:
    """Question for a whole row; `row` counts from 0."""
    return f"Read row {row + 1}."


def count_question(digit: int, row: int) -> str:
    """Question for how often `digit` occurs in a row; `row` counts from 0."""
    return f"How many {digit}s are in row {row + 1}?"


def all_questions() -> list[str]:
    """Every question: 64 cells (row-major), then 8 rows, then 80 counts (digit-major)."""
    cells = [cell_question(row, column) for row in range(GRID) for column in range(GRID)]
    rows = [row_question(row) for row in range(GRID)]
    counts = [count_question(digit, row) for digit in range(10) for row in range(GRID)]
    return cells + rows + counts


def kind_of(question: str) -> str:
    """Which of `KINDS` a question is.

    Raises:
        ValueError: not a question of this module.
    """
    for kind, pattern in zip(KINDS, (_CELL, _ROW, _COUNT), strict=True):
        if pattern.fullmatch(question):
            return kind
    raise ValueError(
        f"not a question about a digit grid: {question!r}; known forms: 'What digit is at row 3 column 5?', "
        "'Read row 2.', 'How many 4s are in row 6?'"
    )


def answer(question: str, grid: Grid) -> str:
    """The true answer.

    Args:
        question: one of the three forms.
        grid: the digits. [8, 8]

    Raises:
        ValueError: not a question of this module, or a grid of another shape.
    """
    digits = np.asarray(grid)
    if digits.shape != (GRID, GRID):
        raise ValueError(f"grid must have shape (8, 8), got {digits.shape}")
    kind_of(question)
    if match := _CELL.fullmatch(question):
        return str(int(digits[int(match[1]) - 1, int(match[2]) - 1]))
    if match := _ROW.fullmatch(question):
        return " ".join(str(int(digit)) for digit in digits[int(match[1]) - 1])
    match = _COUNT.fullmatch(question)
    assert match is not None  # kind_of has matched one of the three
    return str(int((digits[int(match[2]) - 1] == int(match[1])).sum()))


def sample_dialogue(
    grid: Grid, rng: np.random.Generator, turns: int = 16, mix: Sequence[float] = DEFAULT_MIX
) -> list[Turn]:
    """Draw a dialogue of distinct questions in random order.

    Half of the counts ask for a digit that the row holds, the others for any digit.

    Args:
        grid: the digits. [8, 8]
        rng: source of randomness; the same state gives the same dialogue.
        turns: number of questions, 1..64.
        mix: shares of cell, row and count questions, summing to 1. When all 8 rows have been read, a cell is asked.

    Raises:
        ValueError: `turns` outside 1..64, or a mix that is no distribution over the three kinds.
    """
    shares = np.asarray(mix, dtype=np.float64)
    if not 1 <= turns <= GRID * GRID:
        raise ValueError(f"turns must lie in 1..64, got {turns}")
    if shares.shape != (3,) or (shares < 0).any() or abs(shares.sum() - 1) > 1e-6:
        raise ValueError(f"mix must be three shares that sum to 1, got {tuple(mix)}")
    digits = np.asarray(grid)
    asked: dict[str, None] = {}
    while len(asked) < turns:
        kind = KINDS[int(rng.choice(3, p=shares))]
        question = _sample_question(kind, digits, rng)
        if question in asked and kind != "cell":
            question = _sample_question("cell", digits, rng)
        asked.setdefault(question)
    return [Turn(question, answer(question, digits)) for question in asked]


def _sample_question(kind: str, digits: NDArray[np.integer], rng: np.random.Generator) -> str:
    row = int(rng.integers(GRID))
    if kind == "cell":
        return cell_question(row, int(rng.integers(GRID)))
    if kind == "row":
        return row_question(row)
    present = rng.random() < 0.5
    digit = int(rng.choice(digits[row])) if present else int(rng.integers(10))
    return count_question(digit, row)


def chat_text(turns: Sequence[Turn], image: str = "<|image_pad|>") -> str:
    """The dialogue as the model's chat template writes it, the picture before the first question.

    Args:
        turns: questions and answers.
        image: what stands for the picture; repeat the placeholder 256 times to get the model's input.
    """
    parts = []
    for index, turn in enumerate(turns):
        picture = f"<|vision_start|>{image}<|vision_end|>" if index == 0 else ""
        parts.append(f"<|im_start|>user\n{picture}{turn.question}<|im_end|>\n")
        parts.append(f"<|im_start|>assistant\n{turn.answer}<|im_end|>\n")
    return "".join(parts)
