"""What follows from the arms' measurements: speed-ups, the share of the prediction reached, the table."""

from __future__ import annotations

from typing import Any

__all__ = ["PUBLISHED", "print_table", "with_speedups"]

PUBLISHED: list[dict[str, Any]] = [
    {"source": "arXiv 2605.04075, published, A100, Qwen3-VL", "arm": name, "cache_gib": gib, "ms_per_token": ms}
    for name, gib, ms in (("full", 2.24, 32.15), ("20%", 0.46, 21.42), ("5%", 0.23, 18.42))
]
"""Other hardware, other software and another loop: to be set beside ours, not compared."""


def with_speedups(result: dict[str, Any]) -> None:
    """Add to every bounded arm its speed-up over the full cache of the same batch and context, where that was run."""
    full = {(arm["batch"], arm["context"]): arm for arm in result["arms"] if arm["arm"] == "full"}
    for arm in result["arms"]:
        base = full.get((arm["batch"], arm["context"]))
        if base is None or base is arm:
            continue
        arm["cache_ratio"] = round(base["cache_bytes"] / arm["cache_bytes"], 3)
        arm["predicted_speedup"] = round(base["moved_bytes"] / arm["moved_bytes"], 4)
        arm["speedup"] = round(base["ms_per_token"]["median"] / arm["ms_per_token"]["median"], 4)
        arm["of_prediction"] = round(arm["speedup"] / arm["predicted_speedup"], 4)


def print_table(result: dict[str, Any]) -> None:
    """The arms, then the published figures, marked as such."""
    gpu = result["machine"]["gpu"] or "CPU"
    print(f"\n{result['shape']['name']}, bfloat16, {gpu}; copy {result['copy_bytes_per_second'] / 1e9:.0f} GB/s, "
          f"weights {result['weights_bytes'] / 2**30:.2f} GiB")  # fmt: skip
    print(f"{'batch':>5} {'context':>7} {'arm':>16} {'cache GiB':>9} {'ms/token':>9} {'p10-p90':>15} {'floor ms':>8} "
          f"{'peak GiB':>8} {'speed-up':>8} {'predicted':>9} {'share':>6}")  # fmt: skip
    for arm in result["arms"]:
        ms = arm["ms_per_token"]
        peak = "-" if arm["peak_bytes"] is None else f"{arm['peak_bytes'] / 2**30:.2f}"
        compared = [f"{arm[name]:.2f}" if name in arm else "-" for name in _COMPARED]
        print(f"{arm['batch']:>5} {arm['context']:>7} {arm['arm']:>16} {arm['cache_bytes'] / 2**30:>9.3f} "
              f"{ms['median']:>9.3f} {ms['p10']:>7.3f}-{ms['p90']:<7.3f} {arm['floor_ms']:>8.3f} {peak:>8} "
              f"{compared[0]:>8} {compared[1]:>9} {compared[2]:>6}")  # fmt: skip
    for skipped in result["not_run"]:
        print(f"{skipped['batch']:>5} {skipped['context']:>7} {skipped['arm']:>16} not run: {skipped['reason']}")
    print("published, other hardware (A100), arXiv 2605.04075:")
    base = result["published"][0]["ms_per_token"]
    for line in result["published"]:
        print(f"{'':>13} {line['arm']:>16} {line['cache_gib']:>9.2f} {line['ms_per_token']:>9.2f} {'':>15} {'':>8} "
              f"{'':>8} {base / line['ms_per_token']:>8.2f}")  # fmt: skip


_COMPARED = ("speedup", "predicted_speedup", "of_prediction")
