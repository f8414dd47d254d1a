"""Recipes: which model, which cache, which constants. Plain data in, a frozen and checked object out.

Every field has a default but the model's source, so a recipe says only what it changes. Unknown keys and wrong types
are refused with the field, the value seen and what would be accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError, model_validator

from retentive_export.errors import RecipeError
from retentive_export.spec.gate import GateConfig, SigmoidGate
from retentive_export.spec.overrides import set_field
from retentive_export.spec.plain import describe_errors, parse_bytes
from retentive_export.spec.weights import WeightsSection

__all__ = ["Recipe", "Thresholds", "parse_recipe"]

Pair = Annotated[tuple[int, int], Field(strict=False)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelSection(_Section):
    """Where the weights come from.

    source: "reference-vlm" (carried by the package), a local directory, a hub id, or "package:NAME" for a GGUF file
    that an installed Python package carries. frame: (height, width) in pixels of the camera's frames; null for text.
    """

    source: str = Field(min_length=1)
    revision: str | None = None
    gguf_file: str | None = None
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    frame: Pair | None = None
    config_overrides: dict[str, JsonValue] = Field(default_factory=dict)
    random_seed: int | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _frame_is_positive(self) -> ModelSection:
        if self.frame is not None and min(self.frame) < 1:
            raise ValueError(f"frame is {list(self.frame)}, and must be [height, width] in pixels")
        return self


class BudgetSection(_Section):
    """How much the cache may take; exactly one of the three.

    rows: rows per head and layer, memory rows included. bytes: of a whole session, states, scales and metadata
    included.
    fraction: of the bytes that a plain KV cache of `context` tokens takes.
    """

    rows: int | None = Field(default=None, ge=1)
    bytes: Annotated[int | None, BeforeValidator(parse_bytes)] = Field(default=None, ge=1)
    fraction: float | None = Field(default=None, gt=0, le=1)

    @model_validator(mode="after")
    def _one(self) -> BudgetSection:
        given = [name for name in ("rows", "bytes", "fraction") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of rows, bytes, fraction (seen: {', '.join(given) or 'none'})")
        return self


class LatentSection(_Section):
    """Latent rows: one vector per token for the keys and values of all heads of a layer.

    rank: numbers in it. dtype: their type; mixed: the first `int8` of them have 8 bits, the next `int4` have 4, the
    rest have 2. front: how many rows of `rows.dtype` stand in front of the latents; 0, or at least sinks + window.
    """

    rank: int = Field(ge=1)
    dtype: Literal["model", "int8", "int4", "mixed"] = "int8"
    int8: int = Field(default=0, ge=0)
    int4: int = Field(default=0, ge=0)
    front: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _only_mixed_is_split(self) -> LatentSection:
        if self.dtype != "mixed" and (self.int8 or self.int4):
            raise ValueError(f"int8 and int4 split latents of dtype mixed, and dtype is {self.dtype}")
        return self


class RowsSection(_Section):
    """dtype: of the local rows. exact: with coarse rows, how many rows in front of them stay in the model's dtype.
    latent: the rows behind `latent.front` are latents; null: there are none."""

    dtype: Literal["model", "int8", "int4"] = "model"
    exact: int = Field(default=0, ge=0)
    latent: LatentSection | None = None


class MemorySection(_Section):
    """Rows that absorb evicted tokens.

    grid: rows and columns of anchors on the frame; recall: rows for text; null: chosen from the budget. store: kept
    with the exact or with the coarse rows; behind latent rows they are latents in the model's dtype, whatever it says.
    """

    grid: Pair | None = None
    recall: int | None = Field(default=None, ge=0)
    store: Literal["exact", "coarse"] = "exact"


class ConstantsSection(_Section):
    """What `calibrate` fitted: key scales and latent bases of every layer.

    file: a .safetensors file, beside the recipe's. sha256: of it.
    """

    file: str = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class SigmoidSection(_Section):
    """sigmoid(weight * x + bias) when enabled, else 1."""

    enabled: bool = False
    weight: float = 1.0
    bias: float = 0.0


class GateSection(_Section):
    """Constants of the entropy gate; see `retentive_export.spec.gate.GateConfig`."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, populate_by_name=False)

    lambda_: float = Field(default=0.5, ge=0, le=1, alias="lambda")
    importance_decay: float = Field(default=0.98, ge=0, le=1)
    importance_gain: float = Field(default=0.02, ge=0)
    entropy_decay: float = Field(default=0.98, ge=0, le=1)
    entropy_gain: float = Field(default=0.02, ge=0)
    retention: SigmoidSection = SigmoidSection()
    absorption: SigmoidSection = SigmoidSection()
    readout: SigmoidSection = SigmoidSection()
    beta: float = 0.0

    def config(self) -> GateConfig:
        """The same constants as the maths takes them."""
        plain = {name: getattr(self, name) for name in type(self).model_fields}
        gates = {n: SigmoidGate(**plain[n].model_dump()) for n in ("retention", "absorption", "readout")}
        return GateConfig(**(plain | gates))


class CacheSection(_Section):
    """The bounded cache.

    policy: a name of `spec.policies`. context: tokens that a plain cache would hold; capacity of policy `full`, base of
    a budget given as a fraction. sinks, window: the first and the most recent tokens, never evicted. chunk: tokens per
    prefill step. readout: how evicted tokens are read again.
    """

    policy: str = "retentive"
    readout: Literal["mass", "residual", "none"] = "mass"
    budget: BudgetSection = BudgetSection(fraction=0.2)
    context: int = Field(default=4096, ge=1)
    rows: RowsSection = RowsSection()
    memory: MemorySection = MemorySection()
    sinks: int = Field(default=4, ge=0)
    window: int = Field(default=32, ge=1)
    chunk: int = Field(default=32, ge=1)
    gate: GateSection = GateSection()

    @property
    def coarsest(self) -> Literal["model", "int8", "int4", "mixed"]:
        """Dtype of the coarsest local rows."""
        types = (self.rows.dtype, self.rows.latent.dtype if self.rows.latent else "model")
        coarse: tuple[Literal["mixed", "int4", "int8"], ...] = ("mixed", "int4", "int8")
        return next((dtype for dtype in coarse if dtype in types), "model")


class GenerationSection(_Section):
    """Defaults of `generate`: temperature 0 is greedy."""

    max_new_tokens: int = Field(default=128, ge=1)
    temperature: float = Field(default=0.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    seed: int = Field(default=0, ge=0)


class Thresholds(_Section):
    """Limits of `validate`; null: by the dtype (1e-3 in float32, 2e-2 in float16 and bfloat16).

    logit_error: largest absolute difference of logits over their range. state_error: largest absolute difference of a
    state tensor over its largest magnitude; it decides in float32 only. weight_kl, weight_disagreement: with quantised
    weights, in the place of both: mean KL divergence of the next token from the float model's, in nats; share of steps
    with another greedy token.
    """

    logit_error: float | None = Field(default=None, gt=0)
    state_error: float | None = Field(default=None, gt=0)
    weight_kl: float = Field(default=0.1, gt=0)
    weight_disagreement: float = Field(default=0.1, ge=0, le=1)

    def resolved(self, dtype: str, rows: str = "model") -> Thresholds:
        """Without nulls, for a model's dtype and the coarsest dtype of its local rows (`CacheSection.coarsest`).

        Where rows are quantised a rounding difference may move a code by one level, which the memory rows inherit, and
        with latents the rows of all layers above: one over the largest code, which is 2 among mixed ones.
        """
        base = 1e-3 if dtype == "float32" else 2e-2
        level = {"model": 0.0, "int8": 1 / 127, "int4": 1 / 7, "mixed": 1 / 2}[rows]
        logit_error = 2e-2 if rows in {"int4", "mixed"} else base
        state_error = self.state_error or round(base + level, 6)
        return self.model_copy(update={"logit_error": self.logit_error or logit_error, "state_error": state_error})


class Recipe(_Section):
    """A whole recipe.

    calibration: a set carried by the package ("default", "reference-vlm") or a directory of that form; it sets the key
    scales and latent bases and drives the golden run. constants: scales and bases from a file instead; null: from
    `calibration`, at every build. engines: fields that have other values where the target runs TensorRT engines, by
    their names with dots, such as cache.rows.latent: null. golden_steps: decode steps of the golden run.
    """

    name: str = "unnamed"
    description: str = ""
    model: ModelSection
    weights: WeightsSection = WeightsSection()
    cache: CacheSection = CacheSection()
    generation: GenerationSection = GenerationSection()
    thresholds: Thresholds = Thresholds()
    calibration: str = Field(default="default", min_length=1)
    constants: ConstantsSection | None = None
    engines: dict[str, JsonValue] = Field(default_factory=dict)
    golden_steps: int = Field(default=16, ge=1, le=4096)

    def on(self, engines: str) -> Recipe:
        """The recipe for a target whose engines are built as `engines` says; "none" is a target without.

        Raises:
            RecipeError: a field of `engines` is no field of a recipe, or its value is wrong.
        """
        if engines == "none" or not self.engines:
            return self
        data = self.to_dict() | {"engines": {}}
        for key, value in self.engines.items():
            set_field(data, key.split("."), value, f"engines: {key}")
        return parse_recipe(data, origin=f"recipe {self.name} for engines")

    def portable(self) -> Recipe:
        """The same without paths of this machine: of the constants' file only its name is left."""
        if self.constants is None:
            return self
        name = Path(self.constants.file).name
        return self.model_copy(update={"constants": self.constants.model_copy(update={"file": name})})

    def to_dict(self) -> dict[str, Any]:
        """Plain data with the recipe's own key names, for the manifest and for hashing."""
        return self.model_dump(mode="json", by_alias=True)


def parse_recipe(data: Any, *, origin: str = "recipe") -> Recipe:
    """Check plain data.

    Raises:
        RecipeError: names every offending field, the value seen, and what would be accepted.
    """
    if not isinstance(data, Mapping):
        raise RecipeError(f"{origin} is {type(data).__name__}, and must be a mapping with a 'model' section")
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(
            f"{origin}: {describe_errors(error, 'recipe')}",
            hint="retentive-export recipes show reference-vlm prints a complete recipe",
        ) from None
    except RecursionError:
        raise RecipeError(f"{origin} is nested too deeply to be a recipe") from None
