"""The language model that all arms of `decode_loop` run: Hugging Face's own modules, attention left to a loop.

Projections of the same input are one matrix product, as in serving engines; that makes every arm faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.measure import note
from retentive_export.models.attention import retentive_attention_forward

__all__ = ["SHAPES", "Attend", "Compilation", "DecodeStep", "build_model", "join_projections", "weight_bytes"]

ATTENTION = "retentive_benchmark"

# Qwen3-VL-4B-Instruct's config.json, text part; and the same in small, for the CPU.
SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-vl-4b": {
        "vocab_size": 151936,
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_section": [24, 20, 20],
            "mrope_interleaved": True,
        },
    },
    "tiny": {
        "vocab_size": 320,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 5000000.0,
            "mrope_section": [4, 2, 2],
            "mrope_interleaved": True,
        },
    },
}


class Attend(Protocol):
    """An arm: its cache, and each layer's attention on it."""

    token_meta: Tensor | None

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor: ...

    def join(self) -> None: ...


class Switch:
    """The loop that the model is called with: one class for every arm, so that compiled code fits all of them."""

    def __init__(self) -> None:
        self.arm: Attend | None = None

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        assert self.arm is not None
        return self.arm.attend(layer_index, query, key, value, scale)


class JointProjection(nn.Module):
    """Linear layers of one input as one matrix product.

    It stands in the first one's place and is called before `JointOutput` is in the others'.
    """

    def __init__(self, parts: list[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.cat([part.weight.detach() for part in parts]), requires_grad=False)
        self.widths = [part.out_features for part in parts]
        self.others: list[Tensor] = []

    def forward(self, hidden: Tensor) -> Tensor:
        first, *self.others = nn.functional.linear(hidden, self.weight).split(self.widths, dim=-1)
        return first


class JointOutput(nn.Module):
    """Output number `index` of a `JointProjection`, behind its first."""

    def __init__(self, joint: JointProjection, index: int) -> None:
        super().__init__()
        self._joint = (joint,)  # not a module of this one: its weights are there once
        self._index = index

    def forward(self, hidden: Tensor) -> Tensor:
        return self._joint[0].others[self._index]


def join_projections(model: Any) -> None:
    """Make query, key and value, and gate and up, one matrix product each."""
    for layer in model.layers:
        for module, names in (
            (layer.self_attn, ("q_proj", "k_proj", "v_proj")),
            (layer.mlp, ("gate_proj", "up_proj")),
        ):
            joint = JointProjection([getattr(module, name) for name in names])
            setattr(module, names[0], joint)
            for index, name in enumerate(names[1:]):
                setattr(module, name, JointOutput(joint, index))


def build_model(shape: str, device: torch.device, dtype: torch.dtype) -> Any:
    """`Qwen3VLTextModel` with random weights, made on the device; embedding and head share their weights."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLTextConfig
    from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel

    # Attention is an opaque call to a compiler: its kernels are ours or cuDNN's, and the cache is written in place.
    AttentionInterface.register(ATTENTION, torch.compiler.disable(retentive_attention_forward))
    AttentionMaskInterface.register(ATTENTION, lambda *args, **kwargs: None)
    options: dict[str, Any] = {**SHAPES[shape], "tie_word_embeddings": True}
    config = Qwen3VLTextConfig(**options)
    config._attn_implementation = ATTENTION
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model: Any = Qwen3VLTextModel(config)
    finally:
        torch.set_default_dtype(before)
    if model.rotary_emb.inv_freq.dtype != torch.float32:
        raise RuntimeError(f"rotary frequencies are {model.rotary_emb.inv_freq.dtype}, and must be float32")
    join_projections(model)
    return model.eval().requires_grad_(False)


def weight_bytes(model: Any) -> int:
    """Bytes of all weights: a decode step reads each once, the embedding as the head."""
    return sum(parameter.nbytes for parameter in model.parameters())


def head(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits [B, 1, vocab]."""
    return torch.nn.functional.linear(hidden, weight)


class DecodeStep:
    """One greedy decode step on static buffers: token in, token out, everything on the device.

    Args:
        model: of `build_model`. batch: B. position: of the first token that it feeds.
    """

    def __init__(self, model: Any, batch: int, position: int, device: torch.device) -> None:
        self.model, self.switch = model, Switch()
        self.input_ids = torch.full((batch, 1), 17, device=device)
        self.position_ids = torch.full((3, batch, 1), position, device=device)
        self.token_meta = torch.tensor([position, -1], dtype=torch.int32, device=device).repeat(batch, 1, 1)
        self.head: Callable[[Tensor, Tensor], Tensor] = head
        self.logits: Tensor | None = None

    @property
    def batch(self) -> int:
        """B."""
        return self.input_ids.shape[0]

    def rewind(self, position: int) -> None:
        """Feed the first token again, at `position`."""
        self.input_ids.fill_(17)
        self.position_ids.fill_(position)
        self.token_meta[..., 0].fill_(position)

    def use(self, arm: Attend) -> None:
        """Run on the cache of `arm` from now on."""
        arm.token_meta = self.token_meta
        self.switch.arm = arm

    @torch.no_grad()
    def __call__(self) -> None:
        """Feed the token, choose the next one, move on by one position."""
        embedding = self.model.embed_tokens
        hidden = self.model(
            inputs_embeds=embedding(self.input_ids),
            position_ids=self.position_ids,
            attention_mask=None,
            use_cache=False,
            loop=self.switch,
        ).last_hidden_state
        self.logits = self.head(hidden, embedding.weight)
        assert self.switch.arm is not None
        self.switch.arm.join()
        self.input_ids.copy_(self.logits.argmax(dim=-1))
        self.position_ids.add_(1)
        self.token_meta[..., 0].add_(1)


@torch.compiler.disable
def _apart(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A hook that ends what inductor compiles as one."""
    return inputs


class Compilation:
    """Lets inductor fuse what lies between matrix products and attention: one compilation for all layers and arms.

    The down projection is compiled apart from the activation ahead of it: fused into a product with one row, every
    output would compute the activation anew (33 us instead of 22 on an H100).

    tune_gemv: also turn products with one row (a batch of 1) into Triton kernels whose tiles are found by search.
    """

    def __init__(self, step: DecodeStep, *, tune_gemv: bool) -> None:
        model = step.model
        self._plain = {part: part.forward for part in (*model.layers, model.norm, model.rotary_emb)}
        self._hooks = [layer.mlp.down_proj.register_forward_pre_hook(_apart) for layer in model.layers]
        options: dict[str, Any] = {"coordinate_descent_tuning": True} if tune_gemv else {}
        for part, forward in self._plain.items():
            part.forward = torch.compile(forward, dynamic=False, options=options)
        step.head = torch.compile(head, dynamic=False, options=options)

    @classmethod
    def attempt(cls, step: DecodeStep, *, tune_gemv: bool) -> Compilation | None:
        """Compile and run one step; None, with a notice, where that fails: then nothing is compiled."""
        compilation = cls(step, tune_gemv=tune_gemv)
        try:
            step()
        except Exception as error:
            compilation.undo(step)
            note(f"not compiled: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            return None
        return compilation

    def undo(self, step: DecodeStep) -> None:
        """Back to the model's own modules."""
        for part, forward in self._plain.items():
            part.forward = forward
        for hook in self._hooks:
            hook.remove()
        step.head = head
        torch.compiler.reset()
