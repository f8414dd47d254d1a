"""Model families: Hugging Face modules wrapped for tracing, one adapter per family.

adapter = load_model("path/to/model", dtype="float16")
adapter.vision_module((480, 640))     uint8 frames -> visual rows
adapter.decoder_module()              tokens and visual rows -> logits, its attention left to a loop
adapter.vision_layout((480, 640))     the tokens, cells and positions that a frame inserts
adapter.dialogue_layout()             the token pieces of a dialogue
"""

from __future__ import annotations

from retentive_export.models.attention import AttentionLoop
from retentive_export.models.base import ModelAdapter
from retentive_export.models.decoder import DecoderModule
from retentive_export.models.loader import load_model, open_model
from retentive_export.models.registry import adapter_for, supported

__all__ = ["AttentionLoop", "DecoderModule", "ModelAdapter", "adapter_for", "load_model", "open_model", "supported"]
