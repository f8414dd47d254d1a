"""Malformed use of the plugins is refused with an error code and a logged message, and the process survives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def answers(plugin_build: Path) -> list[dict[str, Any]]:
    """How each malformed use was answered, in a process that came to its end."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.plugins.malformed_plugin_use", plugin_build],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"after {lines[-1:]}: {done.stderr[-2000:]}"
    assert lines.pop() == {"survived": True}
    return lines


@pytest.mark.parametrize(("group", "least"), [("attribute", 300), ("tensor", 1000), ("pointer", 100)])
def test_malformed_use_is_refused_and_the_message_names_the_field(
    answers: list[dict[str, Any]], group: str, least: int
) -> None:
    cases = [answer for answer in answers if answer["group"] == group]
    assert len(cases) >= least
    assert [case["what"] for case in cases if not case["refused"]] == []
    assert [(case["what"], case["log"]) for case in cases if case["names"] not in case["log"]] == []


def test_messages_say_who_refused(answers: list[dict[str, Any]]) -> None:
    for case in answers:
        assert re.match(r"(RetentiveAttention|EntropyGate|StateTransition) 'driven' \w+: ", case["log"]), case


def test_a_message_reads_well(answers: list[dict[str, Any]]) -> None:
    log = {case["what"]: case["log"].rstrip() for case in answers}
    assert log["EntropyGate readout='moments'"] == (
        "EntropyGate 'driven' createPlugin: attribute 'readout' is 'moments'; accepted: 'mass', 'residual', 'none'"
    )
    assert log["enqueue: RetentiveAttention T = 6"] == (
        "RetentiveAttention 'driven' enqueue: T is 6 (dimension 1 of 'token_meta'); "
        "accepted: 1 .. 5, the chunk, which is at most the window (5)"
    )
    assert log["onShapeChange: StateTransition key as int32"] == (
        "StateTransition 'driven' onShapeChange: input 5 'key' is int32; accepted: [1, 2, T, 8] float32"
    )
