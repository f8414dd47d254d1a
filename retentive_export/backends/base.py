"""What every backend offers: a step over state that it owns, and the vision graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from retentive_export.spec.arrays import Array
from retentive_export.spec.manifest import Manifest

__all__ = ["Backend", "DecoderInputs"]


@dataclass(frozen=True, kw_only=True)
class DecoderInputs:
    """One step's tokens.

    input_ids: [B, T] int64. token_meta: [B, T, 2] int32, (position, cell). position_ids: [B, T] or [3, B, T] int64.
    visual_embeds: [B, T, hidden], deep: [B, deep_layers, T, hidden], model dtype; None means zeros.
    """

    input_ids: Array
    token_meta: Array
    position_ids: Array
    visual_embeds: Array | None = None
    deep: Array | None = None


class Backend(Protocol):
    """An opened artifact. One instance is one session: it owns one state."""

    manifest: Manifest

    def step(self, inputs: DecoderInputs) -> Array:
        """Feed T tokens (1 <= T <= chunk), update the state; logits [B, 1, vocab] float32 of the last one.

        The array is overwritten by the next step.
        """

    def encode(self, frames: Array) -> tuple[Array, Array | None]:
        """frames [N, H, W, 3] uint8 -> visual_embeds [N, tokens, hidden] and deep [N, deep_layers, tokens, hidden]."""

    def reset(self) -> None:
        """Empty the state."""

    def state(self) -> dict[str, Array]:
        """Copies of all state tensors by their graph names."""

    def load_state(self, tensors: Mapping[str, Array]) -> None:
        """Replace the state; names, shapes and dtypes must be those of `state()`."""

    @property
    def state_bytes(self) -> int:
        """Bytes of the state's buffers."""
