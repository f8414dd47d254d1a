"""Qwen3-VL: frames of native aspect ratio, M-RoPE positions, deepstack features."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from retentive_export.models.attention import FRAME_ATTENTION, attention_implementation
from retentive_export.models.base import ModelAdapter, check_frame
from retentive_export.models.preprocess import FrameToTensor, Normalize, PillowResize
from retentive_export.spec.layout import VisionLayout

__all__ = ["Qwen3VLAdapter"]


class Qwen3VLAdapter(ModelAdapter):
    """`Qwen3VLForConditionalGeneration`. One frame is one picture (temporal grid 1); N may be dynamic."""

    family: ClassVar[str] = "qwen3_vl"
    model_types: ClassVar[tuple[str, ...]] = ("qwen3_vl",)
    position_axes: ClassVar[int] = 3
    image_processors: ClassVar[tuple[str, ...]] = (
        "transformers.models.qwen2_vl.image_processing_pil_qwen2_vl:Qwen2VLImageProcessorPil",
    )

    @property
    def text_model(self) -> Any:
        return self.model.model.language_model

    @property
    def image_markup(self) -> str:
        ids = (self.config.vision_start_token_id, self.config.image_token_id, self.config.vision_end_token_id)
        return "".join(self.token_text(one) for one in ids)

    @property
    def frame_anchor(self) -> str:
        return self.token_text(self.config.vision_end_token_id)

    def patch_grid(self, frame: tuple[int, int]) -> tuple[int, int]:
        """(rows, cols) of patches of a frame of (height, width) pixels."""
        height, width = self._resized(frame)
        patch = self.image_processor.patch_size
        return height // patch, width // patch

    def vision_layout(self, frame: tuple[int, int]) -> VisionLayout:
        merge = self.config.vision_config.spatial_merge_size
        rows, cols = (side // merge for side in self.patch_grid(frame))
        cells = [(row, col) for row in range(rows) for col in range(cols)]
        # Hugging Face's get_rope_index: the grid starts one after vision_start, text goes on after its longer side.
        end = 1 + max(rows, cols)
        offsets = [
            [0, *(1 for _ in cells), end],
            [0, *(1 + row for row, _ in cells), end],
            [0, *(1 + col for _, col in cells), end],
        ]
        image = self.config.image_token_id
        return VisionLayout(
            frame=check_frame(frame),
            tokens=len(cells),
            grid=(rows, cols),
            block_ids=[self.config.vision_start_token_id, *[image] * len(cells), self.config.vision_end_token_id],
            block_cells=[None, *cells, None],
            position_axes=3,
            position_offsets=offsets,
            position_advance=end + 1,
            deep_layers=len(self.config.vision_config.deepstack_visual_indexes),
        )

    def vision_module(self, frame: tuple[int, int]) -> nn.Module:
        processor = self.image_processor
        return _Qwen3VLVision(
            self.model.model.visual, processor, check_frame(frame), self._resized(frame), self.patch_grid(frame)
        ).eval()

    def _resized(self, frame: tuple[int, int]) -> tuple[int, int]:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

        processor = self.image_processor
        height, width = check_frame(frame)
        if not processor.do_resize:
            return height, width
        size = processor.size
        height, width = smart_resize(
            height,
            width,
            factor=processor.patch_size * processor.merge_size,
            min_pixels=size["shortest_edge"],
            max_pixels=size["longest_edge"],
        )
        return height, width


class _Qwen3VLVision(nn.Module):
    """uint8 [N, H, W, 3] -> visual_embeds [N, tokens, hidden], deep [N, deep_layers, tokens, hidden]."""

    interp_indices: Tensor
    interp_weights: Tensor
    position_ids: Tensor

    def __init__(
        self, visual: Any, processor: Any, frame: tuple[int, int], resized: tuple[int, int], grid: tuple[int, int]
    ) -> None:
        super().__init__()
        from transformers.vision_utils import (
            get_vision_interpolation_indices_and_weights,
            get_vision_position_ids,
        )

        self.visual = visual
        self.grid = grid
        self.patch = int(processor.patch_size)
        self.merge = int(processor.merge_size)
        self.temporal = int(processor.temporal_patch_size)
        self.tensor = FrameToTensor()
        self.resize = PillowResize(frame, resized, processor.resample)
        self.normalize = Normalize(processor)
        grid_thw = torch.tensor([[1, *grid]])
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid_thw,
            num_grid_per_side=visual.num_grid_per_side,
            mode=visual.interpolation_mode,
            align_corners=visual.interpolation_align_corners,
            spatial_merge_size=visual.spatial_merge_size,
        )
        self.register_buffer("interp_indices", indices, persistent=False)
        self.register_buffer("interp_weights", weights, persistent=False)
        positions = get_vision_position_ids(grid_thw, visual.spatial_merge_size)
        self.register_buffer("position_ids", positions, persistent=False)

    def patchify(self, frames: Tensor) -> Tensor:
        """uint8 [N, H, W, 3] -> float32 [N, patches, 3 * temporal * patch * patch], normalised."""
        image = self.normalize(self.resize(self.tensor(frames)))
        rows, cols, merge, patch = *self.grid, self.merge, self.patch
        tiles = image.reshape(-1, 3, rows // merge, merge, patch, cols // merge, merge, patch)
        tiles = tiles.permute(
            0, 2, 5, 3, 6, 1, 4, 7
        )  # [N, gh, gw, mh, mw, 3, p, p]: TensorRT takes 8 dimensions at most
        tiles = tiles.reshape(-1, rows * cols, 3, 1, patch * patch).expand(-1, -1, -1, self.temporal, -1)
        return tiles.reshape(-1, rows * cols, 3 * self.temporal * patch * patch)

    def forward(self, frames: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        patches = self.patchify(frames)
        count, per_frame = patches.shape[0], self.grid[0] * self.grid[1]
        packed = patches.reshape(count * per_frame, -1).to(self.visual.dtype)
        with attention_implementation(self.visual, FRAME_ATTENTION):
            output = self.visual(
                packed,
                grid_thw=None,
                interp_indices=self._per_frame(self.interp_indices, count),
                interp_weights=self._per_frame(self.interp_weights, count),
                position_ids=self._per_frame(self.position_ids, count),
                cu_seqlens=torch.arange(count + 1) * per_frame,
                max_seqlen=per_frame,
            )
        tokens = per_frame // self.merge**2
        embeds = output.pooler_output.reshape(count, tokens, -1)
        if not output.deepstack_features:
            return embeds
        deep = torch.stack([feature.reshape(count, tokens, -1) for feature in output.deepstack_features], dim=1)
        return embeds, deep

    @staticmethod
    def _per_frame(constant: Tensor, count: int) -> Tensor:
        repeated = constant.unsqueeze(0).expand(count, *constant.shape)
        return repeated.reshape(count * constant.shape[0], *constant.shape[1:])
