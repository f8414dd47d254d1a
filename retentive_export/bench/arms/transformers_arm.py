"""The model's own code: transformers with `DynamicCache` and scaled_dot_product_attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["open_arm"]

CHUNK = 512


class TransformersArm:
    """spec: `checkpoint`, a directory with safetensors; `dtype`."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        import torch
        import transformers

        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        self._torch = torch
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self._model = transformers.AutoModelForCausalLM.from_pretrained(
            spec["checkpoint"],
            dtype=getattr(torch, spec["dtype"]),
            attn_implementation="sdpa",
            local_files_only=True,
        ).eval()
        self._cache = transformers.DynamicCache(config=self._model.config)
        versions = {"torch": torch.__version__, "transformers": transformers.__version__}
        self.facts: dict[str, Any] = {"versions": versions, "cache": f"DynamicCache, {spec['dtype']}, SDPA"}

    def feed(self, ids: Sequence[int]) -> None:
        for start in range(0, len(ids), CHUNK):
            self._forward(list(ids[start : start + CHUNK]))

    def step(self, token: int) -> None:
        self._forward([token])

    def set_threads(self, threads: int) -> None:
        self._torch.set_num_threads(threads)

    def _forward(self, ids: list[int]) -> None:
        tokens = self._torch.tensor([ids])
        self._model(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)


def open_arm(spec: dict[str, Any], threads: int) -> TransformersArm:
    """Load the checkpoint."""
    return TransformersArm(spec, threads)
