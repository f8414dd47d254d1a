"""Load a model with its tokenizer and image processor, and wrap it in its adapter."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from retentive_export.errors import ModelError, ModelNotSupportedError
from retentive_export.models.base import ModelAdapter
from retentive_export.models.registry import adapter_class
from retentive_export.spec.recipe import ModelSection
from retentive_export.spec.sources import locate

__all__ = ["load_model", "open_model"]

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def load_model(
    source: str | Path | Any,
    *,
    revision: str | None = None,
    gguf_file: str | None = None,
    dtype: str | torch.dtype = "float32",
    config_overrides: Mapping[str, Any] | None = None,
    random_seed: int | None = None,
    tokenizer: Any = None,
    image_processor: Any = None,
) -> ModelAdapter:
    """Load a model and return its adapter. No code of the checkpoint is run.

    Args:
        source: a local directory, a Hugging Face hub id ("owner/name"), or a configuration object (random weights).
        revision: commit of the hub repository, 40 hex digits; required for a hub id.
        gguf_file: name of the GGUF file in `source`, for a checkpoint in that format; else safetensors are read.
        dtype: "float32", "float16" or "bfloat16" (or the torch dtype); weights are loaded straight into it.
        config_overrides: configuration fields to change; dots reach into sub-configurations
            ("text_config.num_hidden_layers").
        random_seed: initialise random weights with this seed instead of reading any.
        tokenizer, image_processor: used instead of those of `source`; needed where `source` is a configuration.

    Raises:
        ModelError: a file is missing or unreadable, or an argument is wrong; names it, and what would be accepted.
        ModelNotSupportedError: the model's family is not supported; nothing large was read by then.
    """
    kwargs, location = _location(source, revision, gguf_file, random_seed)
    torch_dtype = _dtype(dtype)
    config = source if location is None else _config(location, kwargs)
    _override(config, config_overrides or {})
    adapter = adapter_class(config)
    if location is not None:
        tokenizer = tokenizer if tokenizer is not None else _tokenizer(location, config, kwargs)
        if adapter.takes_frames and image_processor is None:
            image_processor = _image_processor(adapter, location, kwargs)
    if tokenizer is None:
        raise ModelError(
            "tokenizer=None, but the source is a configuration without one",
            hint="pass tokenizer=, and image_processor= for a vision-language model",
        )
    if random_seed is None:
        model = _weights(adapter, location, config, torch_dtype, kwargs)
    else:
        model = _random(adapter, config, torch_dtype, random_seed)
    return adapter(model, tokenizer, image_processor)


def open_model(model: ModelSection) -> ModelAdapter:
    """The model of a recipe, as its section says.

    Raises:
        RecipeError: its package is not installed. ModelError, ModelNotSupportedError: see `load_model`.
    """
    source, gguf_file = locate(model)
    return load_model(
        source,
        revision=model.revision,
        gguf_file=gguf_file,
        dtype=model.dtype,
        config_overrides=model.config_overrides,
        random_seed=model.random_seed,
    )


def _location(
    source: Any, revision: str | None, gguf_file: str | None, random_seed: int | None
) -> tuple[dict[str, Any], str | None]:
    """(keyword arguments of every `from_pretrained`, directory or hub id); None for a configuration object."""
    if not isinstance(source, str | Path):
        if not hasattr(source, "model_type"):
            raise ModelError(f"source={source!r}, expected a directory, a hub id or a configuration")
        if random_seed is None:
            raise ModelError("random_seed=None, but the source is a configuration, which has no weights")
        return {}, None
    kwargs: dict[str, Any] = {"trust_remote_code": False}
    if gguf_file is not None:
        kwargs["gguf_file"] = gguf_file
    if Path(source).is_dir():
        if gguf_file is not None and not (Path(source) / gguf_file).is_file():
            raise ModelError(f"gguf_file={gguf_file!r}: no such file in {source}")
        return {**kwargs, "local_files_only": True}, str(source)
    if not _HUB_ID.fullmatch(str(source)):
        raise ModelError(f"source={str(source)!r} is neither a directory nor a hub id of the form owner/name")
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ModelError(
            f"revision={revision!r}, expected the 40 hex digits of a commit of {source}",
            hint="a branch or tag can change under a recipe; take the commit from the repository's history",
        )
    return {**kwargs, "revision": revision}, str(source)


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    name = str(dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise ModelError(f"dtype={name!r}, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _config(location: str, kwargs: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable("configuration", location, error) from error


def _override(config: Any, overrides: Mapping[str, Any]) -> None:
    for path, value in overrides.items():
        *parents, name = path.split(".")
        target = config
        for parent in parents:
            target = getattr(target, parent, None)
        if target is None or not hasattr(target, name):
            raise ModelError(
                f"config_overrides: {config.model_type} has no field {path!r}",
                hint="use the names of the model's config.json, with dots into sub-configurations",
            )
        setattr(target, name, value)


def _tokenizer(location: str, config: Any, kwargs: dict[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(location, config=config, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable("tokenizer", location, error) from error
    if getattr(tokenizer, "chat_template", None) is None:
        tokenizer.chat_template = _processor_template(location, kwargs)
    return tokenizer


def _processor_template(location: str, kwargs: dict[str, Any]) -> str | None:
    """The chat template that older checkpoints keep with the processor, in chat_template.json."""
    from transformers.utils.hub import cached_file

    path = cached_file(
        location,
        "chat_template.json",
        revision=kwargs.get("revision"),
        local_files_only=kwargs.get("local_files_only", False),
        _raise_exceptions_for_missing_entries=False,
    )
    if path is None:
        return None
    template = json.loads(Path(path).read_text(encoding="utf-8")).get("chat_template")
    return template if isinstance(template, str) else None


def _image_processor(adapter: type[ModelAdapter], location: str, kwargs: dict[str, Any]) -> Any:
    """The Pillow image processor; transformers' own choice by name would need torchvision for some families."""
    from transformers.image_processing_base import ImageProcessingMixin

    kwargs = {key: value for key, value in kwargs.items() if key in ("revision", "local_files_only")}
    known = {path.partition(":")[2].removesuffix("Pil"): path for path in adapter.image_processors}
    try:
        fields, _ = ImageProcessingMixin.get_image_processor_dict(location, **kwargs)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable("image processor", location, error) from error
    name = str(fields.get("image_processor_type", next(iter(known)))).removesuffix("Fast").removesuffix("Pil")
    if name not in known:
        raise ModelNotSupportedError(
            f"image processor: image_processor_type={name!r} is not supported by {adapter.family}",
            hint=f"expected one of {', '.join(known)}",
        )
    module, _, class_name = known[name].partition(":")
    return getattr(importlib.import_module(module), class_name).from_pretrained(location, **kwargs)


def _auto_class(adapter: type[ModelAdapter]) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    return AutoModelForImageTextToText if adapter.takes_frames else AutoModelForCausalLM


def _weights(
    adapter: type[ModelAdapter], location: str | None, config: Any, dtype: torch.dtype, kwargs: dict[str, Any]
) -> Any:
    from safetensors import SafetensorError

    if "gguf_file" not in kwargs:
        kwargs = {**kwargs, "use_safetensors": True}
    try:
        model, report = _auto_class(adapter).from_pretrained(
            location, config=config, dtype=dtype, output_loading_info=True, **kwargs
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise _unreadable("weights", str(location), error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(
            f"weights of {location}: {len(missing)} tensors are missing, the first is {missing[0]!r}",
            hint="the files are incomplete, or config_overrides asks for more than they hold",
        )
    return model


def _random(adapter: type[ModelAdapter], config: Any, dtype: torch.dtype, seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _auto_class(adapter).from_config(config, dtype=dtype)


def _unreadable(what: str, location: str, error: Exception) -> ModelError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelError(
        f"{what} of {location} cannot be read: {first}",
        hint="give a directory saved with save_pretrained (safetensors), or a hub id with its revision",
    )
