"""A model's sizes and parameter counts, from a recipe alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from retentive_export.errors import ModelError, RecipeError
from retentive_export.planner.config import ModelConfig, model_config
from retentive_export.planner.families import Family, family_of
from retentive_export.planner.families.text import head_dim, layer_matrices, layer_parameters
from retentive_export.planner.frames import FrameTokens
from retentive_export.spec.layout import TextShape
from retentive_export.spec.plain import describe_errors
from retentive_export.spec.recipe import ModelSection

__all__ = ["ModelShape", "Parameters", "model_shape"]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """Parameters of a model by what reads them.

    vision: tower and connector, read once per frame. embedding: a row per token. layers: with the norm behind them,
    read in every step. head: read in every step; 0 where it shares the embedding, which is then read whole.
    """

    vision: int
    embedding: int
    layers: int
    head: int

    @property
    def total(self) -> int:
        """All of them, shared ones once."""
        return self.vision + self.embedding + self.layers + self.head

    @property
    def per_token(self) -> int:
        """Those that a decode step reads: the layers, and the head or the embedding in its place."""
        return self.layers + (self.head or self.embedding)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Everything that planning needs of a model.

    intermediate: width of the language model's MLP. matrices: (inputs, outputs) of each in one of its layers. vision:
    (hidden, intermediate, heads) of the vision tower. frame: what the recipe's frame becomes. The last two are None for
    a text-only model. origin: where all of it comes from.
    """

    family: str
    text: TextShape
    intermediate: int
    parameters: Parameters
    matrices: tuple[tuple[int, int], ...]
    vision: tuple[int, int, int] | None
    frame: FrameTokens | None
    origin: str


def model_shape(model: ModelSection) -> ModelShape:
    """The shape of a recipe's model; no weight is read and nothing downloaded.

    Raises:
        ModelError, ModelNotSupportedError: the configuration is not there, not complete or of no known family.
        RecipeError: the frame is missing, or is not for this model.
    """
    try:
        found = model_config(model)
        family = family_of(found.config.get("model_type"))
        return _shape(found, family, _frame(model, family, found))
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"config.json of {model.source}: a size is missing or no number: {error!r}") from None
    except ValidationError as error:
        raise ModelError(f"config.json of {model.source}: {describe_errors(error, 'config')}") from None


def _frame(model: ModelSection, family: Family, found: ModelConfig) -> FrameTokens | None:
    if family.frame is None:
        if model.frame is not None:
            raise RecipeError(f"model.frame is {list(model.frame)}, and {family.name} takes no frames")
        return None
    if model.frame is None:
        raise RecipeError(
            "model.frame is null, and a vision model needs [height, width] of the camera's frames",
            hint="--set 'model.frame=[480,640]'",
        )
    return family.frame(found.config, found.processor, model.frame)


def _shape(found: ModelConfig, family: Family, frame: FrameTokens | None) -> ModelShape:
    config = found.config
    text: dict[str, Any] = config if family.frame is None else config["text_config"]
    shape = TextShape(
        layers=text["num_hidden_layers"],
        q_heads=text["num_attention_heads"],
        kv_heads=text["num_key_value_heads"],
        head_dim=head_dim(text),
        hidden=text["hidden_size"],
        vocab=text["vocab_size"],
        max_positions=text["max_position_embeddings"],
    )
    rows = shape.vocab * shape.hidden
    parameters = Parameters(
        vision=family.vision_parameters(config) if family.vision_parameters else 0,
        embedding=rows,
        layers=shape.layers * layer_parameters(text) + shape.hidden,
        head=0 if config["tie_word_embeddings"] else rows,
    )
    return ModelShape(
        family=family.name,
        text=shape,
        intermediate=text["intermediate_size"],
        parameters=parameters,
        matrices=layer_matrices(text),
        vision=_tower(config["vision_config"]) if family.frame else None,
        frame=frame,
        origin=found.origin,
    )


def _tower(vision: dict[str, Any]) -> tuple[int, int, int]:
    heads = vision["num_heads"] if "num_heads" in vision else vision["num_attention_heads"]
    return vision["hidden_size"], vision["intermediate_size"], heads
