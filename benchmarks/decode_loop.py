"""The whole decode loop of a published shape: bounded cache against full cache, ms/token and bytes.

    PYTHONPATH=. python -m benchmarks.decode_loop --library libretentive_plugins.so --commit HASH --out decode-loop.json
    PYTHONPATH=. python -m benchmarks.decode_loop --tiny            # the same code on the CPU, in seconds

Qwen3-VL-4B's text model with random bfloat16 weights, greedy decode, one CUDA graph per step in every arm. The arms
share the model's code and differ in `attend` alone. Full cache: static buffers, read whole by PyTorch's fastest
scaled_dot_product_attention for the shape. Bounded: rows for 50, 20 and 5 % of the context, and int4 rows in 20 % of
the bytes, every row occupied. Predicted speed-up: the ratio of the bytes that a step must move, weights and cache.
"""

from __future__ import annotations

import argparse
import gc
import time
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from benchmarks.decode_arms import Bounded, FullCache, plan, sdpa_forms, text_shape
from benchmarks.decode_model import SHAPES, Attend, Compilation, DecodeStep, build_model, weight_bytes
from benchmarks.decode_report import PUBLISHED, print_table, with_speedups
from benchmarks.measure import (
    Captured,
    copy_bandwidth,
    kernel_times,
    machine,
    note,
    summary,
    time_calls,
    write_json,
)
from retentive_export.ops.aside import AsideStep
from retentive_export.ops.dispatch import enable_cuda
from retentive_export.spec.plan import CachePlan

__all__ = ["Benchmark", "main"]

ERROR_LIMIT = 2e-2
"""Of a bounded layer's output in bfloat16 against the float32 reference; beyond it no speed is measured."""
SPARE = 4 << 30
"""Bytes of GPU memory beside weights and cache that an arm must find."""


@dataclass
class Benchmark:
    """All arms of one run; `result` is complete JSON after every arm."""

    shape: str
    device: torch.device
    batches: list[int]
    contexts: list[int]
    budgets: list[float]
    repeats: int
    compile: bool
    tune_gemv: bool
    kernels: bool
    deadline: float
    out: Path | None
    protect: dict[str, int]
    aside: AsideStep | None = None
    result: dict[str, Any] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    @cached_property
    def model(self) -> Any:
        return build_model(self.shape, self.device, torch.bfloat16)

    def run(self, commit: str | None) -> dict[str, Any]:
        """Measure everything, writing the JSON after each arm."""
        self.result |= {
            "benchmark": "decode_loop",
            "machine": machine(self.device),
            "commit": commit,
            "shape": {"name": self.shape, **SHAPES[self.shape], "dtype": "bfloat16"},
            "weights_bytes": weight_bytes(self.model),
            "copy_bytes_per_second": self._bandwidth(),
            "published": PUBLISHED,
            "settled": "in one stream" if self.aside is None else "aside",
            "compiled": {},
            "arms": [],
            "not_run": [],
        }
        note(f"weights {self.result['weights_bytes'] / 2**30:.2f} GiB, "
             f"copy {self.result['copy_bytes_per_second'] / 1e9:.0f} GB/s")  # fmt: skip
        for batch in self.batches:
            step = DecodeStep(self.model, batch, 0, self.device)
            compilation = self._compile(step) if self.compile else None
            self.result["compiled"][str(batch)] = compilation is not None
            for context in self.contexts:
                for name, cache in self._arms(context):
                    self._arm(step, name, cache, context)
            if compilation is not None:
                compilation.undo(step)
        return self.result

    def _bandwidth(self) -> float:
        return copy_bandwidth(self.device, 2 << 30 if self.device.type == "cuda" else 1 << 20)

    def _compile(self, step: DecodeStep) -> Compilation | None:
        """On an empty attention, so that the arms' caches need not be there yet."""

        class Nothing:
            token_meta: torch.Tensor | None = None

            def attend(self, layer: int, query: Any, key: Any, value: Any, scale: float) -> Any:
                return torch.zeros_like(query)

            def join(self) -> None:
                pass

        step.use(Nothing())
        note(f"compiling for batch {step.batch}")
        compilation = Compilation.attempt(step, tune_gemv=self.tune_gemv and step.batch == 1)
        note("compiled" if compilation else "going on without compilation")
        return compilation

    def _arms(self, context: int) -> list[tuple[str, dict[str, Any] | None]]:
        """Name and cache section of every arm, the one that the others are compared with first."""
        common = {"context": context, **self.protect}
        bounded: list[tuple[str, dict[str, Any] | None]] = [
            (f"{budget:.0%} rows", {**common, "budget": {"rows": int(budget * context)}}) for budget in self.budgets
        ]
        exact = common["sinks"] + common["window"]
        int4 = {**common, "budget": {"fraction": 0.2}, "rows": {"dtype": "int4", "exact": exact}}
        return [("full", None), *bounded, ("20% bytes, int4", int4)]

    def _arm(self, step: DecodeStep, name: str, cache: dict[str, Any] | None, context: int) -> None:
        """One arm's row of the result, or why there is none."""
        label = {"arm": name, "batch": step.batch, "context": context}
        planned = plan(SHAPES[self.shape], cache or {"context": context, **self.protect}, step.batch)
        predicted = planned.full_cache_bytes if cache is None else planned.state_bytes
        refusal = self._refusal(predicted)
        if refusal is None:
            try:
                row = self._measure(step, planned, name, context, predicted)
                self.result["arms"].append({**label, **row})
                note(f"{label}: {row['ms_per_token']['median']:.3f} ms/token")
            except (RuntimeError, ValueError) as error:  # an arm that fails must not cost the others
                refusal = f"{type(error).__name__}: {error}"
        if refusal is not None:
            self.result["not_run"].append({**label, "reason": refusal})
            note(f"{label}: not run: {refusal}")
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        with_speedups(self.result)
        if self.out is not None:
            write_json(self.out, self.result)

    def _refusal(self, cache_bytes: int) -> str | None:
        if time.perf_counter() - self.started > self.deadline:
            return f"the run's {self.deadline:.0f} seconds are over"
        if self.device.type != "cuda":
            return None
        needed = self.result["weights_bytes"] + cache_bytes + SPARE
        total = torch.cuda.get_device_properties(self.device).total_memory
        return None if needed <= total else f"it takes {needed} bytes, and the GPU has {total}"

    def _measure(self, step: DecodeStep, planned: CachePlan, name: str, context: int, predicted: int) -> dict[str, Any]:
        """Allocate, check, capture, time."""
        row: dict[str, Any] = {}
        loop: Attend
        if name == "full":
            loop = full = FullCache(text_shape(SHAPES[self.shape]), step.batch, context, self.device)
            allocated, row["sdpa"] = full.nbytes, fastest_form(full, planned.geometry.q_heads)
        else:
            loop = bounded = Bounded(
                *(planned.geometry, planned.gate, planned.layers, context, self.device), self.aside
            )
            allocated = bounded.nbytes
            row["rows"], row["readout"] = planned.geometry.rows, planned.geometry.readout
            row["output_error"] = bounded.output_error(context)
            if row["output_error"] > ERROR_LIMIT:
                raise ValueError(f"a layer's output is {row['output_error']} off, more than {ERROR_LIMIT}")
        if allocated != predicted:
            raise ValueError(f"the cache takes {allocated} bytes, and its geometry says {predicted}")
        step.rewind(context)
        step.use(loop)
        on_gpu = self.device.type == "cuda"
        if on_gpu:  # the check above needs memory that decode does not
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        captured = Captured(step, self.device)
        times = time_calls(captured, self.repeats, self.device)
        if step.logits is None or not bool(step.logits.isfinite().all()):
            raise ValueError("the logits hold NaN or infinity")
        moved = self.result["weights_bytes"] + predicted
        if self.kernels and on_gpu:
            row["kernels"] = kernel_times(captured)
        return {
            **row,
            "cache_bytes": predicted,
            "cache_bytes_allocated": allocated,
            "moved_bytes": moved,
            "floor_ms": 1e3 * moved / self.result["copy_bytes_per_second"],
            "ms_per_token": summary(times),
            "peak_bytes": torch.cuda.max_memory_allocated(self.device) if on_gpu else None,
        }


def fastest_form(cache: FullCache, q_heads: int) -> dict[str, Any]:
    """Time every form of scaled_dot_product_attention over all layers, and let the cache use the fastest.

    Returns its name, and microseconds a layer of each, or why it does not take the shape.
    """
    rows = cache.keys[0]
    device, shape = rows.device, (rows.shape[0], q_heads, 1, rows.shape[-1])
    query = torch.randn(shape, device=device).to(rows.dtype)
    times: dict[str, float] = {}
    refused: dict[str, str] = {}
    for name, form in sdpa_forms(device).items():

        def all_layers(form: Any = form) -> None:
            for keys, values in zip(cache.keys, cache.values, strict=True):
                form(query, keys, values, shape[-1] ** -0.5)

        try:
            spent = time_calls(Captured(all_layers, device), 10, device)
            times[name] = round(1e3 * summary(spent, 6)["median"] / len(cache.keys), 3)
        except RuntimeError as error:
            refused[name] = str(error).partition("\n")[0]
    chosen = min(times, key=lambda name: times[name])
    cache.form = sdpa_forms(device)[chosen]
    return {"chosen": chosen, "microseconds_per_layer": times, "refused": refused}


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a small shape on the CPU, with the reference maths")
    parser.add_argument("--library", type=Path, help="libretentive_plugins.so")
    parser.add_argument("--batch", type=int, nargs="+")
    parser.add_argument("--context", type=int, nargs="+", help="tokens that the full cache holds")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.2, 0.05, 0.5], help="rows, of the context")
    parser.add_argument("--repeats", type=int, help="timed tokens per arm")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=None, help="default: on a GPU")
    parser.add_argument("--tune-gemv", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--aside",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="gate and transition on a second stream, as the torch backend does",
    )
    parser.add_argument("--kernels", action="store_true", help="also the time of every kernel, by torch's profiler")
    parser.add_argument("--deadline", type=float, default=420, help="seconds after which no arm is begun")
    parser.add_argument("--commit", help="of the measured code")
    parser.add_argument("--out", type=Path, help="JSON")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Run, print the table, return what the JSON holds."""
    given = parse(arguments)
    device = torch.device("cpu" if given.tiny else "cuda")
    aside: AsideStep | None = None
    if device.type == "cuda":
        aside = AsideStep(enable_cuda(given.library), device)
    benchmark = Benchmark(
        shape="tiny" if given.tiny else "qwen3-vl-4b",
        device=device,
        batches=given.batch or ([1, 2] if given.tiny else [1, 8]),
        contexts=given.context or ([256, 512] if given.tiny else [16384, 65536]),
        budgets=given.budgets,
        repeats=given.repeats or (3 if given.tiny else 100),
        compile=not given.tiny if given.compile is None else given.compile,
        tune_gemv=given.tune_gemv,
        kernels=given.kernels,
        deadline=given.deadline,
        out=given.out,
        aside=aside if given.aside else None,
        protect={"sinks": 2, "window": 8, "chunk": 8} if given.tiny else {"sinks": 4, "window": 32, "chunk": 32},
    )
    result = benchmark.run(given.commit)
    print_table(result)
    return result


if __name__ == "__main__":
    main()
