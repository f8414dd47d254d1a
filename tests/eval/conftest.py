from __future__ import annotations

import pytest
import torch

from retentive_export.eval.engine import Engine
from retentive_export.spec.recipe_files import load_recipe


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The reference VLM on the CPU."""
    return Engine(load_recipe("reference-vlm"), torch.device("cpu"))
