"""A decode step in two parts on a GPU: the model waits for the attention's output alone.

Statistics, gate and transition of a layer run on a second stream, beside the matrix products that follow the layer's
attention. They read nothing of the step but a workspace, and write the layer's state, which nobody needs before the
layer's next step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from retentive_export.ops.dispatch import NativeOperators
from retentive_export.ops.torch_ops import step_in_place

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
    """A decode step in two parts, for a `CacheLoop`: `step` is `step_in_place`, to the same bits.

    Args:
        operators: of `ops.dispatch.enable_cuda`. device: of the state.

    After each pass through the model call `join`, within the CUDA graph if there is one: until then the state is not
    the pass's. Steps of several tokens are made in one part.
    """

    def __init__(self, operators: NativeOperators, device: torch.device) -> None:
        self._operators = operators
        self._device = device
        self._side = torch.cuda.Stream(device)
        self._turns: dict[str, list[_Turn]] = {}
        self._next = 0
        self.step: Callable[..., tuple[Tensor, dict[str, Tensor]]] = partial(step_in_place, operator=self._step)

    def _step(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        token_meta: Tensor,
        state: Sequence[Tensor],
        key_scale: Tensor | None,
        config: str,
    ) -> Tensor:
        """`torch_ops.step_`."""
        tensors = (query, key, value, token_meta, state, key_scale, config)
        if query.shape[2] != 1:
            self.join()
            return torch.ops.retentivekv.step_(*tensors)  # type: ignore[no-any-return]
        turn = self._turn(config)
        output = self._operators.step_aside(*tensors, workspace=turn.workspace, side=self._side)
        turn.settled = self._side.record_event()
        return output

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
