"""The adapter protocol: what the exporter asks of a model family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor, nn

from retentive_export.errors import ModelError, ModelNotSupportedError
from retentive_export.models.attention import check_attention_supported
from retentive_export.models.decoder import DecoderModule
from retentive_export.models.dialogue import derive_dialogue
from retentive_export.models.rope import check_rope
from retentive_export.spec.layout import DialogueLayout, TextShape, VisionLayout

__all__ = ["TEXT_MODEL_TYPES", "ModelAdapter", "check_frame"]

# Language models that honour the attention interface and the given position ids; each is tested token for token.
TEXT_MODEL_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


def check_frame(frame: tuple[int, int]) -> tuple[int, int]:
    """Return (height, width) as ints.

    Raises:
        ModelError: not two positive integers.
    """
    try:
        height, width = (int(side) for side in frame)
    except (TypeError, ValueError):
        height = width = 0
    if height < 1 or width < 1:
        raise ModelError(f"frame={frame!r}, expected (height, width) in pixels, each at least 1")
    return height, width


class ModelAdapter(ABC):
    """One model family. Wraps an instantiated Hugging Face model; its modules are traced, never rewritten.

    Args:
        model: a `PreTrainedModel` with a language modelling head; put into eval mode, gradients off.
        tokenizer: its fast tokenizer.
        image_processor: its image processor; None for a text-only model.

    Raises:
        ModelNotSupportedError: the configuration asks for something the decode loop does not compute.
    """

    family: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    position_axes: ClassVar[int] = 1
    takes_frames: ClassVar[bool] = True
    # Hugging Face's Pillow image processors that the vision graph reproduces, "module:class", the usual one first.
    image_processors: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any, tokenizer: Any, image_processor: Any = None) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.image_processor = image_processor
        self._check()

    @classmethod
    def matches(cls, config: Any) -> bool:
        """Whether this family handles a model with this configuration."""
        return getattr(config, "model_type", None) in cls.model_types

    @property
    @abstractmethod
    def text_model(self) -> Any:
        """The language model without head."""

    @property
    def layers(self) -> nn.ModuleList:
        """The decoder layers."""
        layers: nn.ModuleList = self.text_model.layers
        return layers

    def output_projection(self, layer: int) -> Tensor:
        """Weight [hidden, Hq D] behind a decoder layer's attention."""
        weight: Tensor = self.layers[layer].self_attn.o_proj.weight  # type: ignore[union-attr, assignment]
        return weight

    @property
    def config(self) -> Any:
        """The whole model's configuration."""
        return self.model.config

    @property
    def text_config(self) -> Any:
        """The language model's configuration."""
        return self.text_model.config

    @property
    def dtype(self) -> Any:
        """torch dtype of the weights."""
        return self.model.dtype

    def text_shape(self) -> TextShape:
        """Sizes of the language model."""
        config = self.text_config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return TextShape(
            layers=config.num_hidden_layers,
            q_heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            hidden=config.hidden_size,
            vocab=self.model.lm_head.weight.shape[0],
            max_positions=config.max_position_embeddings,
        )

    def decoder_module(self) -> DecoderModule:
        """The decoder; see `DecoderModule.forward` for its inputs."""
        return DecoderModule(self.text_model, self.model.lm_head, self.layers).eval()

    def vision_layout(self, frame: tuple[int, int]) -> VisionLayout | None:
        """Tokens, cells and positions of a frame of (height, width) pixels; None for a text-only model."""
        return None

    def vision_module(self, frame: tuple[int, int]) -> nn.Module | None:
        """The vision graph for frames of (height, width) pixels; None for a text-only model.

        forward(frames: uint8 [N, H, W, 3]) -> visual_embeds [N, tokens, hidden], or (visual_embeds, deep [N,
        deep_layers, tokens, hidden]) for a model with deepstack features, in the model's dtype. All shapes are static
        but N, which may be exported as a dynamic dimension.
        """
        return None

    @property
    def image_markup(self) -> str | None:
        """What the chat template renders for one picture; None for a text-only model."""
        return None

    @property
    def default_template(self) -> str | None:
        """Jinja chat template for a tokenizer without one; None if the family has no convention."""
        return None

    @property
    def frame_anchor(self) -> str:
        """The added token that ends a frame's block; "" for a text-only model."""
        return ""

    def dialogue_layout(self) -> DialogueLayout:
        """Token pieces of a dialogue; see `DialogueLayout`."""
        return derive_dialogue(
            self.tokenizer,
            template=getattr(self.tokenizer, "chat_template", None) or self.default_template,
            image_markup=self.image_markup,
            frame_anchor=self.frame_anchor,
            stop_ids=self._stop_ids(),
        )

    def token_id(self, token: str) -> int:
        """Id of an added token.

        Raises:
            ModelError: the tokenizer has no such token.
        """
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        if token not in vocabulary:
            raise ModelError(f"tokenizer: has no token {token!r}, which {self.family} needs")
        return vocabulary[token]

    def token_text(self, token_id: int) -> str:
        """Text of the token with this id."""
        text: str | None = self.tokenizer.convert_ids_to_tokens(token_id)
        if text is None:
            raise ModelError(f"tokenizer: has no token with id {token_id}, which the {self.family} config names")
        return text

    def _stop_ids(self) -> list[int]:
        generation = getattr(self.model, "generation_config", None)
        eos = getattr(generation, "eos_token_id", None)
        if eos is None:
            eos = getattr(self.text_config, "eos_token_id", None)
        ids = eos if isinstance(eos, list | tuple) else [eos]
        found = [int(one) for one in ids if one is not None]
        if not found and self.tokenizer.eos_token_id is not None:
            found = [int(self.tokenizer.eos_token_id)]
        return found

    def _check(self) -> None:
        config = self.text_config
        if self.takes_frames and self.image_processor is None:
            raise ModelError(f"image_processor=None, but {self.family} takes frames and needs its image processor")
        if config.model_type not in (*TEXT_MODEL_TYPES, *_own_text_types(type(self))):
            raise ModelNotSupportedError(
                f"{self.family}: text_config.model_type={config.model_type!r} is not supported",
                hint=f"use a model whose language model is one of {', '.join(TEXT_MODEL_TYPES)}",
            )
        check_attention_supported(config, self.layers)
        check_rope(config, self.text_model)


def _own_text_types(adapter: type[ModelAdapter]) -> tuple[str, ...]:
    return tuple(f"{model_type}_text" for model_type in adapter.model_types)
