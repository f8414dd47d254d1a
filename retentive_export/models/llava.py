"""LLaVA-1.5: a CLIP vision tower on a square crop, its patch features projected into the language model."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from torch import Tensor, cat, nn

from retentive_export.errors import ModelError, ModelNotSupportedError
from retentive_export.models.base import ModelAdapter, check_frame
from retentive_export.models.preprocess import FrameToTensor, Normalize, PillowResize, center_crop, pad_to_square
from retentive_export.spec.layout import VisionLayout

__all__ = ["LlavaAdapter"]

# The conversation format that LLaVA-1.5 was trained with, for checkpoints that carry no template.
_VICUNA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': ' }}{% endif %}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


class LlavaAdapter(ModelAdapter):
    """`LlavaForConditionalGeneration` with a CLIP vision tower; N may be dynamic."""

    family: ClassVar[str] = "llava"
    model_types: ClassVar[tuple[str, ...]] = ("llava",)
    image_processors: ClassVar[tuple[str, ...]] = (
        "transformers.models.clip.image_processing_pil_clip:CLIPImageProcessorPil",
        "transformers.models.llava.image_processing_pil_llava:LlavaImageProcessorPil",
    )

    def _check(self) -> None:
        super()._check()
        vision_type = self.config.vision_config.model_type
        if vision_type != "clip_vision_model":
            raise ModelNotSupportedError(
                f"llava: vision_config.model_type={vision_type!r} is not supported, expected 'clip_vision_model'"
            )

    @property
    def text_model(self) -> Any:
        return self.model.model.language_model

    @property
    def image_markup(self) -> str:
        return self.token_text(self.config.image_token_id)

    @property
    def frame_anchor(self) -> str:
        return self.image_markup

    @property
    def default_template(self) -> str:
        return _VICUNA_TEMPLATE.replace("<image>", self.image_markup)

    def vision_layout(self, frame: tuple[int, int]) -> VisionLayout:
        vision = self.config.vision_config
        side = vision.image_size // vision.patch_size
        cells = [(row, col) for row in range(side) for col in range(side)]
        if self.config.vision_feature_select_strategy == "full":
            cells.insert(0, (side // 2, side // 2))  # the class token stands for the whole frame
        return VisionLayout(
            frame=check_frame(frame),
            tokens=len(cells),
            grid=(side, side),
            block_ids=[self.config.image_token_id] * len(cells),
            block_cells=list(cells),
            position_axes=1,
            position_offsets=[list(range(len(cells)))],
            position_advance=len(cells),
        )

    def vision_module(self, frame: tuple[int, int]) -> nn.Module:
        return _LlavaVision(self.model.model, self.image_processor, check_frame(frame)).eval()


class _LlavaVision(nn.Module):
    """uint8 [N, H, W, 3] -> visual_embeds [N, tokens, hidden]."""

    def __init__(self, model: Any, processor: Any, frame: tuple[int, int]) -> None:
        super().__init__()
        self.tower = model.vision_tower
        self.projector = model.multi_modal_projector
        config = model.config
        layer = config.vision_feature_layer
        self.feature_layers = [layer] if isinstance(layer, int) else list(layer)
        self.drops_class_token = config.vision_feature_select_strategy == "default"
        self.tensor = FrameToTensor()
        self.normalize = Normalize(processor)
        self.square_color = _square_color(processor)
        side = max(frame)
        source = (side, side) if self.square_color is not None else frame
        resized = _resized(processor, source)
        self.resize = PillowResize(source, resized, processor.resample)
        crop = processor.crop_size if processor.do_center_crop else None
        self.crop = (int(crop["height"]), int(crop["width"])) if crop else resized
        expected = config.vision_config.image_size
        if self.crop != (expected, expected):
            raise ModelError(
                f"image processor: yields pictures of {self.crop} pixels, but vision_config.image_size={expected}",
                hint="set the image processor's size and crop_size to the vision tower's image size",
            )

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, 3, h, w], normalised."""
        image = self.tensor(frames)
        if self.square_color is not None:
            image = pad_to_square(image, self.square_color)
        return self.normalize(center_crop(self.resize(image), self.crop))

    def forward(self, frames: Tensor) -> Tensor:
        output = self.tower(self.pixels(frames).to(self.tower.dtype), output_hidden_states=True, return_dict=True)
        chosen = [output.hidden_states[layer] for layer in self.feature_layers]
        if self.drops_class_token:
            chosen = [hidden[:, 1:] for hidden in chosen]
        embeds: Tensor = self.projector(cat(chosen, dim=-1))
        return embeds


def _square_color(processor: Any) -> list[int] | None:
    """Padding colour if the processor first pads a picture to a square, else None."""
    if not (getattr(processor, "do_pad", False) and hasattr(processor, "pad_to_square")):
        return None
    return [int(value * 255) for value in processor.image_mean]


def _resized(processor: Any, frame: tuple[int, int]) -> tuple[int, int]:
    """(height, width) after the processor's resize."""
    if not processor.do_resize:
        return frame
    size = processor.size
    shortest = size.get("shortest_edge")
    if shortest is None:
        return int(size["height"]), int(size["width"])
    from transformers.image_transforms import get_resize_output_image_size

    picture = np.empty((3, *frame), dtype=np.uint8)
    height, width = get_resize_output_image_size(
        picture, size=shortest, default_to_square=False, input_data_format="channels_first"
    )
    return height, width
