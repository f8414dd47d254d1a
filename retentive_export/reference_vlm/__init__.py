"""The reference VLM: a small Qwen3-VL-architecture model that reads an 8x8 grid of handwritten digits.

It ships inside the package, so that every command can be tried on a real, trained vision-language model with no
download. ``weights/`` holds a Hugging Face model directory (its README.md is the model card), ``samples/`` two
pictures of held-out digits with their true grid and a dialogue.

* :mod:`.pictures` - digit bitmaps, their split into train and held-out, and the picture of a grid
* :mod:`.dialogue` - questions about a grid and their true answers
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["samples_dir", "weights_dir"]


def weights_dir() -> Path:
    """Directory of the model: config, weights, tokenizer, image processor and model card."""
    return Path(__file__).resolve().parent / "weights"


def samples_dir() -> Path:
    """Directory of the sample pictures (``sample-1.png``) and their truth (``sample-1.json``)."""
    return Path(__file__).resolve().parent / "samples"
