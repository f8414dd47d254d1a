"""A decode step in two parts on a GPU: the model waits for the attention's output alone.

Statistics, gate and transition of a layer run on a second stream, beside the matrix products that follow the layer's
attention. They read nothing of the step but a workspace, and write the layer's state, which nobody needs before the
layer's next step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from retentive_export.cache.gate import RowStatistics
from retentive_export.cache.latent import LatentBasis
from retentive_export.ops.contract import encode_config
from retentive_export.ops.dispatch import NativeOperators
from retentive_export.ops.torch_ops import step_in_place
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["AsideStep"]

TURNS = 2
"""Workspaces that layers use in turn: an attention waits for the second part of the layer before the last, which is
done by then; and two workspaces stay in the L2 cache, as one for each layer would not."""


@dataclass
class _Turn:
    """A workspace; `settled`: when the second part that used it last is done, None when that was waited for."""

    workspace: Tensor
    settled: torch.cuda.Event | None = None


class AsideStep:
    """A `step` for `CacheLoop`, with `ops.torch_ops.step_in_place`'s results to the last bit.

    Args:
        operators: of `ops.dispatch.enable_cuda`. device: of the state.

    After each pass through the model call `join`, within the CUDA graph if there is one: until then the state is not
    the pass's. Steps of several tokens, and latent rows, are `step_in_place` itself.
    """

    def __init__(self, operators: NativeOperators, device: torch.device) -> None:
        self._operators = operators
        self._device = device
        self._side = torch.cuda.Stream(device)
        self._turns: dict[str, list[_Turn]] = {}
        self._next = 0

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_meta: Tensor,
        state: dict[str, Tensor],
        key_scale: Tensor | None = None,
        *,
        geometry: CacheGeometry,
        gate: GateConfig,
        scale: float,
        score: Callable[[RowStatistics], Tensor] | None = None,
        basis: LatentBasis | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """See `step_in_place`."""
        if query.shape[2] != 1 or score is not None or basis is not None:
            self.join()
            rest: dict[str, Any] = {"score": score, "basis": basis}
            return step_in_place(
                query, key, value, token_meta, state, key_scale, geometry=geometry, gate=gate, scale=scale, **rest
            )
        config = encode_config(geometry, gate, scale)
        turn = self._turn(config)
        tensors = [state[spec.name] for spec in geometry.state()]
        output = self._operators.step_aside(
            *(query, key, value, token_meta, tensors, key_scale, config), workspace=turn.workspace, side=self._side
        )
        turn.settled = self._side.record_event()
        return output, state

    def join(self) -> None:
        """The current stream waits for everything that runs aside."""
        pending = [turn for turns in self._turns.values() for turn in turns if turn.settled is not None]
        if pending:
            torch.cuda.current_stream(self._device).wait_stream(self._side)
        for turn in pending:
            turn.settled = None

    def _turn(self, config: str) -> _Turn:
        """The next workspace, free to be used on the current stream."""
        if config not in self._turns:
            size = self._operators.step_workspace(config)
            self._turns[config] = [
                _Turn(torch.empty(size, dtype=torch.uint8, device=self._device)) for _ in range(TURNS)
            ]
        turn = self._turns[config][self._next % TURNS]
        self._next += 1
        if turn.settled is not None:
            torch.cuda.current_stream(self._device).wait_event(turn.settled)
            turn.settled = None
        return turn
