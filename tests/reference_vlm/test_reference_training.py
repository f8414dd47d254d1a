"""The training script's fast path against transformers: positions, logits, patches, pictures, dialogues."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from retentive_export.reference_vlm import dialogue, pictures, weights_dir

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
CPU = torch.device("cpu")
TEXT_TOKENS = 384


@pytest.fixture(scope="module")
def scripts() -> SimpleNamespace:
    sys.path.insert(0, str(SCRIPTS))
    try:
        import reference_vlm_model
        import train_reference_vlm
    finally:
        sys.path.remove(str(SCRIPTS))
    return SimpleNamespace(model=reference_vlm_model, train=train_reference_vlm)


@pytest.fixture(scope="module")
def vlm() -> Any:
    from transformers import Qwen3VLForConditionalGeneration

    return Qwen3VLForConditionalGeneration.from_pretrained(weights_dir(), dtype=torch.float32).eval()


def test_shipped_tokenizer_is_the_one_the_script_builds(scripts: SimpleNamespace) -> None:
    import json

    shipped = json.loads((weights_dir() / "tokenizer.json").read_text(encoding="utf-8"))
    assert json.loads(scripts.model.build_tokenizer().to_str()) == shipped


def test_batched_forward_equals_the_model(scripts: SimpleNamespace, vlm: Any) -> None:
    torch.manual_seed(0)
    dialogues = scripts.train.Dialogues(scripts.model.build_tokenizer(), CPU, dialogue.DEFAULT_MIX)
    grid, rows, columns = scripts.train.sample_grids(2, 0.5, CPU)
    tokens, _, _ = dialogues.sample(grid, rows, columns)
    patches = scripts.train.Painter(pictures.load_digit_sets()[1], CPU).draw(grid, True)
    image = vlm.config.image_token_id
    ids = torch.cat([tokens[:, :4], torch.full((2, 256), image), tokens[:, 4:]], dim=1)
    kinds, shape = (ids == image).int(), torch.tensor([[1, 32, 32]] * 2)
    positions, _ = vlm.model.get_rope_index(ids, kinds, shape)
    assert (positions == scripts.model.BatchedForward.sequence_positions(TEXT_TOKENS)).all()
    batched = scripts.model.BatchedForward(vlm, TEXT_TOKENS)
    with torch.inference_mode():
        logits = batched.read(batched.see(patches), tokens)
        expected = vlm(
            input_ids=ids, pixel_values=patches.flatten(0, 1), image_grid_thw=shape, mm_token_type_ids=kinds
        ).logits
    assert (logits - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_drawn_patches_equal_the_processor_on_the_rendered_picture(scripts: SimpleNamespace) -> None:
    from PIL import Image
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    bitmaps = pictures.load_digit_sets()[1].bitmaps[:64]
    digits = pictures.DigitSet(bitmaps=bitmaps[:10], labels=np.arange(10))
    grid = np.random.default_rng(0).integers(0, 10, (8, 8))
    drawn = scripts.train.Painter(digits, CPU).draw(torch.tensor(grid)[None], False)[0]
    picture = pictures.render(digits.bitmaps[grid])
    processor = Qwen2VLImageProcessorPil.from_pretrained(weights_dir())
    expected = processor(Image.fromarray(picture), return_tensors="pt")
    assert expected["image_grid_thw"].tolist() == [[1, 32, 32]]
    difference = (drawn - expected["pixel_values"]).abs()
    assert difference.max() <= 2.01 / 255  # one grey level, where float rounding meets a tie
    assert (difference > 1e-6).float().mean() < 0.05


def test_dialogues_on_the_device_are_true_and_masked_on_answers(scripts: SimpleNamespace) -> None:
    torch.manual_seed(1)
    tokenizer = scripts.model.build_tokenizer()
    dialogues = scripts.train.Dialogues(tokenizer, CPU, dialogue.DEFAULT_MIX)
    grid, rows, columns = scripts.train.sample_grids(6, 0.7, CPU)
    tokens, mask, turn = dialogues.sample(grid, rows, columns)
    assert tokens.shape == mask.shape == turn.shape == (6, TEXT_TOKENS)
    for batch in range(6):
        text = tokenizer.decode(tokens[batch].tolist(), skip_special_tokens=False)
        whole = text[: text.rindex("<|im_start|>user\n")]
        turns = _parse(whole)
        assert len(turns) >= 12
        assert whole == dialogue.chat_text(turns, image="")
        assert all(one.answer == dialogue.answer(one.question, grid[batch].numpy()) for one in turns)
        learnt = tokenizer.decode(tokens[batch][mask[batch]].tolist(), skip_special_tokens=False)
        assert learnt.startswith("".join(f"{one.answer}<|im_end|>" for one in turns))
        kinds = {dialogue.kind_of(one.question) for one in turns}
        assert {dialogue.KINDS[index % 3] for index in turn[batch].tolist()} >= kinds


def _parse(text: str) -> list[dialogue.Turn]:
    parts = text.replace("<|vision_start|><|vision_end|>", "").split("<|im_start|>")[1:]
    said = [part.split("\n", 1)[1].removesuffix("<|im_end|>\n") for part in parts]
    return [dialogue.Turn(*pair) for pair in zip(said[::2], said[1::2], strict=True)]
