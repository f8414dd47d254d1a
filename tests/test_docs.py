"""The documentation's Python example runs as it stands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_python_api_example(tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "python-api.md").read_text(encoding="utf-8"), re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert done.stdout.rstrip().endswith("True")


def test_every_recipe_key_is_documented() -> None:
    from pydantic import BaseModel

    from retentive_export.spec.recipe import Recipe

    text = (DOCS / "recipes.md").read_text(encoding="utf-8")
    for section, field in Recipe.model_fields.items():
        if section in ("name", "description"):
            continue
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and section != "generation":
            names = [inner.alias or name for name, inner in kind.model_fields.items()]
            assert not [name for name in names if name not in text], section
        assert section in text
