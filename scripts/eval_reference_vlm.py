"""Measure the reference VLM on pictures of held-out digits, with transformers and its full KV cache.

    python scripts/eval_reference_vlm.py --pictures 32
    python scripts/eval_reference_vlm.py --pictures 16 --free

An answer counts when every token, the end of the turn included, is right. By default the dialogue's true answers are
fed back (teacher forcing: one forward pass a picture); `--free` decodes greedily and feeds the model its own answers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, DynamicCache, Qwen3VLForConditionalGeneration
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from retentive_export.reference_vlm import weights_dir
from retentive_export.reference_vlm.dialogue import KINDS, Turn, chat_text, kind_of, sample_dialogue
from retentive_export.reference_vlm.pictures import load_digit_sets, sample_grid

VISUAL_TOKENS = 256


class ReferenceVLM:
    """The model, its tokenizer and its image processor."""

    def __init__(self, directory: Path, dtype: torch.dtype = torch.float32) -> None:
        self.model = Qwen3VLForConditionalGeneration.from_pretrained(directory, dtype=dtype).eval()
        self.tokenizer = AutoTokenizer.from_pretrained(directory)
        self.processor = Qwen2VLImageProcessorPil.from_pretrained(directory)
        config = self.model.config
        self.image_token, self.end = config.image_token_id, config.text_config.eos_token_id

    def encode(self, turns: list[Turn]) -> Tensor:
        """Token ids of a dialogue, visual tokens included. [1, S] int64"""
        text = chat_text(turns, image="<|image_pad|>" * VISUAL_TOKENS)
        return torch.tensor([self.tokenizer.encode(text, add_special_tokens=False)])

    def _inputs(self, picture: NDArray[np.uint8], ids: Tensor) -> dict[str, Tensor]:
        pixels = self.processor(Image.fromarray(picture), return_tensors="pt")
        mm_token_type_ids = (ids == self.image_token).int()
        return {"input_ids": ids, "mm_token_type_ids": mm_token_type_ids, **pixels}

    @torch.inference_mode()
    def teacher_forced(self, picture: NDArray[np.uint8], turns: list[Turn]) -> list[bool]:
        """Whether each answer is right when the answers before it are the true ones.

        Args:
            picture: RGB. [256, 256, 3] uint8
            turns: questions and true answers.
        """
        ids = self.encode(turns)
        greedy = self.model(**self._inputs(picture, ids)).logits[0].argmax(-1)
        start, right = 0, []
        for count in range(len(turns)):
            answer = self.tokenizer.encode(turns[count].answer + "<|im_end|>", add_special_tokens=False)
            start = self.encode(turns[: count + 1]).shape[1] - len(answer) - 1  # without the newline
            right.append(greedy[start - 1 : start - 1 + len(answer)].tolist() == answer)
        return right

    @torch.inference_mode()
    def free_running(self, picture: NDArray[np.uint8], questions: list[str], limit: int = 24) -> list[str]:
        """Greedy answers of one dialogue that keeps its cache and contains the model's own answers."""
        cache, answers, position = DynamicCache(), [], 0
        for index, question in enumerate(questions):
            text = chat_text([Turn(question, "")], image="<|image_pad|>" * VISUAL_TOKENS)
            if index:
                text = chat_text([Turn("", ""), Turn(question, "")]).removeprefix(chat_text([Turn("", "")]))
            ids = torch.tensor([self.tokenizer.encode(text.removesuffix("<|im_end|>\n"), add_special_tokens=False)])
            inputs = self._inputs(picture, ids) if index == 0 else {"input_ids": ids}
            if index == 0:
                places, _ = self.model.model.get_rope_index(ids, inputs["mm_token_type_ids"], inputs["image_grid_thw"])
            else:
                places = (torch.arange(ids.shape[1]) + position).expand(3, 1, -1)
            answer: list[int] = []
            while True:
                out = self.model(**inputs, position_ids=places, past_key_values=cache, logits_to_keep=1)
                position = int(places.max()) + 1
                if answer and (answer[-1] == self.end or len(answer) >= limit):
                    break
                answer.append(int(out.logits[0, -1].argmax()))
                newline = self.tokenizer.encode("\n", add_special_tokens=False) if answer[-1] == self.end else []
                inputs = {"input_ids": torch.tensor([[answer[-1], *newline]])}
                places = (torch.arange(1 + len(newline)) + position).expand(3, 1, -1)
            answers.append(self.tokenizer.decode(answer, skip_special_tokens=True))
        return answers


def held_out_dialogues(
    pictures: int, turns: int, seed: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], list[Turn]]]:
    """Pictures of held-out digits, their grids and dialogues."""
    rng = np.random.default_rng(seed)
    digits = load_digit_sets()[1]
    for _ in range(pictures):
        picture, grid = sample_grid(digits, rng)
        yield picture, grid, sample_dialogue(grid, rng, turns)


def measure(vlm: ReferenceVLM, pictures: int, turns: int, seed: int, free: bool) -> dict[str, float]:
    """Accuracy per kind of question and over all, with the number of questions."""
    right: dict[str, list[bool]] = {kind: [] for kind in KINDS}
    for picture, _, dialogue in held_out_dialogues(pictures, turns, seed):
        if free:
            answers = vlm.free_running(picture, [turn.question for turn in dialogue])
            good = [answer == turn.answer for answer, turn in zip(answers, dialogue, strict=True)]
        else:
            good = vlm.teacher_forced(picture, dialogue)
        for turn, ok in zip(dialogue, good, strict=True):
            right[kind_of(turn.question)].append(ok)
    everything = [ok for kind in KINDS for ok in right[kind]]
    scores = {kind: float(np.mean(right[kind])) if right[kind] else float("nan") for kind in KINDS}
    return {**scores, "all": float(np.mean(everything)), "questions": len(everything)}


def main() -> None:
    """Print the accuracy as one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=weights_dir())
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--free", action="store_true")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args()
    vlm = ReferenceVLM(options.model, getattr(torch, options.dtype))
    started = time.monotonic()
    scores = measure(vlm, options.pictures, options.turns, options.seed, options.free)
    print(json.dumps({**scores, "seconds": round(time.monotonic() - started, 1)}))


if __name__ == "__main__":
    main()
