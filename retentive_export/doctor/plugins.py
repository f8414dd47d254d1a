"""The plugin library: is there one, can it be loaded here, has it code for this GPU, could it be built."""

from __future__ import annotations

import re
from pathlib import Path

from retentive_export.doctor.elf import Library, read_library
from retentive_export.doctor.finding import Finding, fail, ok, warn
from retentive_export.doctor.system import System
from retentive_export.errors import RetentiveExportError
from retentive_export.spec.targets import Target

__all__ = ["headers", "plugin_abi", "plugin_code", "plugins"]

_SYMBOLS = ("getCreators", "setLoggerFinder", "retentive_step")
"""TensorRT's loading protocol, and the C ABI's own step."""
_BUILD = "scripts/build_plugins.sh"


def plugins(system: System, target: Target | None) -> Finding:
    """Whether there is a library."""
    found = system.plugin_library()
    if isinstance(found, RetentiveExportError):
        return fail("plugins", found.message, found.hint or f"build it: {_BUILD}")
    return ok("plugins", str(found))


def plugin_abi(system: System, target: Target | None) -> Finding | None:
    """Architecture, entry points and C library. None where there is no library."""
    name, library = "plugin ABI", _library(system)
    if library is None:
        return None
    if isinstance(library, RetentiveExportError):
        return fail(name, library.message, library.hint or _BUILD)
    if library.machine != system.machine():
        return fail(name, f"for {library.machine}, and this machine is {system.machine()}", f"build it here: {_BUILD}")
    if missing := [symbol for symbol in _SYMBOLS if symbol not in library.symbols]:
        return fail(name, f"it lacks {', '.join(missing)}", f"build it from this version's sources: {_BUILD}")
    here = system.glibc()
    needs = f"glibc {_dotted(library.glibc)}"
    if here is not None and here < library.glibc:
        return fail(name, f"it needs {needs}, and here is {_dotted(here)}", f"build it here: {_BUILD}")
    return ok(name, f"{library.machine}, {needs} or later")


def plugin_code(system: System, target: Target | None) -> Finding | None:
    """SMs in the library against this machine's GPU, or the target's where there is none. None without a library."""
    name, library = "plugin code", _library(system)
    if library is None or isinstance(library, RetentiveExportError):
        return None
    cubins, ptx = _listed(system) or (library.cubins, library.ptx)
    seen = f"SM {', '.join(_sm(one) for one in sorted(cubins)) or 'none'}"
    seen += f"; PTX of {', '.join(_sm(one) for one in sorted(ptx))}" if ptx else ""
    wanted = [gpu.sm for gpu in system.gpus[:1]] or list(target.sm if target else ())
    numbers = [int(sm.replace(".", "")) for sm in wanted]
    jetson = bool(target and target.is_jetson)
    lacking = [one for one in numbers if not _has_code(one, cubins, jetson)]
    if not lacking:
        return ok(name, seen)
    remedy = f"{_BUILD} -DRETENTIVE_SM_LIST='{';'.join(str(one) for one in lacking)}'"
    what = f"{seen}; none for SM {', '.join(_sm(one) for one in lacking)}"
    if all(any(older <= one for older in ptx) for one in lacking):
        return warn(name, f"{what}, whose PTX is compiled when it is first used", remedy)
    return fail(name, what, remedy) if len(lacking) == len(numbers) else warn(name, what, remedy)


def headers(system: System, target: Target | None) -> Finding:
    """TensorRT's C++ headers: needed only to build the plugin library here, which looks for them in the same places."""
    places = ("usr/include", "usr/include/*-linux-gnu", "usr/local/include")
    found = [path for place in places for path in system.root.glob(f"{place}/NvInferRuntime.h")]
    if found:
        return ok("TensorRT headers", str(found[0].parent))
    if package := system.package("kernel-lens"):
        return ok("TensorRT headers", " ".join(package))
    return warn("TensorRT headers", "NvInferRuntime.h was not found", "pip install --no-deps kernel-lens")


def _has_code(sm: int, cubins: frozenset[int], jetson: bool) -> bool:
    """Machine code runs on GPUs of the same major and a later minor version, but not across to a Jetson's."""
    if sm in cubins:
        return True
    return not jetson and any(one // 10 == sm // 10 and one < sm and one % 10 != 7 for one in cubins)


def _library(system: System) -> Library | RetentiveExportError | None:
    found = system.plugin_library()
    if not isinstance(found, Path):
        return None
    try:
        return read_library(found)
    except RetentiveExportError as error:
        return error


def _listed(system: System) -> tuple[frozenset[int], frozenset[int]] | None:
    """What cuobjdump lists; None where it is not installed."""
    path = str(system.plugin_library())
    listed = system.run("cuobjdump", "--list-elf", "--list-ptx", path)
    if listed is None:
        return None
    kinds = (re.findall(rf"sm_(\d+)[a-z]?\.{suffix}", listed) for suffix in ("cubin", "ptx"))
    cubins, ptx = (frozenset(int(one) for one in kind) for kind in kinds)
    return cubins, ptx


def _sm(number: int) -> str:
    return f"{number // 10}.{number % 10}"


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(part) for part in version) or "any"
