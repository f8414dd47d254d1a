"""Decode attention of one layer: our whole step against PyTorch's scaled_dot_product_attention, which does no gating.

    PYTHONPATH=. python -m benchmarks.sdpa_compare --library libretentive_plugins.so --commit HASH --out sdpa.json
    PYTHONPATH=. python -m benchmarks.sdpa_compare --tiny           # the same code on the CPU, in seconds

Batch 1, 8 KV heads, 32 query heads of size 128, bfloat16, one new token. Ours: attention, gate and transition on R
full rows, in place. PyTorch's: each backend that takes the shape, over R rows and over 5 R (the full cache of a 20 %
budget). All under CUDA-graph replay over so many layers of buffers that none stays in the L2 cache; microseconds are
per layer.
"""

from __future__ import annotations

import argparse
import gc
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.decode_arms import relative_error, sdpa_forms
from benchmarks.measure import Captured, copy_bandwidth, machine, note, summary, time_calls, write_json
from benchmarks.random_state import key_scale, random_state, random_tokens
from retentive_export.cache.step import layer_step
from retentive_export.ops.torch_ops import step_in_place
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["main", "variants"]

ROWS = [1024, 2048, 4096, 8192, 16384, 32768, 65536]
MANY = 5
"""Rows of a full cache for each of ours, at a budget of 20 %."""
SPREAD = 256 << 20
"""Bytes that one replay touches at least: several times the L2 cache."""
ERROR_LIMIT = 2e-2
REPEATS = 50


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of one layer. sinks, window: protected rows."""

    kv_heads: int = 8
    groups: int = 4
    head_dim: int = 128
    sinks: int = 4
    window: int = 32
    spread: int = SPREAD


def variants(rows: int, sizes: Sizes) -> dict[str, CacheGeometry]:
    """The bounded caches of `rows` rows that are measured."""
    common: dict[str, Any] = {
        "kv_heads": sizes.kv_heads,
        "q_heads": sizes.kv_heads * sizes.groups,
        "head_dim": sizes.head_dim,
        "dtype": "bfloat16",
        "sinks": sizes.sinks,
        "window": sizes.window,
        "frame_grid": (32, 32),
    }
    side = min(32, math.isqrt(rows // 8))  # as `spec.plan` sizes the memory of a square frame
    recall = max(1, rows // 16)
    memory: dict[str, Any] = {"memory_grid": (side, side), "recall_rows": recall, "readout": "mass"}
    exact = sizes.sinks + sizes.window
    return {
        "bfloat16": CacheGeometry(**common, exact_rows=rows),
        "bfloat16, memory": CacheGeometry(**common, **memory, exact_rows=rows - side * side - recall),
        "int4": CacheGeometry(**common, exact_rows=exact, coarse_rows=rows - exact, coarse_dtype="int4"),
    }


def time_step(geometry: CacheGeometry, layers: int, device: torch.device) -> dict[str, Any]:
    """Microseconds a layer of our step, after a check against the reference; no time where that fails."""
    end, factor = 2 * geometry.rows, geometry.head_dim**-0.5
    gate, scale = GateConfig(), key_scale(geometry, device)
    query, key, value, meta = random_tokens(geometry, 1, end, device, seed=1)
    states = [random_state(geometry, end, device, seed) for seed in range(layers)]
    want, _ = layer_step(query, key, value, meta, states[0], scale, geometry=geometry, gate=gate, scale=factor)

    def step(state: dict[str, Tensor]) -> Tensor:
        output, _ = step_in_place(query, key, value, meta, state, scale, geometry=geometry, gate=gate, scale=factor)
        return output

    error = relative_error(step({name: tensor.clone() for name, tensor in states[0].items()}), want)
    if error > ERROR_LIMIT:
        return {"output_error": error, "refused": f"its output is more than {ERROR_LIMIT} off"}

    def all_layers() -> None:
        for state in states:
            step(state)
        meta[..., 0].add_(1)

    microseconds = _per_layer(all_layers, layers, device)
    return {"output_error": error, "microseconds": microseconds, "bytes": geometry.state_bytes}


def time_sdpa(rows: int, sizes: Sizes, layers: int, device: torch.device) -> dict[str, Any]:
    """Microseconds a layer of every form of scaled_dot_product_attention over `rows` rows; why one refuses them."""
    shape = (1, sizes.kv_heads, rows, sizes.head_dim)
    generator = torch.Generator(device).manual_seed(0)

    def buffers() -> list[Tensor]:
        empty = (torch.empty(shape, dtype=torch.bfloat16, device=device) for _ in range(layers))
        return [tensor.normal_(generator=generator) for tensor in empty]

    keys, values = buffers(), buffers()
    query = torch.randn((1, sizes.kv_heads * sizes.groups, 1, sizes.head_dim), device=device).to(torch.bfloat16)
    found: dict[str, Any] = {}
    for name, form in sdpa_forms(device).items():

        def all_layers(form: Any = form) -> None:
            for key, value in zip(keys, values, strict=True):
                form(query, key, value, sizes.head_dim**-0.5)

        try:
            found[name] = {"microseconds": _per_layer(all_layers, layers, device)}
        except RuntimeError as error:
            found[name] = {"refused": str(error).partition("\n")[0]}
    return {"forms": found, "bytes": 2 * keys[0].nbytes, "best": _best(found)}


def _per_layer(function: Any, layers: int, device: torch.device) -> dict[str, float]:
    spent = time_calls(Captured(function, device), REPEATS if device.type == "cuda" else 3, device)
    return summary((1e3 * one / layers for one in spent), 3)


def _best(found: dict[str, Any]) -> dict[str, Any]:
    timed = {name: entry["microseconds"]["median"] for name, entry in found.items() if "microseconds" in entry}
    name = min(timed, key=lambda one: timed[one])
    return {"form": name, "microseconds": timed[name]}


def compare(rows: int, sizes: Sizes, bandwidth: float, device: torch.device) -> dict[str, Any]:
    """Everything at one number of rows."""
    full = 4 * sizes.kv_heads * rows * sizes.head_dim  # bytes of keys and values in bfloat16
    layers = min(64, max(2, math.ceil(sizes.spread / full)))
    entry: dict[str, Any] = {"rows": rows, "layers": layers, "step": {}}
    for name, geometry in variants(rows, sizes).items():
        # int4 rows are smaller, so that more layers fill the same space
        count = min(128, max(layers, math.ceil(sizes.spread / geometry.state_bytes)))
        entry["step"][name] = _with_rate(time_step(geometry, count, device), bandwidth)
        _release(device)
    for name, times in (("sdpa", 1), (f"sdpa_{MANY}x", MANY)):
        entry[name] = time_sdpa(times * rows, sizes, max(2, layers // times), device)
        entry[name]["best"] = _with_rate(entry[name]["best"] | {"bytes": entry[name]["bytes"]}, bandwidth)
        _release(device)
    entry["ratios"] = _ratios(entry)
    return entry


def _with_rate(found: dict[str, Any], bandwidth: float) -> dict[str, Any]:
    """Add the share of the copy bandwidth that a measured time reaches."""
    if "microseconds" not in found:
        return found
    time = found["microseconds"]
    median = time["median"] if isinstance(time, dict) else time
    return {**found, "share_of_copy": round(found["bytes"] / (1e-6 * median) / bandwidth, 4)}


def _ratios(entry: dict[str, Any]) -> dict[str, float]:
    """How many times faster our step is than others; left out where a time is missing."""
    ours = {name: one["microseconds"]["median"] for name, one in entry["step"].items() if "microseconds" in one}
    base = ours.get("bfloat16")
    if base is None:
        return {}
    ratios = {name: entry[name]["best"]["microseconds"] / base for name in ("sdpa", f"sdpa_{MANY}x")}
    if "int4" in ours:
        ratios["bfloat16_over_int4"] = base / ours["int4"]
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


def _release(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def print_table(result: dict[str, Any]) -> None:
    """Microseconds a layer, and the share of the copy bandwidth."""
    print(f"\n{result['machine']['gpu'] or 'CPU'}, copy {result['copy_bytes_per_second'] / 1e9:.0f} GB/s; "
          "microseconds a layer (share of the copy bandwidth)")  # fmt: skip
    for entry in result["rows"]:
        cells = [f"{entry['rows']:>7} rows"]
        for name, one in entry["step"].items():
            time = f"{one['microseconds']['median']:.1f} ({one['share_of_copy']:.0%})" if "bytes" in one else "wrong"
            cells.append(f"{name} {time}")
        for name in ("sdpa", f"sdpa_{MANY}x"):
            best = entry[name]["best"]
            cells.append(f"{name} {best['microseconds']:.1f} ({best['share_of_copy']:.0%}, {best['form']})")
        ratios = ", ".join(f"{name} {ratio:.2f}" for name, ratio in entry["ratios"].items())
        print(" | ".join([*cells, ratios]))


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run, print the table, return what the JSON holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small sizes on the CPU, with the reference maths")
    parser.add_argument("--library", type=Path, help="libretentive_plugins.so")
    parser.add_argument("--rows", type=int, nargs="+")
    parser.add_argument("--commit", help="of the measured code")
    parser.add_argument("--out", type=Path, help="JSON")
    given = parser.parse_args(arguments)
    device = torch.device("cpu" if given.tiny else "cuda")
    sizes = Sizes()
    if given.tiny:
        sizes = Sizes(kv_heads=2, groups=2, head_dim=16, sinks=2, window=4, spread=1 << 14)
    else:
        from retentive_export.ops.dispatch import enable_cuda

        enable_cuda(given.library)
    bandwidth = copy_bandwidth(device, 1 << 20 if given.tiny else 2 << 30)
    result: dict[str, Any] = {
        "benchmark": "sdpa_compare",
        "machine": machine(device),
        "commit": given.commit,
        "copy_bytes_per_second": bandwidth,
        "rows": [],
    }
    for rows in given.rows or ([64, 128] if given.tiny else ROWS):
        result["rows"].append(compare(rows, sizes, bandwidth, device))
        note(f"{rows} rows: {result['rows'][-1]['ratios']}")
        if given.out is not None:
            write_json(given.out, result)
    print_table(result)
    return result


if __name__ == "__main__":
    main()
