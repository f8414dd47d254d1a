"""The full cache, exactly: what every arm is compared with, and what the oracle knows."""

from __future__ import annotations

import torch
from torch import Tensor

from retentive_export.eval.scores import Oracle
from retentive_export.eval.streams import Batch

__all__ = ["FullLoop", "grouped_logits"]

MASKED = -1e30


def grouped_logits(query: Tensor, keys: Tensor, scale: float) -> Tensor:
    """q k^T with grouped heads: query [B, Hq, T, D], keys [B, Hkv, N, D] -> [B, Hkv, G, T, N] float32."""
    batch, heads, steps, dim = query.shape
    grouped = query.float().reshape(batch, keys.shape[1], heads // keys.shape[1], steps, dim) * scale
    return torch.matmul(grouped, keys.float().transpose(-1, -2).unsqueeze(2))


class FullLoop:
    """Keeps everything; implements `AttentionLoop`.

    With `watch`, it records per step and layer the attention that every column received from the step's queries: summed
    over queries and averaged over the heads of a group, and its largest share. That is the oracles' knowledge.

    Set `token_meta` ([B, T, 2]) before each pass, as for `CacheLoop`.
    """

    def __init__(self, layers: int, *, watch: bool = False) -> None:
        self.keys: list[Tensor | None] = [None] * layers
        self.values: list[Tensor | None] = [None] * layers
        self.watch = watch
        self.received: list[list[Tensor]] = [[] for _ in range(layers)]
        self.peaks: list[list[Tensor]] = [[] for _ in range(layers)]
        self.token_meta: Tensor | None = None
        self._valid: Tensor | None = None
        self._layer = layers

    def attend(self, layer_index: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """See `AttentionLoop.attend`."""
        assert self.token_meta is not None
        valid = self.token_meta[..., 0] >= 0  # [B, T]
        if layer_index == 0:
            self._valid = valid if self._valid is None else torch.cat([self._valid, valid], dim=1)
        assert self._valid is not None
        before_keys, before_values = self.keys[layer_index], self.values[layer_index]
        keys = key if before_keys is None else torch.cat([before_keys, key], dim=2)
        values = value if before_values is None else torch.cat([before_values, value], dim=2)
        self.keys[layer_index], self.values[layer_index] = keys, values
        mask = causal(self._valid, query.shape[2])  # [B, T, N]
        if not self.watch:
            return torch.nn.functional.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask.unsqueeze(1), scale=scale, enable_gqa=True
            )
        logits = grouped_logits(query, keys, scale).masked_fill(~mask[:, None, None], MASKED)
        weights = torch.softmax(logits, dim=-1)  # [B, Hkv, G, T, N]
        real = weights * valid[:, None, None, :, None]
        self.received[layer_index].append(real.mean(dim=2).sum(dim=2))
        self.peaks[layer_index].append(real.amax(dim=(2, 3)))
        output = torch.matmul(weights, values.float().unsqueeze(2))
        return output.reshape(query.shape).to(query.dtype)

    def oracles(self, batch: Batch, parts: list[slice]) -> dict[str, Oracle]:
        """What was recorded, by position and from each step of the run on; `parts` are the steps' columns."""
        positions = batch.token_meta[..., 0].long()
        ends = torch.stack([positions[:, : part.stop].amax(dim=1) + 1 for part in parts], dim=1)  # [B, S]
        masses = [_by_position(steps, positions, batch.longest) for steps in self.received]
        peaks = [_by_position(steps, positions, batch.longest) for steps in self.peaks]
        return {
            "oracle": Oracle([table.flip(0).cumsum(dim=0).flip(0) for table in masses], ends),
            "oracle_peak": Oracle([table.flip(0).cummax(dim=0).values.flip(0) for table in peaks], ends, peak=True),
        }


def _by_position(steps: list[Tensor], positions: Tensor, size: int) -> Tensor:
    """Per step [B, Hkv, columns so far] -> [S + 1, B, Hkv, size]; the last step is empty."""
    place = torch.where(positions >= 0, positions, size)  # padding goes to a column of its own
    table = steps[0].new_zeros(len(steps) + 1, *steps[0].shape[:2], size + 1)
    for index, received in enumerate(steps):
        columns = place[:, None, : received.shape[-1]].expand_as(received)
        table[index].scatter_(2, columns, received)
    return table[..., :size]


def causal(valid: Tensor, steps: int) -> Tensor:
    """[B, T, N] bool: which of all columns so far the last `steps` see; padding sees the first column alone."""
    columns = valid.shape[1]
    at = torch.arange(columns, device=valid.device)
    mask = (at[None, :] <= at[columns - steps :, None]).unsqueeze(0) & valid.unsqueeze(1)
    mask[..., 0] |= ~mask.any(dim=-1)
    return mask
