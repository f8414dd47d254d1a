from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import text_recipe
from tests.spec.test_targets import MINE


@pytest.fixture
def recipe_file(text_model: Path, tmp_path: Path) -> Path:
    path = tmp_path / "tiny-text.yaml"
    path.write_text(yaml.safe_dump(text_recipe(text_model)))
    return path


@pytest.fixture
def targets_file(tmp_path: Path) -> Path:
    path = tmp_path / "targets.yaml"
    path.write_text(yaml.safe_dump({"mine": MINE}))
    return path
