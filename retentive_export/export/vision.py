"""The vision graph: one raw uint8 frame in, visual embeddings (and deepstack features) out."""

from __future__ import annotations

import onnx_ir as ir
import torch
from torch import nn

from retentive_export.export.decoder import trace

__all__ = ["vision_model"]


def vision_model(module: nn.Module, frame: tuple[int, int], *, deep: bool) -> ir.Model:
    """Trace a family's vision module.

    The graph: frames [1, H, W, 3] uint8 -> visual_embeds [1, tokens, hidden], deep [1, layers, tokens, hidden].
    """
    example = torch.zeros((1, *frame, 3), dtype=torch.uint8)
    outputs = ["visual_embeds", "deep"] if deep else ["visual_embeds"]
    return trace(module.eval(), (example,), [{}], ["frames"], outputs, flat=False)
