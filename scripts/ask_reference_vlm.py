"""Ask an exported reference VLM about a held-out picture; print question, answer, truth, and the bytes of the cache.

python scripts/ask_reference_vlm.py out/reference-vlm
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from retentive_export import Session
from retentive_export.reference_vlm import samples_dir


def main() -> None:
    """Observe the picture once, then ask every question of its dialogue on the same state."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--sample", type=int, choices=[1, 2], default=1)
    arguments = parser.parse_args()
    session = Session.open(arguments.artifact)
    truth = json.loads((samples_dir() / f"sample-{arguments.sample}.json").read_text(encoding="utf-8"))
    with Image.open(samples_dir() / f"sample-{arguments.sample}.png") as picture:
        session.observe(np.asarray(picture.convert("RGB")))
    right = 0
    seconds = 0.0
    tokens = 0
    print(f"{'question':<40} {'answer':<18} truth")
    for turn in truth["dialogue"]:
        answer = session.ask(turn["question"]).strip()
        right += answer == turn["answer"]
        seconds += session.last.decode_seconds
        tokens += len(session.last.token_ids)
        mark = "" if answer == turn["answer"] else "   <- wrong"
        print(f"{turn['question']:<40} {answer:<18} {turn['answer']}{mark}")
    manifest = session.manifest
    full, kept = manifest.full_cache_bytes, session.state_bytes
    print(f"\n{right} of {len(truth['dialogue'])} right, {session.tokens_seen} tokens seen, ", end="")
    print(f"{1e3 * seconds / tokens:.1f} ms per token")
    print(f"KV cache of {manifest.cache['context']} tokens in full: {full / 2**20:.2f} MiB ({manifest.dtype})")
    print(f"bounded state, however long the run: {kept / 2**20:.2f} MiB ({100 * kept / full:.1f} %)")
    print(f"torch in this process: {'yes' if 'torch' in sys.modules else 'no'}")


if __name__ == "__main__":
    main()
