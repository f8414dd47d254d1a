"""A model's config.json and preprocessor_config.json as plain data, without the libraries that write them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from retentive_export.errors import ModelError
from retentive_export.spec.plain import plain_copy, plain_yaml
from retentive_export.spec.recipe import ModelSection
from retentive_export.spec.sources import locate

__all__ = ["ModelConfig", "known_sources", "model_config", "with_defaults"]


_FIXES_HEAD_DIM = ("llama", "mistral")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Fields of a model, complete: a field that its file leaves out has the default of transformers.

    config: of config.json, with the recipe's overrides. processor: of preprocessor_config.json, {} for text. origin:
    where they come from, in words.
    """

    config: dict[str, Any]
    processor: dict[str, Any]
    origin: str


def model_config(model: ModelSection) -> ModelConfig:
    """The configuration that a recipe's model has, from its directory, or from `shapes.yaml` for a source known there.

    Raises:
        ModelError: there is neither, a file is no JSON, or an override names no field.
    """
    location, _ = locate(model)
    if isinstance(location, Path) and (location / "config.json").is_file():
        config = _read_json(location / "config.json")
        processor, origin = _local_processor(location), str(location / "config.json")
    elif model.source in _data("shapes.yaml"):
        shape = plain_copy(_data("shapes.yaml")[model.source])
        config, processor, origin = shape["config"], shape.get("processor", {}), f"{model.source}, as published"
    else:
        raise _unknown(model, location)
    complete = with_defaults(config)
    _override(complete, model.config_overrides)
    return ModelConfig(config=complete, processor=_processor_defaults(complete, processor), origin=origin)


def known_sources() -> tuple[str, ...]:
    """Values of `model.source` whose shapes the package carries."""
    return tuple(_data("shapes.yaml"))


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` and its sub-configurations, with what transformers adds to each model type."""
    defaults: dict[str, Any] = plain_copy(_data("defaults.yaml")["models"].get(config.get("model_type"), {}))
    merged = {**defaults, **plain_copy(config)}
    for name in ("text_config", "vision_config"):
        if name in defaults or name in config:
            own = defaults.get(name, {})
            given = config.get(name)  # what it leaves out are its own type's defaults, not this family's
            inner = own if given is None else {"model_type": own.get("model_type"), **given}
            merged[name] = with_defaults(inner)
    if "num_attention_heads" in merged and "vocab_size" in merged:
        _derive(merged)
    return merged


def _derive(text: dict[str, Any]) -> None:
    """What a language model's config computes from its other fields once, before any override."""
    if text.get("num_key_value_heads") is None:
        text["num_key_value_heads"] = text["num_attention_heads"]
    if text.get("model_type") in _FIXES_HEAD_DIM and text.get("head_dim") is None:
        text["head_dim"] = text["hidden_size"] // text["num_attention_heads"]


def _processor_defaults(config: Mapping[str, Any], processor: Mapping[str, Any]) -> dict[str, Any]:
    defaults: dict[str, Any] = plain_copy(_data("defaults.yaml")["processors"].get(config.get("model_type"), {}))
    return {**defaults, **processor}


@cache
def _data(name: str) -> dict[str, Any]:
    data: dict[str, Any] = plain_yaml((Path(__file__).parent / name).read_text(encoding="utf-8"))
    return data


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} is not readable JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} holds {type(data).__name__}, and must hold an object")
    return data


def _local_processor(directory: Path) -> dict[str, Any]:
    """The image processor's fields; transformers looks into processor_config.json first."""
    whole = directory / "processor_config.json"
    if whole.is_file() and isinstance(nested := _read_json(whole).get("image_processor"), dict):
        return nested
    path = directory / "preprocessor_config.json"
    return _read_json(path) if path.is_file() else {}


def _override(config: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    for path, value in overrides.items():
        *parents, name = path.split(".")
        target: Any = config
        for parent in parents:
            target = target.get(parent) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise ModelError(
                f"config_overrides: {config.get('model_type')} has no field {path!r}",
                hint="use the names of the model's config.json, with dots into sub-configurations",
            )
        target[name] = value


def _unknown(model: ModelSection, location: Path | str) -> ModelError:
    if isinstance(location, Path):
        return ModelError(
            f"model.source is {model.source!r}, and {location} holds no config.json",
            hint="give the directory of a Hugging Face model; for a GGUF file put the model's config.json beside it",
        )
    return ModelError(
        f"model.source is {model.source!r}, whose sizes are not known here; known are: {', '.join(known_sources())}",
        hint=f"hf download {model.source} config.json preprocessor_config.json --local-dir DIR, and plan with DIR",
    )
