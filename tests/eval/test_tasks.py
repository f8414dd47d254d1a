"""Tasks: what is scored is what was asked, held-out data stay held out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retentive_export
from retentive_export.errors import InputError
from retentive_export.eval.streams import Stream
from retentive_export.eval.tasks import task
from retentive_export.eval.texts import held_out_texts, text_hashes
from retentive_export.reference_vlm.pictures import load_digit_sets

CALIBRATION = Path(retentive_export.__file__).parent / "calibration"


class Bytes:
    """Stands for an engine whose tokens are bytes."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())


def words(ids: np.ndarray) -> str:
    return bytes(ids.tolist()).decode(errors="replace")


def streams(name: str, count: int, seed: int = 0, **sizes: int) -> list[Stream]:
    engine: Any = Bytes()
    return task(name, **sizes).streams(engine, count, seed)


def test_text_is_scored_behind_its_context_and_passages_do_not_overlap() -> None:
    found = streams("text", 30, tokens=500, context=400)
    for one in found:
        assert one.breaks == (400,)
        np.testing.assert_array_equal(one.unit >= 0, np.arange(500) >= 400)
    assert len({one.input_ids.tobytes() for one in found}) == 30
    names = len(held_out_texts())
    for text in {words(one.input_ids)[:60] for one in found[:names]}:
        assert sum(text in whole for _, whole in held_out_texts()) == 1  # the first ones are of different texts


def test_more_passages_than_there_are_is_refused() -> None:
    with pytest.raises(InputError, match="passages of 60000 tokens"):
        streams("text", 500, tokens=60000, context=10)
    with pytest.raises(InputError, match="less than tokens"):
        streams("text", 1, tokens=100, context=100)


def test_texts_are_long_real_and_not_those_of_the_calibration() -> None:
    said = {
        line.strip()
        for name in ("default", "text")
        for dialogue in (CALIBRATION / name / "dialogues.jsonl").read_text().splitlines()
        for turn in json.loads(dialogue)["dialogue"]
        for line in turn["answer"].splitlines()
        if len(line.strip()) > 40
    }
    assert len(said) > 200
    for name, text in held_out_texts():
        assert len(text) > 6000, name
        assert not [one for one in said if one in text]
    assert len(set(text_hashes().values())) == len(held_out_texts())


def test_pairs_ask_for_what_was_said() -> None:
    (one,) = streams("pairs", 1, pairs=12, asked=5)
    said, asked = words(one.input_ids[: one.breaks[0]]), one.input_ids[one.breaks[0] :]
    assert said.count("The code of ") == 12
    for line in words(asked).strip().splitlines():
        assert line in said
    for unit in range(5):
        assert words(one.input_ids[one.unit == unit]).isdecimal()


def test_a_needle_is_in_the_hay_once_and_its_number_is_what_is_asked() -> None:
    for one in streams("needle", 6, tokens=600):
        said = words(one.input_ids[: one.breaks[0]])
        assert said.count("The secret number of the castle is ") == 1
        assert f"castle is {words(one.input_ids[one.unit == 0])}. Remember" in said


@pytest.mark.parametrize("name", ["text", "pairs", "needle"])
def test_a_seed_gives_the_same_streams_and_another_gives_others(name: str) -> None:
    sizes = {"text": {"tokens": 500, "context": 300}, "pairs": {}, "needle": {"tokens": 500}}[name]
    first, again, other = (streams(name, 3, seed, **sizes) for seed in (1, 1, 2))
    assert [one.input_ids.tobytes() for one in first] == [one.input_ids.tobytes() for one in again]
    assert [one.input_ids.tobytes() for one in first] != [one.input_ids.tobytes() for one in other]


def test_no_held_out_bitmap_is_one_of_the_training_s() -> None:
    train, held_out = load_digit_sets()
    seen = {bitmap.tobytes() for bitmap in train.bitmaps}
    assert not [one for one in held_out.bitmaps if one.tobytes() in seen]
