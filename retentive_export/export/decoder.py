"""The decoder graph: one step of T tokens through a language model with the bounded cache."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx_ir as ir
import torch
from torch import Tensor, nn

from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.step import TORCH_DTYPES, empty_state
from retentive_export.errors import ExportError
from retentive_export.export.passes.annotate_types import annotate_custom_types
from retentive_export.export.passes.flavours import attach_functions, custom_nodes
from retentive_export.export.passes.name_constants import name_constants
from retentive_export.ops.contract import OPS
from retentive_export.ops.onnx_functions import OPSET, function_body, translation_table
from retentive_export.ops.torch_ops import layer_step
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.layout import TextShape, VisionLayout

__all__ = ["DecoderGraph", "DecoderInputs", "attention_scale", "decoder_model", "state_names", "trace"]


class Decoder(Protocol):
    """What a model adapter's `decoder_module()` is called like."""

    def __call__(
        self,
        input_ids: Tensor,
        *,
        visual_embeds: Tensor | None,
        deep: Tensor | None,
        is_visual: Tensor | None,
        position_ids: Tensor,
        last_only: bool,
        loop: CacheLoop,
    ) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class DecoderInputs:
    """Sizes that decide the graph's inputs besides the state.

    hidden: width of embeddings. position_axes: 1, or 3 for M-RoPE. visual: whether there are visual embeddings.
    deep_layers: number of deepstack features. last_only: logits of the step's last token alone.
    """

    hidden: int
    position_axes: int = 1
    visual: bool = False
    deep_layers: int = 0
    last_only: bool = True
    dtype: str = "float32"

    @classmethod
    def of(cls, text: TextShape, layout: VisionLayout | None, dtype: str) -> DecoderInputs:
        """Of a model. layout: of its frames; None for a text-only one."""
        if layout is None:
            return cls(hidden=text.hidden, dtype=dtype)
        axes, deep = layout.position_axes, layout.deep_layers
        return cls(hidden=text.hidden, position_axes=axes, visual=True, deep_layers=deep, dtype=dtype)

    def example(self, batch: int, steps: int) -> dict[str, Tensor]:
        """Zero inputs for `steps` tokens: input_ids, token_meta, position_ids, visual_embeds, deep."""
        dtype = TORCH_DTYPES[self.dtype]
        axes = (self.position_axes,) if self.position_axes > 1 else ()
        inputs = {
            "input_ids": torch.zeros((batch, steps), dtype=torch.int64),
            "token_meta": torch.zeros((batch, steps, 2), dtype=torch.int32),
            "position_ids": torch.zeros((*axes, batch, steps), dtype=torch.int64),
        }
        if self.visual:
            inputs["visual_embeds"] = torch.zeros((batch, steps, self.hidden), dtype=dtype)
        if self.deep_layers:
            inputs["deep"] = torch.zeros((batch, self.deep_layers, steps, self.hidden), dtype=dtype)
        return inputs

    def step_axis(self, name: str) -> int:
        """Axis of T in an input."""
        return {"position_ids": 2 if self.position_axes > 1 else 1, "deep": 2}.get(name, 1)


def state_names(geometry: CacheGeometry, layers: int, prefix: str) -> list[str]:
    """Graph names of the state tensors: `past.3.key_rows`, `present.3.key_rows`."""
    return [f"{prefix}.{layer}.{spec.name}" for layer in range(layers) for spec in geometry.state()]


@dataclass
class DecoderGraph:
    """Everything needed to trace a decoder; also the eager twin of the graph (`run`)."""

    decoder: Decoder
    geometry: CacheGeometry
    gate: GateConfig
    layers: int
    inputs: DecoderInputs
    key_scales: Sequence[Tensor] | None = None
    bases: Sequence[LatentBasis] | None = None
    names: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = list(self.inputs.example(1, 1))

    def module(self) -> nn.Module:
        """A module with flat inputs (the named ones, then the state) and flat outputs (logits, then the state)."""
        return _Traced(self)


class _Traced(nn.Module):
    def __init__(self, graph: DecoderGraph) -> None:
        super().__init__()
        self.graph = graph
        self.decoder = graph.decoder
        for index, scale in enumerate(graph.key_scales or ()):
            self.register_buffer(f"key_scale_{index}", scale, persistent=False)
        for index, basis in enumerate(graph.bases or ()):
            for name, tensor in basis._asdict().items():
                self.register_buffer(f"latent_{name}_{index}", tensor, persistent=False)

    def forward(self, *flat: Tensor) -> tuple[Tensor, ...]:
        graph = self.graph
        named = dict(zip(graph.names, flat, strict=False))
        scales = [getattr(self, f"key_scale_{i}") for i in range(graph.layers)] if graph.key_scales else None
        loop = CacheLoop(
            graph.geometry, graph.gate, graph.layers, key_scales=scales, bases=self._bases(), step=layer_step
        )
        loop.token_meta = named["token_meta"]
        loop.load(flat[len(graph.names) :])
        visual = named.get("visual_embeds")
        logits = self.decoder(
            named["input_ids"],
            visual_embeds=visual,
            deep=named.get("deep"),
            is_visual=None if visual is None else named["token_meta"][..., 1] >= 0,
            position_ids=named["position_ids"],
            last_only=graph.inputs.last_only,
            loop=loop,
        )
        return (logits.float(), *loop.flat())

    def _bases(self) -> list[LatentBasis] | None:
        """The bases of all layers, from this module's buffers."""
        if not self.graph.bases:
            return None
        names = [f"latent_{name}" for name in LatentBasis._fields]
        return [LatentBasis(*(getattr(self, f"{n}_{i}") for n in names)) for i in range(self.graph.layers)]


def decoder_model(graph: DecoderGraph) -> ir.Model:
    """Trace the decoder, name its state, attach the function bodies: what both flavours are made of.

    Raises:
        ExportError: the graph does not hold each operator once per layer.
    """
    geometry, layers = graph.geometry, graph.layers
    steps = 3
    example = graph.inputs.example(geometry.batch, steps)
    # One tensor each: the tracer takes the same tensor in two places for one input.
    state = [x for _ in range(layers) for x in empty_state(geometry).values()]
    step_dim = torch.export.Dim("T", min=1, max=max(geometry.chunk, steps + 1))
    shapes = [{graph.inputs.step_axis(name): step_dim} for name in example] + [{} for _ in state]
    model = trace(
        graph.module().eval(),
        (*example.values(), *state),
        shapes,
        [*example, *state_names(geometry, layers, "past")],
        ["logits", *state_names(geometry, layers, "present")],
    )
    count = {op: sum(node.op_type == op for node in custom_nodes(model)) for op in OPS}
    if any(n != layers for n in count.values()):
        raise ExportError(f"the graph holds {count} custom nodes, and must hold each once per layer ({layers})")
    annotate_custom_types(model, geometry)
    name_constants(model, geometry)
    scale = attention_scale(model)
    functions = {op: function_body(op, geometry, graph.gate, scale) for op in OPS}
    attach_functions(model, functions.values())
    return model


def attention_scale(model: ir.Model) -> float:
    """The factor on q k^T that all layers share.

    Raises:
        ExportError: layers differ.
    """
    scales = {node.attributes["scale"].as_float() for node in custom_nodes(model)}
    if len(scales) != 1:
        raise ExportError(f"layers scale their logits differently ({sorted(scales)}), which one body cannot express")
    return scales.pop()


def trace(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    shapes: list[dict[int, Any]],
    names: list[str],
    outputs: list[str],
    *,
    flat: bool = True,
) -> ir.Model:
    """`torch.onnx.export` with our operators kept as nodes and named inputs and outputs.

    `flat`: the module's forward takes `*inputs`.
    """
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        program = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_shapes=(tuple(shapes),) if flat else tuple(shapes),
            custom_translation_table=translation_table(),
            optimize=True,
            verbose=False,
        )
    assert program is not None
    return program.model
