"""Small random models of every family, with the architecture options of the real ones, and tiny tokenizers.

Everything is built from configurations: no download, a fraction of a second each.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VISION_FAMILIES = ("qwen3_vl", "llava", "idefics3", "smolvlm")
TEXT_TYPES = ("llama", "mistral", "qwen2", "qwen3", "smollm3")

CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3_VL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{% if message.content is string %}"
    "{{ message.content }}{% else %}{% for content in message.content %}{% if content.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% elif 'text' in content %}{{ content.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAVA_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
_IDEFICS3_BODY = (
    "{% for message in messages %}{{message['role'] | capitalize}}{% if message['content'][0]['type'] == 'image' %}"
    "{{':'}}{% else %}{{': '}}{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}"
    "{{line['text']}}{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TEMPLATES = {
    "qwen3_vl": QWEN3_VL_TEMPLATE,
    "llava": LLAVA_TEMPLATE,
    "idefics3": "<|begin_of_text|>" + _IDEFICS3_BODY,
    "smolvlm": "<|im_start|>" + _IDEFICS3_BODY,
    "text": CHATML,
}
_SPECIALS = {
    "text": ["<|im_start|>", "<|im_end|>"],
    "qwen3_vl": [
        *["<|im_start|>", "<|im_end|>"],
        *["<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"],
    ],
    "idefics3": ["<|begin_of_text|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>"],
    "smolvlm": ["<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>", "<image>", "<global-img>"],
    "llava": ["<s>", "</s>", "<unk>", "<image>"],
}
_CORPUS = [
    "user\nassistant\nsystem\nYou are a helpful assistant\n\n",
    "User: What is the digit in row 3, column 5? Assistant: It is the 7.\nUSER: ASSISTANT:",
    "Where is the cat in this picture? How many rows does the grid have? The sum of both is 12.",
]


def photograph(size: tuple[int, int], name: str = "astronaut") -> NDArray[np.uint8]:
    """A real photograph, uint8 [height, width, 3], cropped to the aspect ratio and resized."""
    from PIL import Image

    image = Image.fromarray(getattr(data, name)())
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Tiny tokenizer with the family's special tokens, pre-tokenizer, bos rule and chat template."""
    kind = family if family in _SPECIALS else "text"
    specials = list(_SPECIALS[kind])
    if kind in ("idefics3", "smolvlm"):
        specials += [f"<row_{row}_col_{col}>" for row in range(1, 5) for col in range(1, 5)]
    backend = _sentencepiece_like(specials) if kind == "llava" else _byte_level(specials)
    bos = {"idefics3": "<|begin_of_text|>", "smolvlm": "<|im_start|>", "llava": "<s>"}.get(kind)
    eos = {"idefics3": "<end_of_utterance>", "smolvlm": "<end_of_utterance>", "llava": "</s>"}.get(kind, "<|im_end|>")
    if kind in ("idefics3", "llava"):
        backend.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, backend.token_to_id(bos))]
        )
    named = {"bos_token": bos} if bos else {}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=eos, pad_token=eos, **named)
    tokenizer.chat_template = TEMPLATES[kind]
    return tokenizer


def _byte_level(specials: list[str]) -> Tokenizer:
    """GPT-2 style: byte-level BPE, merges learned from a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.add_special_tokens(specials)
    return tokenizer


def _sentencepiece_like(specials: list[str]) -> Tokenizer:
    """Llama style: BPE with byte fallback over text whose spaces became U+2581, with a dummy prefix."""
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[*specials, *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    learned.train_from_iterator(_CORPUS, trainer)
    model = json.loads(learned.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=model["vocab"], merges=merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(specials)
    return tokenizer


def text_config(model_type: str, **changes: Any) -> dict[str, Any]:
    """Fields of a small language model: grouped heads, a head size that is not hidden / heads where possible."""
    fields: dict[str, Any] = {
        "model_type": model_type,
        "vocab_size": 400,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": 0.15,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": True,
    }
    if model_type in ("llama", "qwen3", "mistral"):
        fields["head_dim"] = 16
    if model_type == "mistral":
        fields["sliding_window"] = None
    if model_type == "smollm3":
        fields["no_rope_layer_interval"] = 2
    return {**fields, **changes}


def make_config(family: str, **changes: Any) -> Any:
    """Configuration of a small model; `family` is a vision family or a text model type."""
    from transformers import AutoConfig

    tokenizer = make_tokenizer(family)
    if family in TEXT_TYPES:
        return AutoConfig.for_model(**text_config(family, **changes))
    vocabulary = tokenizer.get_vocab()
    if family == "qwen3_vl":
        return AutoConfig.for_model(**_qwen3_vl_fields(vocabulary, **changes))
    fields: dict[str, Any] = {
        "model_type": family,
        "image_token_id": vocabulary["<image>"],
        "text_config": text_config("llama"),
        "tie_word_embeddings": family == "smolvlm",
    }
    fields["text_config"]["tie_word_embeddings"] = fields["tie_word_embeddings"]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    if family == "llava":
        vision |= {"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, "projection_dim": 32}
        fields |= {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    else:
        vision |= {"image_size": 32, "patch_size": 8, "initializer_range": 0.1}
        fields["scale_factor"] = 2
    return AutoConfig.for_model(**{**fields, "vision_config": vision, **changes})


def _qwen3_vl_fields(vocabulary: dict[str, int], **changes: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    vision = {
        "depth": 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 8,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": 48,
        "num_position_embeddings": 36,
        "deepstack_visual_indexes": [0, 2],
        "initializer_range": 0.1,
    }
    text = text_config("qwen3_vl_text", head_dim=16, rope_parameters=rope)
    return {
        "model_type": "qwen3_vl",
        "vision_config": vision,
        "text_config": text,
        "image_token_id": vocabulary["<|image_pad|>"],
        "video_token_id": vocabulary["<|video_pad|>"],
        "vision_start_token_id": vocabulary["<|vision_start|>"],
        "vision_end_token_id": vocabulary["<|vision_end|>"],
        "tie_word_embeddings": True,
        **changes,
    }


def make_image_processor(family: str, **changes: Any) -> Any:
    """The family's own PIL image processor, sized for the small models; None for a text model type."""
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    if family in TEXT_TYPES:
        return None
    if family == "qwen3_vl":
        size = {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}
        return Qwen2VLImageProcessorPil(**{"patch_size": 8, "size": size, **changes})
    if family == "llava":
        crop = {"height": 56, "width": 56}
        return CLIPImageProcessorPil(**{"size": {"shortest_edge": 56}, "crop_size": crop, **changes})
    kind = Idefics3ImageProcessorPil if family == "idefics3" else SmolVLMImageProcessorPil
    return kind(**{"size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}, **changes})


def make_model(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Random model with language modelling head, in eval mode."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    auto = AutoModelForCausalLM if family in TEXT_TYPES else AutoModelForImageTextToText
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return auto.from_config(make_config(family, **changes), dtype=dtype).eval()


def make_adapter(family: str, *, seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """Adapter around `make_model`, `make_tokenizer` and `make_image_processor`."""
    from retentive_export.models import adapter_for

    model = make_model(family, seed=seed, dtype=dtype, **changes)
    return adapter_for(model, make_tokenizer(family), make_image_processor(family))


def make_processor(adapter: Any) -> Any:
    """Hugging Face's own processor around the adapter's tokenizer and image processor (no video processor needed)."""
    from transformers.models.idefics3.processing_idefics3 import Idefics3Processor
    from transformers.models.llava.processing_llava import LlavaProcessor
    from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor
    from transformers.models.smolvlm import processing_smolvlm

    def without_checks(base: type) -> Any:
        return type(base.__name__, (base,), {"check_argument_for_proper_class": lambda self, name, value: None})

    model_type = adapter.config.model_type
    parts = {"image_processor": adapter.image_processor, "tokenizer": adapter.tokenizer}
    if model_type == "qwen3_vl":
        return without_checks(Qwen3VLProcessor)(**parts, video_processor=None)
    if model_type == "llava":
        strategy = adapter.config.vision_feature_select_strategy
        patch = adapter.config.vision_config.patch_size
        return LlavaProcessor(
            **parts, patch_size=patch, vision_feature_select_strategy=strategy, num_additional_image_tokens=1
        )
    length = adapter.tokens_per_side**2
    if model_type == "idefics3":
        return Idefics3Processor(**parts, image_seq_len=length)
    processing_smolvlm.num2words = processing_smolvlm.num2words or str
    return without_checks(processing_smolvlm.SmolVLMProcessor)(**parts, video_processor=None, image_seq_len=length)


class CausalLoop:
    """The simplest `AttentionLoop`: keeps every key and value, attends causally. A full cache."""

    def __init__(self) -> None:
        self.keys: dict[int, torch.Tensor] = {}
        self.values: dict[int, torch.Tensor] = {}

    def attend(
        self, layer_index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        if layer_index in self.keys:
            key = torch.cat([self.keys[layer_index], key], dim=2)
            value = torch.cat([self.values[layer_index], value], dim=2)
        self.keys[layer_index], self.values[layer_index] = key, value
        new, seen = query.shape[2], key.shape[2]
        mask = torch.ones(new, seen, dtype=torch.bool).tril(seen - new)
        return torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=scale, enable_gqa=True
        )


class Prompt:
    """A prompt as the decoder takes it, assembled from layouts: ids, positions, visual rows. Batch 1."""

    def __init__(self, adapter: Any) -> None:
        self.adapter = adapter
        self.axes = adapter.position_axes
        self.ids: list[int] = []
        self.positions: list[list[int]] = [[] for _ in range(self.axes)]
        self.next_position = 0
        self.rows: list[torch.Tensor | None] = []
        self.deep: list[torch.Tensor | None] = []

    def text(self, ids: list[int]) -> Prompt:
        """Append text tokens."""
        for one in ids:
            self.ids.append(one)
            self.rows.append(None)
            self.deep.append(None)
            for axis in self.positions:
                axis.append(self.next_position)
            self.next_position += 1
        return self

    @torch.no_grad()
    def frame(self, picture: NDArray[np.uint8]) -> Prompt:
        """Append a frame's block; `picture` is uint8 [H, W, 3]."""
        layout = self.adapter.vision_layout(picture.shape[:2])
        output = self.adapter.vision_module(picture.shape[:2])(torch.from_numpy(picture.copy())[None])
        embeds, deep = output if isinstance(output, tuple) else (output, None)
        row = 0
        for one, cell in zip(layout.block_ids, layout.block_cells, strict=True):
            self.ids.append(one)
            self.rows.append(None if cell is None else embeds[0, row])
            self.deep.append(None if cell is None or deep is None else deep[0, :, row])
            row += cell is not None
        for axis, offsets in zip(self.positions, layout.position_offsets, strict=True):
            axis.extend(self.next_position + offset for offset in offsets)
        self.next_position += layout.position_advance
        return self

    def inputs(self, start: int = 0, stop: int | None = None) -> dict[str, torch.Tensor | None]:
        """Keyword arguments of `DecoderModule.forward` for the tokens start..stop."""
        rows, deep = self.rows[start:stop], self.deep[start:stop]
        shape = self.adapter.text_shape()
        positions = torch.tensor(self.positions)[:, None, start:stop]
        given = [one for one in self.deep if one is not None]
        layers = given[0].shape[0] if given else 0
        dtype = self.adapter.dtype
        blank, none = torch.zeros(shape.hidden, dtype=dtype), torch.zeros(layers, shape.hidden, dtype=dtype)
        return {
            "input_ids": torch.tensor([self.ids[start:stop]]),
            "visual_embeds": torch.stack([blank if one is None else one for one in rows])[None],
            "deep": torch.stack([none if one is None else one for one in deep], dim=1)[None] if layers else None,
            "is_visual": torch.tensor([[one is not None for one in rows]]),
            "position_ids": positions[0] if self.axes == 1 else positions,
        }

    @torch.no_grad()
    def greedy(self, count: int, *, chunk: int = 1_000_000) -> list[int]:
        """Prefill in chunks, then generate `count` tokens with a full cache."""
        decoder, loop = self.adapter.decoder_module(), CausalLoop()
        for start in range(0, len(self.ids), chunk):
            logits = decoder(**self.inputs(start, min(start + chunk, len(self.ids))), loop=loop, last_only=True)
        tokens = [int(logits[0, -1].argmax())]
        while len(tokens) < count:
            step = Prompt(self.adapter)
            step.next_position = self.next_position + len(tokens) - 1
            logits = decoder(**step.text(tokens[-1:]).inputs(), loop=loop)
            tokens.append(int(logits[0, -1].argmax()))
        return tokens
