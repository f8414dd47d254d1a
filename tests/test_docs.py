"""The documentation's Python example runs as it stands, and the output that it shows is what commands print."""

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


def printed(*args: str) -> str:
    """What a command prints, without the spaces that fill its tables."""
    from click.testing import CliRunner

    from retentive_export.cli import main

    result = CliRunner().invoke(main, args)
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.stdout.splitlines()).strip()


def test_shown_plans_and_targets_are_printed(tmp_path: Path) -> None:
    text = (DOCS / "targets.md").read_text(encoding="utf-8")
    assert f"```text\n{printed('targets')}\n```" in text
    (args,) = re.findall(r"^\$ retentive-export (plan .*)$", text, re.MULTILINE)
    assert f"{args}\n{printed(*args.split())}\n```" in text
    drawn = DOCS / "images" / "plan-qwen3-vl-4b-jetson-orin.svg"
    printed("plan", "qwen3-vl-4b", "--target", "jetson-orin", "--plot", str(tmp_path / "plot.svg"))
    assert (tmp_path / "plot.svg").read_bytes() == drawn.read_bytes()


def test_the_documented_targets_file_is_valid(tmp_path: Path) -> None:
    from retentive_export.spec.targets import load_targets

    (block,) = re.findall(r"```yaml\n(.*?)```", (DOCS / "targets.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    assert load_targets(tmp_path / "mine.yaml")["my-robot"].boards[0].memory == 8 * 10**9


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
