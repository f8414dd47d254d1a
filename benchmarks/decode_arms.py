"""The arms of `decode_loop`: a full static cache under PyTorch's scaled_dot_product_attention, the bounded cache."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from benchmarks.random_state import fill, key_scale, random_tokens
from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.step import layer_step
from retentive_export.ops.aside import AsideStep
from retentive_export.ops.torch_ops import step_in_place
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import TextShape, VisionLayout
from retentive_export.spec.plan import CachePlan, plan_cache
from retentive_export.spec.recipe import parse_recipe

__all__ = ["SDPA_FORMS", "Bounded", "FullCache", "plan", "relative_error", "sdpa_forms", "text_shape"]

SdpaForm = Callable[[Tensor, Tensor, Tensor, float], Tensor]
FRAME = 32
"""Side of the square frame in visual tokens: 1,024 x 1,024 pixels of Qwen3-VL."""


def _sdpa(backend: SDPBackend | None, grouped: bool) -> SdpaForm:
    """Attention of one query per head over whole keys and values.

    grouped: the G query heads that share a KV head as G queries of one head, which without a mask is the same, and
    which backends without grouped-query attention take too.
    """

    def attend(query: Tensor, keys: Tensor, values: Tensor, scale: float) -> Tensor:
        shape = (query.shape[0], keys.shape[1], -1, query.shape[3]) if grouped else query.shape
        with sdpa_kernel(backend) if backend is not None else nullcontext():
            output = scaled_dot_product_attention(
                query.reshape(shape), keys, values, scale=scale, enable_gqa=not grouped
            )
        return output.reshape(query.shape)

    return attend


SDPA_FORMS: dict[str, SdpaForm] = {
    f"{name}, {'G queries' if grouped else 'enable_gqa'}": _sdpa(backend, grouped)
    for name, backend in (
        ("flash", SDPBackend.FLASH_ATTENTION),
        ("cudnn", SDPBackend.CUDNN_ATTENTION),
        ("efficient", SDPBackend.EFFICIENT_ATTENTION),
    )
    for grouped in (False, True)
}


def sdpa_forms(device: torch.device) -> dict[str, SdpaForm]:
    """Every way to ask PyTorch for the full cache's attention on this device; not all take every shape."""
    if device.type == "cuda":
        return SDPA_FORMS
    return {"default, enable_gqa": _sdpa(None, False), "default, G queries": _sdpa(None, True)}


class FullCache:
    """A preallocated cache of `context` rows in every layer, all of them read; the newest token's row is written.

    An `Attend`. form: one of `sdpa_forms`.
    """

    def __init__(self, text: TextShape, batch: int, context: int, device: torch.device) -> None:
        shape = (batch, text.kv_heads, context, text.head_dim)
        generator = torch.Generator(device).manual_seed(0)

        def rows() -> list[Tensor]:
            empty = (torch.empty(shape, device=device, dtype=torch.bfloat16) for _ in range(text.layers))
            return [tensor.normal_(generator=generator) for tensor in empty]

        self.keys, self.values = rows(), rows()
        self.slot = torch.tensor([context - 1], device=device)
        self.token_meta: Tensor | None = None
        self.form: SdpaForm = next(iter(sdpa_forms(device).values()))

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        keys, values = self.keys[layer_index], self.values[layer_index]
        keys.index_copy_(2, self.slot, key)
        values.index_copy_(2, self.slot, value)
        return self.form(query, keys, values, scale)

    def join(self) -> None:
        """Nothing runs aside."""

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))


class Bounded(CacheLoop):
    """The bounded cache after `context` tokens, every row occupied; a step evicts one token per head and layer.

    aside: the step, in two parts; None: in one.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        gate: GateConfig,
        layers: int,
        context: int,
        device: torch.device,
        aside: AsideStep | None = None,
    ) -> None:
        scale = key_scale(geometry, device)
        scales = None if scale is None else [scale] * layers
        step = step_in_place if aside is None else aside.step
        super().__init__(geometry, gate, layers, key_scales=scales, step=step, device=device)
        self._aside = aside
        self.reset()
        generator = torch.Generator(device).manual_seed(0)
        for state in self.state:
            fill(state, geometry, context, generator)

    def join(self) -> None:
        """At the end of a pass: wait for what runs aside."""
        if self._aside is not None:
            self._aside.join()

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(tensor.nbytes for tensor in self.flat())

    def output_error(self, context: int) -> float:
        """Of one layer's step on random tokens, against the reference of `cache/`: see `relative_error`."""
        geometry, state = self.geometry, self.state[0]
        scale = None if self.key_scales is None else self.key_scales[0]
        tokens = random_tokens(geometry, 1, context, self.device, seed=1)
        factor = geometry.head_dim**-0.5
        want, _ = layer_step(*tokens, state, scale, geometry=geometry, gate=self.gate, scale=factor)
        copy = {name: tensor.clone() for name, tensor in state.items()}
        got, _ = step_in_place(*tokens, copy, scale, geometry=geometry, gate=self.gate, scale=factor)
        return relative_error(got, want)


def relative_error(got: Tensor, want: Tensor) -> float:
    """Largest absolute difference over the largest magnitude; infinite where `got` is not finite."""
    error = (got.float() - want.float()).abs().amax() / want.float().abs().amax()
    return float(error) if bool(error.isfinite()) else float("inf")


def text_shape(shape: dict[str, Any]) -> TextShape:
    """Sizes of one of `decode_model.SHAPES`."""
    return TextShape(
        layers=shape["num_hidden_layers"],
        q_heads=shape["num_attention_heads"],
        kv_heads=shape["num_key_value_heads"],
        head_dim=shape["head_dim"],
        hidden=shape["hidden_size"],
        vocab=shape["vocab_size"],
        max_positions=shape["max_position_embeddings"],
    )


def plan(shape: dict[str, Any], cache: dict[str, Any], batch: int) -> CachePlan:
    """The product's own plan of a cache section of a recipe, for the policy `retentive` in bfloat16."""
    cells = [(row, column) for row in range(FRAME) for column in range(FRAME)]
    vision = VisionLayout(
        frame=(32 * FRAME, 32 * FRAME),
        tokens=len(cells),
        grid=(FRAME, FRAME),
        block_ids=[0] * len(cells),
        block_cells=list(cells),
        position_axes=3,
        position_offsets=[[0] * len(cells)] * 3,
        position_advance=FRAME,
    )
    model = {"source": "random", "dtype": "bfloat16", "frame": list(vision.frame)}
    recipe = parse_recipe({"model": model, "cache": {"policy": "retentive", **cache}})
    return plan_cache(recipe, text_shape(shape), vision, batch=batch)
