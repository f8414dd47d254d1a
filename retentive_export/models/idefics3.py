"""Idefics3 and SmolVLM: frames split into tiles plus an overview, a pixel-shuffle connector."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from retentive_export.errors import ModelError, ModelNotSupportedError
from retentive_export.models.base import ModelAdapter, check_frame
from retentive_export.models.preprocess import FrameToTensor, Normalize, PillowResize
from retentive_export.spec.layout import VisionLayout

__all__ = ["Idefics3Adapter", "Tiling"]


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How a frame becomes square pictures for the vision encoder.

    Attributes:
        sizes: (height, width) after each resize of the whole frame, in order.
        tile: side of a picture in pixels.
        rows, cols: tiles; both 0 if the frame fits one picture. The overview comes after the tiles.
    """

    sizes: tuple[tuple[int, int], ...]
    tile: int
    rows: int
    cols: int

    @property
    def pictures(self) -> int:
        """Pictures per frame, overview included."""
        return self.rows * self.cols + 1


class Idefics3Adapter(ModelAdapter):
    """`Idefics3ForConditionalGeneration` and `SmolVLMForConditionalGeneration`; N may be dynamic."""

    family: ClassVar[str] = "idefics3"
    model_types: ClassVar[tuple[str, ...]] = ("idefics3", "smolvlm")
    image_processors: ClassVar[tuple[str, ...]] = (
        "transformers.models.idefics3.image_processing_pil_idefics3:Idefics3ImageProcessorPil",
        "transformers.models.smolvlm.image_processing_pil_smolvlm:SmolVLMImageProcessorPil",
    )

    @property
    def text_model(self) -> Any:
        return self.model.model.text_model

    @property
    def image_markup(self) -> str:
        return self.token_text(self.config.image_token_id)

    @property
    def frame_anchor(self) -> str:
        return str(getattr(self.tokenizer, "fake_image_token", "<fake_token_around_image>"))

    @property
    def tokens_per_side(self) -> int:
        """Visual tokens along one side of a picture."""
        vision = self.config.vision_config
        return int(vision.image_size // vision.patch_size // self.config.scale_factor)

    def tiling(self, frame: tuple[int, int]) -> Tiling:
        """Resizes and tiles of a frame of (height, width) pixels, as the image processor makes them."""
        processor = self.image_processor
        tile = int(processor.max_image_size["longest_edge"])
        expected = self.config.vision_config.image_size
        if tile != expected:
            raise ModelError(
                f"image processor: max_image_size={tile}, but vision_config.image_size={expected}",
                hint="set the image processor's max_image_size to {'longest_edge': image_size}",
            )
        size = check_frame(frame)
        sizes = []
        if processor.do_resize:
            size = _first_size(processor.size, size)
            sizes.append(size)
        if not processor.do_image_splitting:
            return Tiling(sizes=(*sizes, (tile, tile)), tile=tile, rows=0, cols=0)
        size = _multiple_size(size, tile)
        sizes.append(size)
        rows, cols = size[0] // tile, size[1] // tile
        if rows * cols == 1:
            rows = cols = 0
        return Tiling(sizes=tuple(sizes), tile=tile, rows=rows, cols=cols)

    def vision_layout(self, frame: tuple[int, int]) -> VisionLayout:
        tiling = self.tiling(frame)
        side, image_id = self.tokens_per_side, self.config.image_token_id
        ids = self.tokenizer.encode(self._block_text(tiling), add_special_tokens=False)
        cells = iter(_cells(tiling, side))
        grid = (max(tiling.rows, 1) * side, max(tiling.cols, 1) * side)
        return VisionLayout(
            frame=check_frame(frame),
            tokens=tiling.pictures * side * side,
            grid=grid,
            block_ids=ids,
            block_cells=[next(cells) if one == image_id else None for one in ids],
            position_axes=1,
            position_offsets=[list(range(len(ids)))],
            position_advance=len(ids),
        )

    def vision_module(self, frame: tuple[int, int]) -> nn.Module:
        return _Idefics3Vision(self.model.model, self.image_processor, check_frame(frame), self.tiling(frame)).eval()

    def _block_text(self, tiling: Tiling) -> str:
        """The expansion of one picture's placeholder, as the family's processor writes it."""
        fake = self.frame_anchor
        overview = str(getattr(self.tokenizer, "global_image_token", "<global-img>"))
        image = self.image_markup * self.tokens_per_side**2
        rows = [
            "".join(f"{fake}<row_{row + 1}_col_{col + 1}>{image}" for col in range(tiling.cols)) + "\n"
            for row in range(tiling.rows)
        ]
        return "".join(rows) + ("\n" if rows else "") + f"{fake}{overview}{image}{fake}"


def _cells(tiling: Tiling, side: int) -> list[tuple[int, int]]:
    """Cells of the visual tokens, tiles first, on a grid of (rows * side, cols * side)."""
    inner = [(row, col) for row in range(side) for col in range(side)]
    tiles = [(row, col) for row in range(tiling.rows) for col in range(tiling.cols)]
    placed = [(top * side + row, left * side + col) for top, left in tiles for row, col in inner]
    rows, cols = max(tiling.rows, 1), max(tiling.cols, 1)
    return placed + [((2 * row + 1) * rows // 2, (2 * col + 1) * cols // 2) for row, col in inner]


def _first_size(size: Any, frame: tuple[int, int]) -> tuple[int, int]:
    """(height, width) after the processor's first resize."""
    longest = size.get("longest_edge")
    if longest is None:
        return int(size["height"]), int(size["width"])
    from transformers.models.idefics3.image_processing_pil_idefics3 import get_resize_output_image_size

    height, width = get_resize_output_image_size(np.empty((3, *frame), dtype=np.uint8), resolution_max_side=longest)
    return height, width


def _multiple_size(size: tuple[int, int], tile: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples of `tile`, the longer side first, with the aspect ratio in between."""
    height, width = size
    ratio = width / height
    if width >= height:
        width = math.ceil(width / tile) * tile
        height = math.ceil(int(width / ratio) / tile) * tile
    else:
        height = math.ceil(height / tile) * tile
        width = math.ceil(int(height * ratio) / tile) * tile
    if not height or not width:
        raise ModelNotSupportedError(f"frame: its aspect ratio {ratio:.3g} leaves a side of 0 pixels after resizing")
    return height, width


class _Idefics3Vision(nn.Module):
    """uint8 [N, H, W, 3] -> visual_embeds [N, pictures * tokens, hidden]."""

    position_ids: Tensor

    def __init__(self, model: Any, processor: Any, frame: tuple[int, int], tiling: Tiling) -> None:
        super().__init__()
        self.vision = model.vision_model
        self.connector = model.connector
        self.tiling = tiling
        self.tensor = FrameToTensor()
        self.normalize = Normalize(processor)
        sizes = [frame, *tiling.sizes]
        steps = [PillowResize(sizes[i], sizes[i + 1], processor.resample) for i in range(len(tiling.sizes))]
        self.resizes = nn.Sequential(*steps)
        self.overview = PillowResize(sizes[-1], (tiling.tile, tiling.tile), processor.resample)
        self.register_buffer("position_ids", _position_ids(self.vision, tiling.tile), persistent=False)

    def pixels(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, pictures, 3, tile, tile], normalised."""
        image = self.resizes(self.tensor(frames))
        overview = self.overview(image).unsqueeze(1)
        rows, cols, tile = self.tiling.rows, self.tiling.cols, self.tiling.tile
        if not rows:
            return self._normalized(overview)
        tiles = image.reshape(-1, 3, rows, tile, cols, tile).permute(0, 2, 4, 1, 3, 5)
        tiles = tiles.reshape(-1, rows * cols, 3, tile, tile)
        return self._normalized(torch.cat([tiles, overview], dim=1))

    def _normalized(self, image: Tensor) -> Tensor:
        normalized: Tensor = self.normalize(image)
        return normalized

    def forward(self, frames: Tensor) -> Tensor:
        # The encoder's stages are called one by one: its own forward selects position ids with a boolean mask, whose
        # result has a shape known only at run time. Here no patch is padding, so they are constants.
        pixels = self.pixels(frames)
        pixels = pixels.reshape(-1, *pixels.shape[2:]).to(self.vision.dtype)
        embeddings = self.vision.embeddings
        hidden = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)
        hidden = hidden + embeddings.position_embedding(self.position_ids)
        hidden = self.vision.encoder(inputs_embeds=hidden, attention_mask=None).last_hidden_state
        embeds = self.connector(self.vision.post_layernorm(hidden))  # [N * pictures, tokens, hidden]
        merged: Tensor = embeds.reshape(-1, self.tiling.pictures * embeds.shape[1], embeds.shape[2])
        return merged


def _position_ids(vision: Any, tile: int) -> Tensor:
    """[1, patches] int64: the position ids that the model's own embedding computes for a full picture."""
    embeddings = vision.embeddings
    side = tile // embeddings.patch_size
    seen: list[Tensor] = []
    handle = embeddings.position_embedding.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            weight = embeddings.patch_embedding.weight
            pixels = torch.zeros((1, 3, tile, tile), dtype=weight.dtype, device=weight.device)
            mask = torch.ones((1, side, side), dtype=torch.bool, device=weight.device)
            embeddings(pixel_values=pixels, patch_attention_mask=mask)
    finally:
        handle.remove()
    return seen[0].clone()
