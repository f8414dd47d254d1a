"""The comparison with scaled_dot_product_attention, on the CPU: what is read, and that a wrong step has no time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sdpa_compare


def test_bytes_are_those_of_the_rows(tmp_path: Path) -> None:
    """By hand: 2 KV heads of 16 bfloat16 channels; SDPA reads keys and values, or five times as many."""
    result = sdpa_compare.main(["--tiny", "--rows", "64", "--out", str(tmp_path / "sdpa.json")])
    (entry,) = result["rows"]
    assert entry["sdpa"]["bytes"] == 2 * 64 * 16 * 2 * 2
    assert entry["sdpa_5x"]["bytes"] == 5 * entry["sdpa"]["bytes"]
    row = 2 * 64 * (16 * 2 * 2 + 8 + 4 + 4)
    assert entry["step"]["bfloat16"]["bytes"] >= row
    assert entry["step"]["int4"]["bytes"] < entry["step"]["bfloat16"]["bytes"]
    assert set(entry["ratios"]) == {"sdpa", "sdpa_5x", "bfloat16_over_int4"}
    assert (tmp_path / "sdpa.json").exists()


def test_a_step_that_is_off_has_no_time_and_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sdpa_compare, "relative_error", lambda got, want: 1.0)
    (entry,) = sdpa_compare.main(["--tiny", "--rows", "64"])["rows"]
    assert all("microseconds" not in one for one in entry["step"].values())
    assert entry["ratios"] == {}
