"""Model directory (config, tokenizer, image processor) and batched forward pass of the reference VLM's training.

The forward pass calls the modules of transformers' `Qwen3VLForConditionalGeneration` and changes only how they are
batched: every picture has the same size and stands at the same place, so that pictures form a batch dimension, and
masks, scatters and position ids become constants. tests/reference_vlm/test_reference_training.py compares it with the
model's own forward pass.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration
from transformers.models.qwen3_vl.modeling_qwen3_vl import apply_rotary_pos_emb_vision
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
)

from retentive_export.reference_vlm.dialogue import Turn, all_questions, chat_text
from retentive_export.reference_vlm.pictures import PICTURE

SPECIAL_TOKENS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>",
)  # fmt: skip
PATCH = 8
MERGE = 2
VISUAL_TOKENS = (PICTURE // PATCH // MERGE) ** 2

CHAT_TEMPLATE = """\
{%- for message in messages -%}
<|im_start|>{{ message.role }}
{% if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' or 'image' in part -%}
<|vision_start|><|image_pad|><|vision_end|>
{%- elif 'text' in part -%}
{{ part.text }}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""


def build_tokenizer() -> Tokenizer:
    """Byte-level BPE trained on the dialogue's words: any text encodes, and every word of a question is one token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=384,
        min_frequency=1,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    reading = " ".join(str(digit) for digit in range(10))
    corpus = [chat_text([Turn(question, reading)], image="") for question in all_questions()]
    tokenizer.train_from_iterator([text.replace("<|", " <|") for text in corpus], trainer)
    return tokenizer


def build_config(tokenizer: Tokenizer) -> Qwen3VLConfig:
    """The architecture, about 9.8 million parameters."""
    text = {
        "vocab_size": 384,
        "hidden_size": 320,
        "intermediate_size": 640,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 40,
        "max_position_embeddings": 32768,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 500000.0,
            "mrope_section": [8, 6, 6],
            "mrope_interleaved": True,
        },
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": tokenizer.token_to_id("<|im_end|>"),
        "pad_token_id": tokenizer.token_to_id("<|endoftext|>"),
    }
    vision = {
        "depth": 4,
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_heads": 6,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 2,
        "out_hidden_size": 320,
        "num_position_embeddings": 256,
        "deepstack_visual_indexes": [1, 2],
    }
    return Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        tie_word_embeddings=True,
        image_token_id=tokenizer.token_to_id("<|image_pad|>"),
        video_token_id=tokenizer.token_to_id("<|video_pad|>"),
        vision_start_token_id=tokenizer.token_to_id("<|vision_start|>"),
        vision_end_token_id=tokenizer.token_to_id("<|vision_end|>"),
    )


def write_model_directory(model: Qwen3VLForConditionalGeneration, tokenizer: Tokenizer, out: Path) -> None:
    """Write weights in bfloat16, configs, tokenizer, chat template and image processor settings into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.bfloat16).contiguous() for name, value in model.state_dict().items()}
    del state["lm_head.weight"]  # tied to the token embedding
    save_file(state, out / "model.safetensors.part", metadata={"format": "pt"})
    (out / "model.safetensors.part").chmod(0o644)
    (out / "model.safetensors.part").replace(out / "model.safetensors")
    _write_json(out / "config.json", config_json(model.config))
    eos, pad = tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")
    _write_json(out / "generation_config.json", {"do_sample": False, "eos_token_id": eos, "pad_token_id": pad})
    tokenizer.save(str(out / "tokenizer.json"))
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": 32768,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "clean_up_tokenization_spaces": False,
            "extra_special_tokens": {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"},
        },
    )
    (out / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
    pixels = PICTURE * PICTURE
    _write_json(
        out / "preprocessor_config.json",
        {
            "image_processor_type": "Qwen2VLImageProcessor",
            "size": {"shortest_edge": pixels, "longest_edge": pixels},
            "patch_size": PATCH,
            "temporal_patch_size": 2,
            "merge_size": MERGE,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
        },
    )


def config_json(config: Qwen3VLConfig) -> dict[str, Any]:
    """The content of config.json; the weights are stored in bfloat16."""
    content: dict[str, Any] = json.loads(config.to_json_string(use_diff=True))
    for part in (content, content["text_config"], content["vision_config"]):
        part["dtype"] = "bfloat16"
    return dict(sorted({**content, "architectures": ["Qwen3VLForConditionalGeneration"]}.items()))


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def patchify(gray: Tensor) -> Tensor:
    """Normalised gray pictures to patches, in the order and layout of the Qwen2-VL image processor.

    Args:
        gray: (ink - 0.5) / 0.5. [B, 256, 256] float

    Returns:
        [B, 1024, 384] of the same type: patches ordered by 2x2 merge block, each patch (channel, time, y, x).
    """
    side = PICTURE // PATCH // MERGE
    blocks = gray.reshape(-1, side, MERGE, PATCH, side, MERGE, PATCH)
    patches = blocks.permute(0, 1, 4, 2, 5, 3, 6).reshape(len(gray), -1, 1, PATCH * PATCH)
    return patches.expand(-1, -1, 6, -1).flatten(2)


class BatchedForward(nn.Module):
    """Forward pass over pictures and token sequences that all have one shape.

    The sequence is ``header (3 tokens), <|vision_start|>, 256 visual tokens, rest``; `tokens` leaves the 256 out.
    """

    IMAGE_START = 4

    def __init__(self, model: Qwen3VLForConditionalGeneration, text_tokens: int) -> None:
        super().__init__()
        self.model = model
        vision = model.model.visual
        side = PICTURE // PATCH
        grid = torch.tensor([[1, side, side]])
        indices, weights = get_vision_interpolation_indices_and_weights(
            grid, vision.num_grid_per_side, "bilinear", True, spatial_merge_size=MERGE
        )
        self.register_buffer("indices", indices)
        self.register_buffer("weights", weights)
        device = vision.pos_embed.weight.device
        positions = get_vision_position_ids(grid, MERGE).to(device)
        cos, sin = vision.rotary_pos_emb(torch.zeros(1, device=device), positions)
        self.register_buffer("cos", cos)
        self.register_buffer("sin", sin)
        rotary = model.model.language_model.rotary_emb
        cos, sin = rotary(torch.zeros(1, device=device), self.sequence_positions(text_tokens).to(device))
        self.register_buffer("text_cos", cos)
        self.register_buffer("text_sin", sin)

    @classmethod
    def sequence_positions(cls, text_tokens: int) -> Tensor:
        """M-RoPE position ids (time, height, width), [3, 1, 256 + text_tokens] int64."""
        side = PICTURE // PATCH // MERGE
        before = torch.arange(cls.IMAGE_START).expand(3, -1)
        image = torch.stack(torch.meshgrid(torch.arange(1), torch.arange(side), torch.arange(side), indexing="ij"))
        after = torch.arange(text_tokens - cls.IMAGE_START).expand(3, -1) + cls.IMAGE_START + side
        parts = [before, image.reshape(3, -1) + cls.IMAGE_START, after]
        return torch.cat(parts, dim=1)[:, None]

    def see(self, patches: Tensor) -> list[Tensor]:
        """Patches [B, 1024, 384] to visual embeddings and deepstack features, each [B, 256, 320]."""
        vision = self.model.model.visual
        batch, count, _ = patches.shape
        projection = vision.patch_embed.proj
        hidden = F.linear(patches, projection.weight.flatten(1), projection.bias)
        hidden = hidden + (vision.pos_embed(self.indices) * self.weights[:, :, None]).sum(1)
        deep = []
        for index, block in enumerate(vision.blocks):
            hidden = hidden + self._attend(block.attn, block.norm1(hidden))
            hidden = hidden + block.mlp(block.norm2(hidden))
            if index in vision.deepstack_visual_indexes:
                merger = vision.deepstack_merger_list[vision.deepstack_visual_indexes.index(index)]
                deep.append(merger(hidden).view(batch, count // MERGE**2, -1))
        return [vision.merger(hidden).view(batch, count // MERGE**2, -1), *deep]

    def _attend(self, attention: nn.Module, hidden: Tensor) -> Tensor:
        batch, count, _ = hidden.shape
        qkv = attention.qkv(hidden).view(batch, count, 3, attention.num_heads, attention.head_dim)
        query, key, value = qkv.unbind(2)
        query, key = apply_rotary_pos_emb_vision(query, key, self.cos, self.sin)
        out = F.scaled_dot_product_attention(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2))
        return attention.proj(out.transpose(1, 2).flatten(2))

    def read(self, visual: list[Tensor], tokens: Tensor) -> Tensor:
        """Logits [B, 256 + T, vocab] from `see`'s output and token ids [B, T]."""
        text = self.model.model.language_model
        start = self.IMAGE_START
        embeds = text.embed_tokens(tokens)
        hidden = torch.cat([embeds[:, :start], visual[0].to(embeds.dtype), embeds[:, start:]], dim=1)
        rotary = (self.text_cos[:, : hidden.shape[1]], self.text_sin[:, : hidden.shape[1]])
        pad = (0, 0, start, hidden.shape[1] - start - VISUAL_TOKENS)
        for index, layer in enumerate(text.layers):
            hidden = layer(hidden, attention_mask=None, position_embeddings=rotary)
            if index + 1 < len(visual):
                hidden = hidden + F.pad(visual[index + 1], pad)
        return self.model.lm_head(text.norm(hidden))
