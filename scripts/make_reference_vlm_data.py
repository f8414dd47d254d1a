"""Write the reference VLM's calibration set and sample pictures; the same bytes at every run.

    python scripts/make_reference_vlm_data.py

`retentive_export/calibration/reference-vlm/` gets pictures of train digits, with dialogues in which `answer` is what
the model says with its full KV cache and `truth` what the picture shows. `retentive_export/reference_vlm/samples/` gets
two pictures of held-out digits with their grid and true dialogue.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from eval_reference_vlm import ReferenceVLM
from PIL import Image

from retentive_export.reference_vlm import samples_dir, weights_dir
from retentive_export.reference_vlm.dialogue import sample_dialogue
from retentive_export.reference_vlm.pictures import load_digit_sets, sample_grid

CALIBRATION = samples_dir().parents[1] / "calibration" / "reference-vlm"


def write_calibration(out: Path, pictures: int, turns: int, seed: int) -> None:
    """Pictures of train digits and `dialogues.jsonl`, one line per picture."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    vlm = ReferenceVLM(weights_dir(), torch.float32)
    lines = []
    for number in range(1, pictures + 1):
        picture, grid = sample_grid(load_digit_sets()[0], rng)
        dialogue = sample_dialogue(grid, rng, turns)
        answers = vlm.free_running(picture, [turn.question for turn in dialogue])
        name = f"picture-{number}.png"
        Image.fromarray(picture).save(out / name, optimize=True)
        asked = [
            {"question": turn.question, "answer": answer, "truth": turn.answer}
            for turn, answer in zip(dialogue, answers, strict=True)
        ]
        lines.append(json.dumps({"picture": name, "grid": grid.tolist(), "dialogue": asked}))
    (out / "dialogues.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_samples(out: Path, turns: int, seed: int) -> None:
    """`sample-1.png`, `sample-1.json`, `sample-2.png`, `sample-2.json`."""
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in (1, 2):
        picture, grid = sample_grid(load_digit_sets()[1], rng)
        dialogue = [{"question": turn.question, "answer": turn.answer} for turn in sample_dialogue(grid, rng, turns)]
        Image.fromarray(picture).save(out / f"sample-{number}.png", optimize=True)
        rows = ",\n".join(f"    {json.dumps(row)}" for row in grid.tolist())
        asked = ",\n".join(f"    {json.dumps(turn)}" for turn in dialogue)
        text = f'{{\n  "grid": [\n{rows}\n  ],\n  "dialogue": [\n{asked}\n  ]\n}}\n'
        (out / f"sample-{number}.json").write_text(text, encoding="utf-8")


def main() -> None:
    """Parse the command line and write both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--seed", type=int, default=2)
    options = parser.parse_args()
    write_samples(samples_dir(), options.turns, options.seed + 1)
    write_calibration(CALIBRATION, options.pictures, options.turns, options.seed)


if __name__ == "__main__":
    main()
