"""A step in two parts: whose turn it is, and who waits for whom. A GPU checks the parts themselves, in the harness."""

from __future__ import annotations

from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor

from retentive_export.cache.loop import CacheLoop
from retentive_export.ops import aside
from retentive_export.ops.aside import TURNS, AsideStep
from retentive_export.ops.torch_ops import step_in_place
from retentive_export.spec.geometry import CacheGeometry
from tests.ops.helpers import GATE, SCALE, random_tokens

GEOMETRY = CacheGeometry(
    q_heads=4, kv_heads=2, head_dim=16, exact_rows=24, sinks=2, window=8, chunk=8, frame_grid=(4, 4)
)


class Stream:
    """A CUDA stream that notes what it waits for."""

    numbers = count()

    def __init__(self, *_: Any) -> None:
        self.waited: list[Any] = []

    def record_event(self) -> int:
        return next(self.numbers)

    def wait_event(self, event: int) -> None:
        self.waited.append(event)

    def wait_stream(self, stream: Stream) -> None:
        self.waited.append(stream)


class Operators:
    """`NativeOperators` for the CPU: the step in one part, and the workspaces that it was given."""

    def __init__(self) -> None:
        self.workspaces: list[int] = []

    def step_workspace(self, config: str) -> int:
        return 64

    def step_aside(self, *tensors: Any, workspace: Tensor, side: Stream) -> Tensor:
        self.workspaces.append(workspace.data_ptr())
        output: Tensor = torch.ops.retentivekv.step_(*tensors)
        return output


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch) -> Stream:
    stream = Stream()
    monkeypatch.setattr(aside.torch.cuda, "Stream", Stream)
    monkeypatch.setattr(aside.torch.cuda, "current_stream", lambda device: stream)
    return stream


def loop_of(step: Any) -> CacheLoop:
    loop = CacheLoop(GEOMETRY, GATE, 1, step=step)
    loop.reset()
    return loop


def test_workspaces_take_turns(main: Stream) -> None:
    """The first steps wait for nothing, later ones for the part that used their workspace last; `join` for all."""
    operators = Operators()
    step = AsideStep(operators, torch.device("cpu"))  # type: ignore[arg-type]
    loop, generator = loop_of(step.step), torch.Generator().manual_seed(0)
    for index in range(2 * TURNS):
        query, key, value, loop.token_meta = random_tokens(GEOMETRY, 1, index, generator)
        loop.attend(0, query, key, value, SCALE)
    assert operators.workspaces[:TURNS] == operators.workspaces[TURNS:]
    assert len(set(operators.workspaces)) == TURNS
    first = main.waited[0]
    assert main.waited == list(range(first, first + TURNS))
    main.waited.clear()
    step.join()
    assert main.waited == [step._side]
    step.join()
    query, key, value, loop.token_meta = random_tokens(GEOMETRY, 1, 2 * TURNS, generator)
    loop.attend(0, query, key, value, SCALE)
    assert main.waited == [step._side]


def test_several_tokens_go_in_one_part(main: Stream) -> None:
    """The outputs and states of `step_in_place`, chunks among single tokens; a chunk waits for what is aside."""
    operators = Operators()
    step = AsideStep(operators, torch.device("cpu"))  # type: ignore[arg-type]
    ours, plain = loop_of(step.step), loop_of(step_in_place)
    generator, seen = torch.Generator().manual_seed(0), 0
    for steps in (5, 1, 1, 3, 1):
        query, key, value, meta = random_tokens(GEOMETRY, steps, seen, generator)
        ours.token_meta = plain.token_meta = meta
        got, want = ours.attend(0, query, key, value, SCALE), plain.attend(0, query, key, value, SCALE)
        assert torch.equal(got, want)
        seen += steps
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(ours.flat(), plain.flat(), strict=True))
    assert len(operators.workspaces) == 3
    assert main.waited == [step._side]
