from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def known_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 GB/s by every number of threads: nothing here depends on the machine's memory."""
    monkeypatch.setattr("retentive_export.bench.run.copy_bandwidth", lambda threads: 1e9)
