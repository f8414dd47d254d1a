"""Bounded runs of the reference VLM: equal to PyTorch, constant in memory and in cost per token."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from retentive_export.runtime import Session
from tests.end_to_end.twin import QUANTISED, Twin, build_recipe

STEPS = 256


@pytest.mark.parametrize("rows", ["int8", "model"])
def test_256_steps_with_eviction_equal_the_reference(
    rows: str, tmp_path: Path, sample: dict[str, Any], reference_artifact: Path
) -> None:
    """Logits within 1e-3 of their range, the same victims at every step, the same tokens; both run freely."""
    artifact = reference_artifact
    if rows != "int8":
        overrides = (*QUANTISED, "cache.budget.rows=112", "golden_steps=1", f"cache.rows.dtype={rows}")
        artifact = build_recipe("reference-vlm", tmp_path / "out", *overrides)
    twin = Twin(artifact, sample)
    for part in twin.prefill:
        twin.step(part)
        _assert_equal(twin)
    for _ in range(STEPS):
        assert twin.full()
        twin.step(twin.next_token())
        _assert_equal(twin)


def _assert_equal(twin: Twin) -> None:
    assert twin.logit_error() <= 1e-3
    assert twin.got.argmax() == twin.want.argmax()
    state, reference = twin.backend.state(), twin.reference_state()
    for name in twin.names:
        if name.endswith("row_meta"):
            assert np.array_equal(state[name], reference[name]), name


def test_256_int4_steps_from_the_same_state_equal_the_reference(tmp_path: Path, sample: dict[str, Any]) -> None:
    """A rounding difference of 1e-7 can flip an int4 code by a whole level, which two free runs never forget. So each
    step starts from the reference's state: same victims, same tokens, and codes that differ by one level at most, in
    fewer than one of 10,000."""
    overrides = (*QUANTISED, "cache.budget.rows=112", "golden_steps=1", "cache.rows.dtype=int4")
    twin = Twin(build_recipe("reference-vlm", tmp_path / "out", *overrides), sample)
    flips = codes = 0
    for index in range(len(twin.prefill) + STEPS):
        twin.backend.load_state(twin.reference_state())
        twin.step(twin.prefill[index] if index < len(twin.prefill) else twin.next_token())
        _assert_equal(twin)
        state, reference = twin.backend.state(), twin.reference_state()
        for name in twin.names:
            if name.endswith("codes"):
                difference = _unpacked(state[name]) - _unpacked(reference[name])
                assert np.abs(difference).max() <= 1, name
                flips, codes = flips + int((difference != 0).sum()), codes + difference.size
    assert flips <= codes * 1e-4, (flips, codes)


def _unpacked(codes: Any) -> Any:
    return np.concatenate([codes & 15, codes >> 4], axis=-1).astype(np.int32)


def test_4096_steps_take_constant_memory(reference_artifact: Path, sample: dict[str, Any]) -> None:
    """State bytes are the manifest's at every step, and the process grows by less than 8 MB."""
    session = _fed(reference_artifact, sample, 400)
    gc.collect()
    before = psutil.Process().memory_info().rss
    for _ in range(4096):
        session._feed_text([17])
        assert session.state_bytes == session.manifest.state_bytes
    gc.collect()
    assert psutil.Process().memory_info().rss - before < 8 << 20


def test_a_step_costs_the_same_at_4096_tokens_as_at_400(reference_artifact: Path, sample: dict[str, Any]) -> None:
    """Ratio of medians under 1.1; the two sessions take turns, so that the machine's noise meets both alike."""
    sessions = [_fed(reference_artifact, sample, tokens) for tokens in (400, 4096)]
    seconds: list[list[float]] = [[], []]
    for _ in range(300):
        for session, record in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session._feed_text([17])
            record.append(time.perf_counter() - started)
    early, late = (float(np.median(record)) for record in seconds)
    assert late / early < 1.1


def _fed(artifact: Path, sample: dict[str, Any], tokens: int) -> Session:
    """A session that has seen a picture and text, `tokens` tokens in all."""
    session = Session.open(artifact, threads=1)
    session.observe(sample["picture"])
    session._feed_text([17] * (tokens - session.tokens_seen))
    return session
