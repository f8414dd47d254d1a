"""The decoder with a full cache says what Hugging Face's `generate` says."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from retentive_export.errors import ModelError, ModelNotSupportedError
from tests.factories import (
    TEXT_TYPES,
    VISION_FAMILIES,
    CausalLoop,
    Prompt,
    make_adapter,
    make_processor,
    photograph,
)


def _encode(adapter: Any, text: str) -> list[int]:
    return list(adapter.tokenizer.encode(text, add_special_tokens=False))


def _generate(adapter: Any, inputs: Any, count: int) -> list[int]:
    before = inputs["input_ids"].shape[1]
    output = adapter.model.generate(**inputs, max_new_tokens=count, do_sample=False)
    return list(output[0, before:].tolist())


@pytest.mark.parametrize(("family", "chunk"), [*((family, 7) for family in VISION_FAMILIES), ("qwen3_vl", 1000)])
def test_64_tokens_after_two_pictures(family: str, chunk: int) -> None:
    adapter = make_adapter(family, seed=1)
    pictures = [photograph((70, 90)), photograph((70, 90), "chelsea")]
    parts = [{"type": "image"}, {"type": "image"}, {"type": "text", "text": "Where is the cat?"}]
    text = adapter.tokenizer.apply_chat_template(
        [{"role": "user", "content": parts}], tokenize=False, add_generation_prompt=True
    )
    bos = adapter.tokenizer.bos_token
    inputs = make_processor(adapter)(
        images=[Image.fromarray(picture) for picture in pictures],
        text=text,
        return_tensors="pt",
        add_special_tokens=not (bos and text.startswith(bos)),
    )
    layout = adapter.dialogue_layout()
    prompt, remaining = Prompt(adapter).text(layout.prefix), iter(pictures)
    for piece in layout.user_turn(lambda words: _encode(adapter, words), "Where is the cat?", frames=2):
        if piece is None:
            prompt.frame(next(remaining))
        else:
            prompt.text(piece)
    assert prompt.ids == inputs["input_ids"][0].tolist()
    assert prompt.greedy(64, chunk=chunk) == _generate(adapter, inputs, 64)


@pytest.mark.parametrize("family", TEXT_TYPES)
def test_64_tokens_of_text(family: str) -> None:
    adapter = make_adapter(family, seed=1)
    ids = _encode(adapter, "What is the sum of row 3?")
    expected = _generate(adapter, {"input_ids": torch.tensor([ids])}, 64)
    assert len(set(expected)) > 4
    assert Prompt(adapter).text(ids).greedy(64, chunk=5) == expected


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_scaled_rope_follows_the_positions(scaling: str) -> None:
    fields: dict[str, Any] = {"rope_type": scaling, "rope_theta": 1000.0, "factor": 4.0}
    fields["original_max_position_embeddings"] = 16
    if scaling == "llama3":
        fields |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    if scaling == "linear":
        fields.pop("original_max_position_embeddings")
    adapter = make_adapter("llama", rope_parameters=fields)
    ids = _encode(adapter, "What is the sum of row 3?")
    expected = _generate(adapter, {"input_ids": torch.tensor([ids])}, 20)
    assert Prompt(adapter).text(ids).greedy(20) == expected


@torch.no_grad()
def test_batch_and_last_only() -> None:
    adapter = make_adapter("qwen3")
    decoder = adapter.decoder_module()
    ids = torch.randint(0, 300, (2, 6))
    positions = torch.arange(6).expand(2, 6)
    logits = decoder(ids, position_ids=positions, loop=CausalLoop())
    assert logits.shape == (2, 6, adapter.text_shape().vocab)
    expected = adapter.model(ids).logits
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=0)
    last = decoder(ids, position_ids=positions, loop=CausalLoop(), last_only=True)
    torch.testing.assert_close(last, expected[:, -1:], atol=1e-5, rtol=0)


@torch.no_grad()
def test_far_positions_keep_their_differences() -> None:
    """Logits depend on relative positions only, also a million tokens into a stream (float32 angles)."""
    adapter = make_adapter("llama")
    ids = torch.randint(0, 300, (1, 6))
    near = adapter.decoder_module()(ids, position_ids=torch.arange(6)[None], loop=CausalLoop())
    far = adapter.decoder_module()(ids, position_ids=torch.arange(6)[None] + 1_000_000, loop=CausalLoop())
    torch.testing.assert_close(near, far, atol=0.3, rtol=0)
    other = adapter.decoder_module()(ids, position_ids=torch.arange(6)[None] * 3, loop=CausalLoop())
    assert (near - other).abs().max() > (near - far).abs().max() * 3


@torch.no_grad()
def test_the_model_is_left_as_it_was() -> None:
    adapter = make_adapter("qwen3_vl")
    before = adapter.text_config._attn_implementation
    prompt = Prompt(adapter).frame(photograph((64, 64)))
    assert prompt.inputs()["deep"].abs().max() > 0
    hooks = [len(layer._forward_hooks) for layer in adapter.layers]
    adapter.decoder_module()(**prompt.inputs(), loop=CausalLoop())
    with pytest.raises(TypeError, match="loop"):
        adapter.decoder_module()(**prompt.inputs())
    assert adapter.text_config._attn_implementation == before
    assert [len(layer._forward_hooks) for layer in adapter.layers] == hooks


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_half_types(dtype: torch.dtype) -> None:
    adapter = make_adapter("qwen3_vl", dtype=dtype)
    prompt = Prompt(adapter).frame(photograph((64, 64))).text([5, 6, 7])
    logits = adapter.decoder_module()(**prompt.inputs(), loop=CausalLoop())
    assert logits.dtype == dtype
    single = make_adapter("qwen3_vl")
    single.model.load_state_dict(adapter.model.state_dict())
    expected = single.decoder_module()(
        **Prompt(single).frame(photograph((64, 64))).text([5, 6, 7]).inputs(), loop=CausalLoop()
    )
    spread = expected.max() - expected.min()
    assert (logits.float() - expected).abs().max() < (0.01 if dtype == torch.float16 else 0.06) * spread


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("mistral", {"sliding_window": 128}, "sliding_window=128 is active"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}, "sliding_window=64"),
        ("llama", {"attn_logit_softcapping": 30.0}, "attn_logit_softcapping=30.0"),
        ("llama", {"is_causal": False}, "is_causal=False"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "'dynamic'"),
        ("qwen3", {"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "chunked_attention"),
    ],
)
def test_what_the_loop_cannot_do_is_refused(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelNotSupportedError, match=message):
        make_adapter(family, **changes)


def test_an_inactive_window_is_accepted() -> None:
    assert make_adapter("mistral", sliding_window=1024).text_shape().max_positions == 1024


def test_halved_frequencies_are_refused() -> None:
    from retentive_export.models import adapter_for

    adapter = make_adapter("llama")
    with pytest.raises(ModelError, match=r"inv_freq are torch\.float16"):
        adapter_for(adapter.model.half(), adapter.tokenizer)


def test_non_causal_layers_and_masks_are_refused() -> None:
    from retentive_export.models.attention import retentive_attention_forward

    module = make_adapter("llama").layers[0].self_attn
    query = torch.zeros(1, 4, 2, 16)
    key = torch.zeros(1, 2, 2, 16)
    loop = CausalLoop()
    with pytest.raises(ModelNotSupportedError, match="attention_mask"):
        retentive_attention_forward(module, query, key, key, torch.ones(1), loop=loop)
    with pytest.raises(ModelNotSupportedError, match="not causal"):
        retentive_attention_forward(module, query, key, key, None, loop=loop, is_causal=False)
    with pytest.raises(ModelNotSupportedError, match="softcap"):
        retentive_attention_forward(module, query, key, key, None, loop=loop, softcap=30.0)
    output, weights = retentive_attention_forward(module, query, key, key, None, loop=loop)
    assert output.shape == (1, 2, 4, 16)
    assert weights is None
