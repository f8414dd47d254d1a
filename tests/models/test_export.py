"""The modules export through `torch.onnx.export(dynamo=True)`, with the number of frames or tokens dynamic."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tests.factories import VISION_FAMILIES, Prompt, make_adapter, photograph


def _session(program: Any) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("family", VISION_FAMILIES)
@torch.no_grad()
def test_vision_under_onnxruntime(family: str) -> None:
    adapter = make_adapter(family, seed=1)
    frame = (70, 90)
    module = adapter.vision_module(frame)
    pictures = torch.from_numpy(
        np.stack([photograph(frame), photograph(frame, "chelsea"), photograph(frame, "coffee")])
    )
    deep = bool(adapter.vision_layout(frame).deep_layers)
    program = torch.onnx.export(
        module,
        (pictures[:2],),
        dynamo=True,
        dynamic_shapes={"frames": {0: torch.export.Dim("n", min=1, max=16)}},
        input_names=["frames"],
        output_names=["visual_embeds", "deep"][: 1 + deep],
        verbose=False,
    )
    session = _session(program)
    assert session.get_inputs()[0].type == "tensor(uint8)"
    for count in (1, 3):
        expected = module(pictures[:count])
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = session.run(None, {"frames": pictures[:count].numpy()})
        for output, truth in zip(outputs, expected, strict=True):
            np.testing.assert_allclose(output, truth.numpy(), atol=1e-4, rtol=0)


class _ChunkLoop:
    """Attention within the chunk alone: no state, so that the decoder traces by itself."""

    def attend(
        self, layer_index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        return torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scale)


class _Traced(torch.nn.Module):
    def __init__(self, decoder: torch.nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self,
        input_ids: torch.Tensor,
        visual_embeds: torch.Tensor,
        deep: torch.Tensor | None,
        is_visual: torch.Tensor,
        position_ids: torch.Tensor,
    ) -> torch.Tensor:
        return self.decoder(input_ids, visual_embeds, deep, is_visual, position_ids, loop=_ChunkLoop(), last_only=True)


@pytest.mark.parametrize("family", ["qwen3_vl", "llava", "smolvlm"])
@torch.no_grad()
def test_decoder_under_onnxruntime(family: str) -> None:
    adapter = make_adapter(family, seed=1)
    prompt = Prompt(adapter).text([3, 4, 5]).frame(photograph((64, 64))).text([6, 7, 8])
    inputs = prompt.inputs()
    tokens = torch.export.Dim("t", min=1, max=512)
    axes = {
        "input_ids": 1,
        "visual_embeds": 1,
        "deep": 2,
        "is_visual": 1,
        "position_ids": adapter.position_axes // 2 + 1,
    }
    shapes = {name: {axes[name]: tokens} if value is not None else None for name, value in inputs.items()}
    module = _Traced(adapter.decoder_module()).eval()
    program = torch.onnx.export(
        module, kwargs=inputs, dynamo=True, dynamic_shapes=shapes, output_names=["logits"], verbose=False
    )
    session = _session(program)
    for start, stop in [(0, None), (2, 9), (4, 5)]:
        part = prompt.inputs(start, stop)
        feeds = {name: value.numpy() for name, value in part.items() if value is not None}
        (logits,) = session.run(None, feeds)
        np.testing.assert_allclose(logits, module(**part).numpy(), atol=1e-4, rtol=0)
