"""Shared by all tests: the repository's root on the path, the plugins' build, and tiny artifacts; each made once a
session."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from retentive_export.pipeline import BuildResult

ROOT = Path(__file__).resolve().parents[1]
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # read by the libraries when they are first imported
sys.path.insert(0, str(ROOT))

VISION_FRAME = (32, 48)


@pytest.fixture(scope="session")
def plugin_build() -> Path:
    """Build folder with libretentive_plugins.so, libretentive_reference.so and libretentive_driver.so, up to date."""
    preset = "aarch64-native" if platform.machine() == "aarch64" else "x86_64"
    done = subprocess.run(
        [ROOT / "scripts" / "build_plugins.sh", preset],
        env=os.environ | {"VENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return ROOT / "plugins" / "build" / preset


@pytest.fixture(scope="session")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 2-layer Llama with its tokenizer, as `save_pretrained` writes it."""
    from tests.factories import make_model, make_tokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-llama"
    make_model("llama", num_hidden_layers=2, seed=3).save_pretrained(path)
    make_tokenizer("llama").save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def vision_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random 3-layer Qwen3-VL with its tokenizer and image processor."""
    from tests.factories import make_image_processor, make_model, make_tokenizer

    path = tmp_path_factory.mktemp("models") / "tiny-qwen3-vl"
    make_model("qwen3_vl", seed=3).save_pretrained(path)
    make_tokenizer("qwen3_vl").save_pretrained(path)
    make_image_processor("qwen3_vl").save_pretrained(path)
    return path


def text_recipe(model: Path, **cache: Any) -> dict[str, Any]:
    """A bounded text recipe: evicts after a few dozen tokens."""
    return {
        "name": "tiny-text",
        "model": {"source": str(model)},
        "cache": {
            **{"policy": "h2o", "readout": "none", "budget": {"rows": 24}, "context": 256},
            **{"sinks": 2, "window": 8, "chunk": 8},
            **cache,
        },
        "generation": {"max_new_tokens": 12},
        "golden_steps": 8,
    }


def vision_recipe(model: Path, **cache: Any) -> dict[str, Any]:
    """A bounded vision recipe: int8 rows, memory rows with anchors, two prefill chunks a frame."""
    return {
        "name": "tiny-vision",
        "model": {"source": str(model), "frame": list(VISION_FRAME)},
        "cache": {
            **{"policy": "retentive", "readout": "mass", "budget": {"rows": 32}, "context": 256},
            **{"rows": {"dtype": "int8", "exact": 16}, "sinks": 2, "window": 8, "chunk": 8},
            **cache,
        },
        "generation": {"max_new_tokens": 12},
        "golden_steps": 8,
    }


def build_artifact(recipe: dict[str, Any], output: Path, target: str = "cpu", **options: Any) -> BuildResult:
    """Build; options as those of `build`."""
    from retentive_export.pipeline import build
    from retentive_export.spec.recipe import parse_recipe

    return build(parse_recipe(recipe), target, output, **options)


@pytest.fixture(scope="session")
def text_artifact(text_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished text artifact, read-only by agreement: a test that alters files copies it first."""
    return build_artifact(text_recipe(text_model), tmp_path_factory.mktemp("artifacts") / "text").directory


@pytest.fixture(scope="session")
def vision_artifact(vision_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished vision artifact, read-only by agreement."""
    return build_artifact(vision_recipe(vision_model), tmp_path_factory.mktemp("artifacts") / "vision").directory


@pytest.fixture(scope="session")
def full_build(text_model: Path, text_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildResult:
    """The text artifact built over again with a full cache of 64 tokens."""
    output = tmp_path_factory.mktemp("artifacts") / "full"
    shutil.copytree(text_artifact, output)
    recipe = text_recipe(text_model, policy="full", context=64, budget={"fraction": 1.0})
    return build_artifact(recipe, output)


@pytest.fixture(scope="session")
def full_artifact(full_build: BuildResult) -> Path:
    """A text artifact with a full cache of 64 tokens, read-only by agreement."""
    return full_build.directory
