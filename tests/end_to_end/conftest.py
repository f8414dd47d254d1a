"""Artifacts of whole models, built once a session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.twin import QUANTISED, build_recipe


@pytest.fixture(scope="session")
def reference_artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reference VLM with a cache so small that every decode step evicts."""
    output = tmp_path_factory.mktemp("reference") / "bounded"
    return build_recipe("reference-vlm", output, *QUANTISED, "cache.budget.rows=112", "golden_steps=4")


@pytest.fixture(scope="session")
def sample() -> dict[str, Any]:
    """A held-out picture, and questions about it with their answers."""
    import json

    import numpy as np
    from PIL import Image

    from retentive_export.reference_vlm import samples_dir

    with Image.open(samples_dir() / "sample-1.png") as image:
        picture = np.asarray(image.convert("RGB"))
    return {"picture": picture, **json.loads((samples_dir() / "sample-1.json").read_text())}
