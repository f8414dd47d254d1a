"""The two vendors' libraries behind one description: everything in which they, or their versions, differ.

The rest of the package uses only what TensorRT 10.3, 11.4 and TensorRT-RTX 1.7 all have.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export.errors import ExportError, MissingExtraError
from retentive_export.ops.contract import DOMAIN, OPS, VERSION

__all__ = ["DTYPES", "VENDORS", "Profile", "Vendor", "load_plugins", "make_logger", "missing_plugins"]

Profile = tuple[int, int, int]
"""Smallest, typical and largest T of an optimisation profile."""

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT8": "int8",
    "UINT8": "uint8",
    "INT32": "int32",
    "INT64": "int64",
}
"""Names of the members of `DataType` -> ours."""


def _decode_and_prefill(chunk: int) -> list[Profile]:
    """One profile for decode and one for prefill, so that tactics are chosen for both."""
    return [(1, 1, 1)] if chunk == 1 else [(1, 1, 1), (1, chunk, chunk)]


def _one(chunk: int) -> list[Profile]:
    """One profile: with two, TensorRT-RTX stores all weights twice, and it compiles kernels for the very shapes when
    it runs."""
    return [(1, 1, chunk)]


@dataclass(frozen=True, kw_only=True)
class Vendor:
    """One of the two libraries.

    Attributes:
        name: of the backend. title: for messages. modules: the first that is installed is imported. oldest, newest:
            the range of versions, by as many numbers as are given.
        package, extra: what to install. library: the file that must also be found without its version, in `libraries`,
            a Python package; "" if none.
        profiles: optimisation profiles for a chunk size.
        needs_gpu: whether building does. times_tactics: whether a timing cache has an effect.
        compiles_late: whether kernels are compiled when the engine runs.
        architectures: compute capabilities that it runs on; None: its own error messages tell.
    """

    name: str
    title: str
    modules: tuple[str, ...]
    oldest: tuple[int, ...]
    newest: tuple[int, ...]
    package: str
    extra: str
    profiles: Callable[[int], list[Profile]]
    needs_gpu: bool
    times_tactics: bool
    compiles_late: bool
    library: str = ""
    libraries: str = ""
    architectures: tuple[tuple[int, int], ...] | None = None

    def load(self) -> Any:
        """Import the library.

        Raises:
            MissingExtraError: it is not installed, not for this machine, or of a version outside the range.
        """
        for module in self.modules:
            if importlib.util.find_spec(module) is None:
                continue
            try:
                library = importlib.import_module(module)
            except ImportError as error:
                raise MissingExtraError(
                    f"{self.title} is installed, and cannot be loaded: {error}",
                    hint=f"pip install --force-reinstall 'retentive-export[{self.extra}]'",
                ) from None
            self._check_version(str(library.__version__))
            return library
        raise MissingExtraError.of(self.package, self.extra)

    @property
    def versions(self) -> str:
        """Those that are supported, in words."""
        first, last = (".".join(map(str, bound)) for bound in (self.oldest, self.newest))
        return f"{last}.x" if first == last else f"{first} to {last}.x"

    def supports(self, version: str) -> bool:
        """Whether a version such as "10.13.2.6" is one of them."""
        numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
        return self.oldest <= numbers[: len(self.oldest)] and numbers[: len(self.newest)] <= self.newest

    def _check_version(self, version: str) -> None:
        if not self.supports(version):
            raise MissingExtraError(
                f"{self.title} {version} is installed, and versions {self.versions} are supported",
                hint=f"pip install 'retentive-export[{self.extra}]'",
            )

    def version(self) -> str:
        """Full version of the library."""
        return str(self.load().__version__)

    def context(self, trt: Any, engine: Any, *, own_memory: bool, eager: bool) -> Any:
        """An execution context. own_memory: it allocates its scratch memory; otherwise that is given to it. eager:
        TensorRT-RTX compiles its kernels for the shapes of a run before the run, not behind it."""
        strategies = trt.ExecutionContextAllocationStrategy
        strategy = strategies.STATIC if own_memory else strategies.USER_MANAGED
        if not self.compiles_late:
            return engine.create_execution_context(strategy)
        config = engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        compilation = trt.DynamicShapesKernelSpecializationStrategy
        config.dynamic_shapes_kernel_specialization_strategy = compilation.EAGER if eager else compilation.LAZY
        return engine.create_execution_context(config)

    def environment(self, scratch: Path, base: Mapping[str, str]) -> dict[str, str]:
        """Environment variables for a process that builds: `base`, and a directory of links in LD_LIBRARY_PATH.

        TensorRT-RTX's ONNX parser opens its library by the name without a version, which its wheel lacks, and ends the
        process (std::terminate) when there is none.
        """
        environment = dict(base)
        spec = importlib.util.find_spec(self.libraries) if self.libraries else None
        if spec is None or not spec.submodule_search_locations:
            return environment
        found = sorted(Path(next(iter(spec.submodule_search_locations))).glob(f"{self.library}.*"))
        if found:
            (scratch / self.library).symlink_to(found[-1])
            paths = [str(scratch), *filter(None, [base.get("LD_LIBRARY_PATH")])]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        return environment


VENDORS: dict[str, Vendor] = {
    vendor.name: vendor
    for vendor in (
        Vendor(
            name="tensorrt",
            title="TensorRT",
            modules=("tensorrt",),
            oldest=(10, 3),
            newest=(11,),
            package="tensorrt",
            extra="tensorrt",
            profiles=_decode_and_prefill,
            needs_gpu=True,
            times_tactics=True,
            compiles_late=False,
        ),
        Vendor(
            name="tensorrt_rtx",
            title="TensorRT-RTX",
            modules=("tensorrt_rtx", "tensorrt_rtx_bindings"),
            oldest=(1, 7),
            newest=(1, 7),
            package="tensorrt-rtx-cu13-bindings",
            extra="rtx",
            profiles=_one,
            needs_gpu=False,
            times_tactics=False,
            compiles_late=True,
            library="libtensorrt_rtx.so",
            libraries="tensorrt_rtx_libs",
            architectures=((8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
        ),
    )
}


def make_logger(trt: Any, sink: Callable[[str, str], None]) -> Any:
    """A TensorRT logger that calls `sink(severity, text)`, severity such as "WARNING"."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, text: str) -> None:
            sink(severity.name, text)

    return Logger()


def missing_plugins(trt: Any) -> list[str]:
    """Operators of ours that have no plugin registered."""
    registry = trt.get_plugin_registry()
    return [op for op in OPS if registry.get_creator(op, str(VERSION), DOMAIN) is None]


def load_plugins(trt: Any, library: Path) -> None:
    """Register the plugins of `library`, unless this process has them: a second registration is an error.

    Raises:
        ExportError: it cannot be loaded, or lacks a plugin.
    """
    if not missing_plugins(trt):
        return
    hint = "scripts/build_plugins.sh builds one for this machine"
    try:
        ctypes.CDLL(str(library))  # the registry does not say why a library cannot be loaded
    except OSError as error:
        raise ExportError(f"the plugin library {library} cannot be loaded: {error}", hint=hint) from None
    trt.get_plugin_registry().load_library(str(library))
    if missing := missing_plugins(trt):
        raise ExportError(f"the plugin library {library} has no plugin for {missing[0]!r}", hint=hint)
