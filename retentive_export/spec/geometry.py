"""Cache geometry: how many rows of which kind, every state tensor's shape, and therefore every byte.

Torch-free, so that a planner and a device can compute the same numbers. One layer's rows live in one index space:

    0 .. X-1        exact local rows      model dtype
    X .. X+Y-1      coarse local rows     int8 or packed int4
    X+Y .. C-1      latent local rows     packed codes or model dtype      C = X + Y + Z
    C .. R-1        memory rows           visual anchors, then recall      R = C + M

Exact rows are stored in `key_rows`/`value_rows`, coarse rows in `key_codes`/`value_codes`/`value_scale`, latent rows in
`latent_codes`; memory rows are appended to the exact or the coarse store, or are latents of their own in
`memory_latents` (`memory_store`). A latent row is one vector for all heads of the layer, so with latent rows the heads
keep the same tokens: bookkeeping has one head (`row_heads`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from retentive_export.errors import RecipeError

__all__ = ["BYTES", "CacheGeometry", "TensorSpec"]

FloatType = Literal["float32", "float16", "bfloat16"]
CoarseType = Literal["int8", "int4"]
Readout = Literal["mass", "residual", "moments", "none"]
LatentType = Literal["model", "int8", "int4", "mixed"]
Store = Literal["exact", "coarse", "latent"]

BYTES: dict[str, int] = {
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int8": 1,
    "uint8": 1,
    "int32": 4,
    "int64": 8,
}


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, shape and dtype of one state tensor, and the value that fills it after `reset`."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    fill: int = 0

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * BYTES[self.dtype]


@dataclass(frozen=True, kw_only=True)
class CacheGeometry:
    """Sizes of the bounded cache of one attention layer.

    Attributes:
        batch, kv_heads, q_heads, head_dim: B, Hkv, Hq, D; Hq is a multiple of Hkv.
        dtype: type of the exact rows.
        exact_rows, coarse_rows: X and Y.
        coarse_dtype: type of the coarse rows; keys share one scale per channel, values one per row.
        latent_rows, latent_rank: Z and r, numbers in a latent row. latent_dtype: their type, "model" for `dtype`;
            "mixed": the first `latent_int8` of them have 8 bits, the next `latent_int4` have 4, the rest have 2.
        memory_grid: rows and columns of the visual memory's anchors (root patches); (0, 0) for none.
        frame_grid: rows and columns of the visual tokens of one frame.
        recall_rows: memory rows for text.
        memory_store: the store that holds the memory rows.
        sinks, window: protected rows: the first `sinks` tokens and the most recent `window` ones.
        chunk: largest number of tokens in one step.
        readout: how evicted tokens are read again.
        track_importance, track_entropy: which statistics the policy keeps.
    """

    kv_heads: int
    q_heads: int
    head_dim: int
    exact_rows: int
    batch: int = 1
    dtype: FloatType = "float32"
    coarse_rows: int = 0
    coarse_dtype: CoarseType = "int8"
    latent_rows: int = 0
    latent_rank: int = 0
    latent_dtype: LatentType = "int8"
    latent_int8: int = 0
    latent_int4: int = 0
    memory_grid: tuple[int, int] = (0, 0)
    frame_grid: tuple[int, int] = (1, 1)
    recall_rows: int = 0
    memory_store: Store = "exact"
    sinks: int = 0
    window: int = 1
    chunk: int = 1
    readout: Readout = "none"
    track_importance: bool = True
    track_entropy: bool = True

    def __post_init__(self) -> None:
        for name in ("batch", "kv_heads", "q_heads", "head_dim", "window", "chunk"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} is {getattr(self, name)}, and must be at least 1")
        for name in (
            "exact_rows",
            "coarse_rows",
            "latent_rows",
            "latent_rank",
            "latent_int8",
            "latent_int4",
            "recall_rows",
            "sinks",
        ):
            if getattr(self, name) < 0:
                raise RecipeError(f"{name} is {getattr(self, name)}, and must not be negative")
        if self.q_heads % self.kv_heads:
            raise RecipeError(f"q_heads {self.q_heads} is not a multiple of kv_heads {self.kv_heads}")
        if min(self.memory_grid) < 0 or min(self.frame_grid) < 1:
            raise RecipeError(f"memory_grid {self.memory_grid} or frame_grid {self.frame_grid} is not a grid")
        self._check_protection()
        self._check_latents()
        self._check_memory()

    def _check_protection(self) -> None:
        if self.chunk > self.window:
            raise RecipeError(
                f"chunk is {self.chunk} and window is {self.window}: a chunk's tokens must all fit in the window",
                hint=f"set chunk to at most {self.window}, or window to at least {self.chunk}",
            )
        if self.local_rows < self.sinks + self.window:
            raise RecipeError(
                f"the budget leaves {self.local_rows} local rows, fewer than sinks + window = "
                f"{self.sinks} + {self.window}",
                hint=f"raise the budget to at least {self.sinks + self.window + self.memory_rows} rows, "
                "or lower sinks, window or the memory",
            )
        names = [name for name in ("exact_rows", "coarse_rows", "latent_rows") if getattr(self, name)]
        for name, behind in pairwise(names):
            if name == names[0] and getattr(self, name) < self.sinks + self.window:
                raise RecipeError(
                    f"{name} is {getattr(self, name)}: with {behind} behind it, it must hold "
                    f"sinks + window = {self.sinks} + {self.window}"
                )
            if getattr(self, behind) < self.chunk:
                raise RecipeError(
                    f"{behind} is {getattr(self, behind)}, fewer than a chunk of {self.chunk}, "
                    "which may be demoted in one step"
                )

    def _check_latents(self) -> None:
        if not self.latent_rows:
            if self.memory_store == "latent":
                raise RecipeError("memory_store is 'latent', and there are no latent rows")
            return
        widest = 2 * self.kv_heads * self.head_dim
        if not 1 <= self.latent_rank <= widest:
            raise RecipeError(
                f"latent_rank is {self.latent_rank}, and must be from 1 to {widest}, the numbers of a token's keys and "
                f"values in {self.kv_heads} heads of size {self.head_dim}"
            )
        if self.latent_dtype == "int4" and self.latent_rank % 2:
            raise RecipeError(f"latent_rank {self.latent_rank} is odd: int4 packs two numbers in a byte")
        if self.latent_dtype == "mixed":
            self._check_mixed()
        if self.memory_rows and self.memory_store != "latent":
            raise RecipeError(
                f"memory_store is {self.memory_store!r}: behind latent rows the memory's rows are latents too",
                hint="set the memory's store to 'latent'",
            )
        if self.readout not in ("mass", "none"):
            raise RecipeError(
                f"readout is {self.readout!r}, which keeps a state per head, and latent rows are shared by all heads",
                hint="set readout to 'mass' or 'none', or the rows to another type",
            )

    def _check_mixed(self) -> None:
        int2 = self.latent_rank - self.latent_int8 - self.latent_int4
        told = (
            f"mixed latents of rank {self.latent_rank}: {self.latent_int8} in int8, {self.latent_int4} in int4, "
            f"{int2} in int2"
        )
        if int2 < 0:
            raise RecipeError(told, hint="raise the rank, or lower int8 or int4")
        if self.latent_int4 % 2 or int2 % 4:
            raise RecipeError(f"{told}: a byte packs two numbers of int4, or four of int2")

    def _check_memory(self) -> None:
        if self.coarse_rows and self.coarse_dtype == "int4" and self.head_dim % 2:
            raise RecipeError(f"head_dim {self.head_dim} is odd: int4 packs two channels in a byte")
        if self.memory_rows and self.readout != "mass":
            raise RecipeError(
                f"{self.memory_rows} memory rows with readout {self.readout!r}: only 'mass' reads memory rows",
                hint="set the memory's grid and recall rows to 0, or readout to 'mass'",
            )
        if self.readout == "mass" and not self.memory_rows:
            raise RecipeError("readout 'mass' needs memory rows", hint="give the memory a grid or recall rows")
        if self.memory_rows and self.memory_store == "coarse" and not self.coarse_rows:
            raise RecipeError("memory_store is 'coarse', and there are no coarse rows")

    @property
    def groups(self) -> int:
        """Query heads per KV head, G."""
        return self.q_heads // self.kv_heads

    @property
    def row_heads(self) -> int:
        """Heads that choose their tokens for themselves: 1 with latent rows, which all heads share, else Hkv."""
        return 1 if self.latent_rows else self.kv_heads

    @property
    def local_rows(self) -> int:
        """C: rows that hold single tokens."""
        return self.exact_rows + self.coarse_rows + self.latent_rows

    @property
    def visual_rows(self) -> int:
        """Memory rows that are anchors on the frame's grid."""
        return self.memory_grid[0] * self.memory_grid[1]

    @property
    def memory_rows(self) -> int:
        """M: rows that hold merged tokens."""
        return self.visual_rows + self.recall_rows

    @property
    def rows(self) -> int:
        """R = C + M."""
        return self.local_rows + self.memory_rows

    @property
    def tiers(self) -> tuple[tuple[int, int], ...]:
        """(first row, rows) of each local tier that exists, in the order of demotion."""
        sizes = (self.exact_rows, self.coarse_rows, self.latent_rows)
        return tuple((sum(sizes[:i]), size) for i, size in enumerate(sizes) if size)

    @property
    def tier_stores(self) -> tuple[Store, ...]:
        """The store of each tier of `tiers`."""
        stores: dict[Store, int] = {"exact": self.exact_rows, "coarse": self.coarse_rows, "latent": self.latent_rows}
        return tuple(store for store, rows in stores.items() if rows)

    @property
    def exact_store_rows(self) -> int:
        """Rows of `key_rows` and `value_rows`."""
        return self.exact_rows + (self.memory_rows if self.memory_store == "exact" else 0)

    @property
    def coarse_store_rows(self) -> int:
        """Rows of `key_codes` and `value_codes`."""
        return self.coarse_rows + (self.memory_rows if self.memory_store == "coarse" else 0)

    def constants(self) -> tuple[TensorSpec, ...]:
        """What a layer's operators read besides the state, constants of the model: see `docs/method.md`."""
        specs: list[TensorSpec] = []
        if self.coarse_rows:
            specs.append(TensorSpec(name="key_scale", shape=(self.kv_heads, self.head_dim), dtype="float32"))
        if self.latent_rows:
            both = (self.kv_heads, 2 * self.head_dim)
            specs += [
                TensorSpec(name=name, shape=(*both, self.latent_rank), dtype=self.dtype)
                for name in ("latent_encode", "latent_decode")
            ]
            specs.append(TensorSpec(name="latent_mean", shape=both, dtype=self.dtype))
        return tuple(specs)

    def state(self) -> tuple[TensorSpec, ...]:
        """The state tensors of one layer, in the order in which ops and graphs carry them."""
        specs: list[TensorSpec] = []

        def add(name: str, shape: tuple[int, ...], dtype: str, fill: int = 0, heads: int = self.kv_heads) -> None:
            specs.append(TensorSpec(name=name, shape=(self.batch, heads, *shape), dtype=dtype, fill=fill))

        if rows := self.exact_store_rows:
            add("key_rows", (rows, self.head_dim), self.dtype)
            add("value_rows", (rows, self.head_dim), self.dtype)
        if rows := self.coarse_store_rows:
            packed = self.coarse_dtype == "int4"
            width, code = (self.head_dim // 2, "uint8") if packed else (self.head_dim, "int8")
            zero = 0x88 if packed else 0  # code 0 in both halves of a byte: an empty row stays as it is when rewritten
            add("key_codes", (rows, width), code, fill=zero)
            add("value_codes", (rows, width), code, fill=zero)
            add("value_scale", (rows,), "float32")
        one = self.row_heads
        if self.latent_rows:
            width, code, zero = self._latent_code
            add("latent_codes", (self.latent_rows, width), code, fill=zero, heads=1)
            if self.memory_rows:
                add("memory_latents", (self.memory_rows, self.latent_rank), self.dtype, heads=1)
        add("row_meta", (self.rows, 2), "int32", fill=-1, heads=one)
        if self.track_importance:
            add("importance", (self.local_rows,), "float32", heads=one)
        if self.track_entropy:
            add("entropy", (self.local_rows,), "float32", heads=one)
        if self.memory_rows:
            add("memory_mass", (self.memory_rows,), "float32", heads=one)
        if self.readout == "residual":
            add("recall_state", (self.head_dim, self.head_dim), "float32")
            add("visual_state", (self.head_dim, self.head_dim), "float32")
        if self.readout == "moments":
            add("moment_count", (1,), "float32")
            add("moment_key", (self.head_dim,), "float32")
            add("moment_value", (self.head_dim,), "float32")
            add("moment_covariance", (self.head_dim, self.head_dim), "float32")
        return tuple(specs)

    @property
    def latent_parts(self) -> tuple[tuple[int, int], ...]:
        """(bits, how many numbers) of each part of a latent that is stored as codes, in the order of the components."""
        split = {8: self.latent_int8, 4: self.latent_int4, 2: self.latent_rank - self.latent_int8 - self.latent_int4}
        if self.latent_dtype != "mixed":
            split = {"int8": {8: self.latent_rank}, "int4": {4: self.latent_rank}}.get(self.latent_dtype, {})
        return tuple((bits, count) for bits, count in split.items() if count)

    @property
    def _latent_code(self) -> tuple[int, str, int]:
        """Width, dtype and empty value of `latent_codes`."""
        if self.latent_dtype == "model":
            return self.latent_rank, self.dtype, 0
        width = sum(bits * count for bits, count in self.latent_parts) // 8
        return width, "int8" if self.latent_dtype == "int8" else "uint8", 0x88 if self.latent_dtype == "int4" else 0

    @property
    def state_bytes(self) -> int:
        """Bytes of one layer's state: rows, codes, scales, statistics, metadata, memory."""
        return sum(spec.nbytes for spec in self.state())

    def full_cache_bytes(self, tokens: int) -> int:
        """Bytes that a plain KV cache of `tokens` tokens takes in one layer, without any metadata."""
        return self.batch * self.kv_heads * tokens * 2 * self.head_dim * BYTES[self.dtype]
