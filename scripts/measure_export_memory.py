"""Peak memory of an export, against the bytes of the weights.

    python scripts/measure_export_memory.py --shape qwen3-vl-2b --dtype float16

Builds the published shape with random weights (the reference VLM's tokenizer and processor stand in for the real ones)
in a process of its own, and prints JSON: bytes of the weights, peak resident memory of the build, their ratio.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Qwen3-VL-2B-Instruct's config.json: sizes only.
SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "qwen3-vl-2b": {
        "text_config": {
            "num_hidden_layers": 28,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151936,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5000000.0,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_heads": 16,
            "patch_size": 16,
            "out_hidden_size": 2048,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    }
}


def write_model(shape: str, folder: Path) -> None:
    """A model directory without weights: the shape's config, the reference VLM's tokenizer and processor."""
    from retentive_export.reference_vlm import weights_dir

    for path in weights_dir().iterdir():
        if path.suffix in {".json", ".jinja"}:
            shutil.copy2(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text())
    for section, fields in SHAPES[shape].items():
        config[section] |= fields
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    processor["patch_size"] = config["vision_config"]["patch_size"]
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))


def build(shape: str, dtype: str, output: Path, frame: int) -> None:
    """Build the artifact; runs in the measured process."""
    from retentive_export.pipeline import build
    from retentive_export.spec.recipe import parse_recipe

    recipe = parse_recipe(
        {
            "name": shape,
            "model": {
                "source": str(output.parent),
                "dtype": dtype,
                "frame": [frame, frame],
                "random_seed": 0,
            },
            "cache": {"policy": "retentive", "budget": {"rows": 256}, "chunk": 32},
            "golden_steps": 1,
        }
    )
    started = time.perf_counter()
    build(recipe, "onnx", output, progress=lambda step, event: print(step, event, file=sys.stderr))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak_bytes": peak, "seconds": round(time.perf_counter() - started, 1)}))


def main() -> None:
    """Parse the command line, run the build in a child, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="qwen3-vl-2b")
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float16")
    parser.add_argument("--frame", type=int, default=256, help="side of the square frame in pixels")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        build(arguments.shape, arguments.dtype, arguments.child, arguments.frame)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_model(arguments.shape, Path(folder))
        output = Path(folder) / "out"
        command = [sys.executable, __file__, "--child", str(output), "--shape", arguments.shape]
        command += ["--dtype", arguments.dtype, "--frame", str(arguments.frame)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        result = json.loads(done.stdout.strip().splitlines()[-1])
        weights = sum(path.stat().st_size for path in output.glob("*.data"))
    result |= {
        "shape": arguments.shape,
        "dtype": arguments.dtype,
        "weights_bytes": weights,
        "ratio": round(result["peak_bytes"] / weights, 3),
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
