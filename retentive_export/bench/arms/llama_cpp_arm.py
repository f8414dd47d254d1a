"""llama.cpp through llama-cpp-python, with its own defaults: keys and values in float16, no flash attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["open_arm"]


class LlamaArm:
    """spec: `gguf`, a file; `context`; `safe`: without repacked weights, whose kernels not every machine survives."""

    def __init__(self, spec: dict[str, Any], threads: int) -> None:
        import llama_cpp

        self._library = llama_cpp
        default = llama_cpp.llama_cpp.llama_model_default_params
        if spec.get("safe"):
            llama_cpp.llama_cpp.llama_model_default_params = lambda: _without_repacking(default())
        self._llama = llama_cpp.Llama(
            spec["gguf"],
            n_ctx=spec["context"],
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=False,
            verbose=False,
        )
        llama_cpp.llama_cpp.llama_model_default_params = default
        self.facts: dict[str, Any] = {
            "versions": {"llama-cpp-python": llama_cpp.__version__},
            "cache": "float16",
            "system": llama_cpp.llama_print_system_info().decode().strip(),
        }

    def feed(self, ids: Sequence[int]) -> None:
        self._llama.eval(list(ids))

    def step(self, token: int) -> None:
        self._llama.eval([token])

    def set_threads(self, threads: int) -> None:
        self._library.llama_set_n_threads(self._llama._ctx.ctx, threads, threads)


def _without_repacking(parameters: Any) -> Any:
    parameters.use_extra_bufts = False
    return parameters


def open_arm(spec: dict[str, Any], threads: int) -> LlamaArm:
    """Load the GGUF file."""
    return LlamaArm(spec, threads)
