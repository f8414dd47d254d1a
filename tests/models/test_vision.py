"""The vision graph against each family's own image processor and `get_image_features`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retentive_export.errors import ModelError
from retentive_export.models import adapter_for
from tests.factories import (
    VISION_FAMILIES,
    make_adapter,
    make_config,
    make_image_processor,
    make_model,
    make_processor,
    make_tokenizer,
    photograph,
)

FRAMES = [(60, 80), (97, 41), (32, 32)]
# name -> (family, changes of the configuration, changes of the image processor)
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    **{family: (family, {}, {}) for family in VISION_FAMILIES},
    "qwen3_vl without resize": ("qwen3_vl", {}, {"do_resize": False}),
    "llava full": ("llava", {"vision_feature_select_strategy": "full"}, {}),
    "llava two layers": ("llava", {"vision_feature_layer": [-2, -1]}, {}),
    "llava square resize": ("llava", {}, {"size": {"height": 56, "width": 56}}),
    "llava small resize": ("llava", {}, {"size": {"shortest_edge": 40}}),
    "idefics3 one picture": ("idefics3", {}, {"do_image_splitting": False}),
    "smolvlm fixed size": ("smolvlm", {}, {"size": {"height": 64, "width": 96}}),
    "smolvlm small frames": ("smolvlm", {}, {"size": {"longest_edge": 32}}),
    "idefics3 without resize": ("idefics3", {}, {"do_resize": False}),
    "llava raw pixels": ("llava", {}, {"do_rescale": False}),
}


def _adapter(variant: str) -> Any:
    family, config, processor = VARIANTS[variant]
    model = make_model(family, **config)
    return adapter_for(model, make_tokenizer(family), make_image_processor(family, **processor))


def _frames(variant: str) -> list[tuple[int, int]]:
    return [(64, 80), (32, 48)] if "qwen3_vl without" in variant else FRAMES


def _pixels(adapter: Any, module: Any, frames: torch.Tensor) -> torch.Tensor:
    return module.patchify(frames) if adapter.family == "qwen3_vl" else module.pixels(frames)


def _features(adapter: Any, inputs: Any) -> tuple[torch.Tensor, Any]:
    """Hugging Face's own features: [tokens, hidden], deepstack features or None."""
    names = [name for name in ("image_grid_thw", "pixel_attention_mask") if name in inputs]
    output = adapter.model.get_image_features(inputs["pixel_values"], **{name: inputs[name] for name in names})
    pooled = output.pooler_output
    pooled = torch.cat(list(pooled)) if isinstance(pooled, list | tuple) else pooled.reshape(-1, pooled.shape[-1])
    return pooled, getattr(output, "deepstack_features", None)


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_pixels_and_features_equal_hugging_face(variant: str) -> None:
    adapter = _adapter(variant)
    for frame in _frames(variant):
        pictures = [photograph(frame), photograph(frame, "chelsea")]
        module = adapter.vision_module(frame)
        frames = torch.from_numpy(np.stack(pictures))
        output = module(frames)
        embeds, deep = output if isinstance(output, tuple) else (output, None)
        layout = adapter.vision_layout(frame)
        assert embeds.shape == (2, layout.tokens, adapter.text_shape().hidden)
        assert (deep.shape[1] if deep is not None else 0) == layout.deep_layers
        for index, picture in enumerate(pictures):
            inputs = adapter.image_processor(images=[Image.fromarray(picture)], return_tensors="pt")
            pixels = _pixels(adapter, module, frames)[index]
            expected = inputs["pixel_values"].reshape(pixels.shape).float()
            torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)
            features, deepstack = _features(adapter, inputs)
            torch.testing.assert_close(embeds[index], features, atol=1e-5, rtol=0)
            for layer, feature in enumerate(deepstack or []):
                torch.testing.assert_close(deep[index, layer], feature, atol=1e-5, rtol=0)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "raw" not in name])
def test_block_equals_the_processor_expansion(variant: str) -> None:
    adapter = _adapter(variant)
    processor = make_processor(adapter)
    before, after = adapter.tokenizer.encode("is", add_special_tokens=False), "it?"
    for frame in _frames(variant):
        picture = Image.fromarray(photograph(frame))
        text = "is" + adapter.image_markup + after
        inputs = processor(images=[picture], text=text, add_special_tokens=False)
        ids = list(inputs["input_ids"][0])
        layout = adapter.vision_layout(frame)
        end = len(before) + len(layout.block_ids)
        assert ids[:end] == before + layout.block_ids
        assert adapter.tokenizer.decode(ids[end:]).strip() == after


def test_tile_cells_follow_the_picture() -> None:
    """A bright spot moves the visual tokens at its cell most, in the tiles and in the overview."""
    adapter = _adapter("smolvlm")
    frame = (64, 96)
    layout = adapter.vision_layout(frame)
    assert (layout.grid, layout.tokens) == ((4, 6), 4 * 6 + 4)
    cells = [cell for cell in layout.block_cells if cell is not None]
    assert sorted(cells[:24]) == [(row, col) for row in range(4) for col in range(6)]
    assert cells[24:] == [(1, 1), (1, 4), (3, 1), (3, 4)]
    module = adapter.vision_module(frame)
    for row, col in [(0, 0), (2, 5), (3, 1)]:
        spot = torch.zeros((1, *frame, 3), dtype=torch.uint8)
        spot[:, 16 * row : 16 * row + 16, 16 * col : 16 * col + 16] = 255
        moved = (module.pixels(spot) - module.pixels(torch.zeros_like(spot))).abs().sum(dim=2)[0]  # [pictures, 32, 32]
        patches = moved.reshape(-1, 2, 16, 2, 16).sum(dim=(2, 4)).reshape(-1)
        assert cells[int(patches[:24].argmax())] == (row, col)
        overview = cells[24 + int(patches[24:].argmax())]
        assert abs(overview[0] - row) <= 1
        assert abs(overview[1] - col) <= 2


@pytest.mark.parametrize("frame", [(64, 96), (96, 64), (33, 150)])
def test_qwen_positions_equal_get_rope_index(frame: tuple[int, int]) -> None:
    """Two frames between texts: positions and what comes after them, as the model itself computes them."""
    from tests.factories import Prompt

    adapter = make_adapter("qwen3_vl")
    words = adapter.tokenizer.encode("Where is it?", add_special_tokens=False)
    picture = photograph(frame)
    prompt = Prompt(adapter).text(words).frame(picture).text(words).frame(picture).text(words)
    ids = torch.tensor([prompt.ids])
    grid = adapter.image_processor(images=[Image.fromarray(picture)] * 2, return_tensors="pt")["image_grid_thw"]
    types = (ids == adapter.config.image_token_id).int()
    expected, delta = adapter.model.model.get_rope_index(ids, types, image_grid_thw=grid)
    assert prompt.positions == expected[:, 0].tolist()
    assert prompt.next_position == len(prompt.ids) + int(delta)


def test_llava_pads_to_a_square() -> None:
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    size = {"shortest_edge": 56}
    processor = LlavaImageProcessorPil(do_pad=True, size=size, crop_size={"height": 56, "width": 56})
    adapter = adapter_for(make_model("llava"), make_tokenizer("llava"), processor)
    for frame in FRAMES:
        picture = photograph(frame)
        expected = processor(images=[Image.fromarray(picture)], return_tensors="pt")["pixel_values"][0]
        pixels = adapter.vision_module(frame).pixels(torch.from_numpy(picture.copy())[None])[0]
        torch.testing.assert_close(pixels, expected, atol=1e-5, rtol=0)


def test_wrong_sizes_are_refused() -> None:
    llava = adapter_for(
        make_model("llava"),
        make_tokenizer("llava"),
        make_image_processor("llava", crop_size={"height": 42, "width": 42}),
    )
    with pytest.raises(ModelError, match=r"\(42, 42\).*image_size=56"):
        llava.vision_module((60, 80))
    processor = make_image_processor("idefics3", max_image_size={"longest_edge": 64})
    idefics3 = adapter_for(make_model("idefics3"), make_tokenizer("idefics3"), processor)
    with pytest.raises(ModelError, match="max_image_size=64"):
        idefics3.vision_layout((60, 80))
    for frame in [(0, 10), (10,), ("a", 3)]:
        with pytest.raises(ModelError, match="expected \\(height, width\\)"):
            llava.vision_layout(frame)


def test_class_token_has_the_middle_cell() -> None:
    layout = _adapter("llava full").vision_layout((60, 80))
    assert layout.tokens == 17
    assert layout.block_cells[0] == (2, 2)
    assert make_config("llava").vision_feature_select_strategy == "default"
