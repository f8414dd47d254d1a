"""Which probes concern a target, and which of them must succeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from retentive_export.doctor import gpu, host, plugins, tensorrt
from retentive_export.doctor.finding import Finding
from retentive_export.doctor.system import System
from retentive_export.spec.targets import Target

__all__ = ["Diagnosis", "examine"]

Probe = Callable[[System, Target | None], Finding | None]
_CPU, _TRT, _RTX, _GRAPHS = "onnxruntime", "tensorrt", "tensorrt_rtx", "graphs"


@dataclass(frozen=True, kw_only=True)
class _Rule:
    """A probe. required, useful: the backends whose targets cannot do without it, or would profit; for all others it is
    left out. Without a target everything is shown, and only what every installation needs is required."""

    probe: Probe
    required: tuple[str, ...] = ()
    useful: tuple[str, ...] = ()
    always: bool = False


_ALL = (_CPU, _TRT, _RTX, _GRAPHS)
_RULES = (
    _Rule(probe=host.python, required=_ALL, always=True),
    _Rule(probe=host.memory, useful=_ALL),
    _Rule(probe=host.disk, useful=_ALL),
    _Rule(probe=host.jetpack, required=(_TRT,)),
    _Rule(probe=host.onnxruntime, required=(_CPU,), always=True),
    _Rule(probe=host.exporter, required=(_GRAPHS,), useful=(_CPU, _TRT, _RTX)),
    _Rule(probe=gpu.driver, required=(_TRT,), useful=(_RTX,)),
    _Rule(probe=gpu.gpu, required=(_TRT,), useful=(_RTX,)),
    _Rule(probe=gpu.cuda, required=(_TRT,), useful=(_RTX,)),
    _Rule(probe=host.cuda_bindings, required=(_TRT,), useful=(_RTX,)),
    _Rule(probe=tensorrt.tensorrt, required=(_TRT,)),
    _Rule(probe=tensorrt.builder_resource, required=(_TRT,)),
    _Rule(probe=tensorrt.tensorrt_rtx, required=(_RTX,)),
    _Rule(probe=plugins.plugins, required=(_TRT, _RTX)),
    _Rule(probe=plugins.plugin_abi, required=(_TRT, _RTX)),
    _Rule(probe=plugins.plugin_code, required=(_TRT, _RTX)),
    _Rule(probe=gpu.compilers, useful=(_TRT, _RTX)),
    _Rule(probe=plugins.headers, useful=(_TRT, _RTX)),
)


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """All findings, in the order in which one depends on another."""

    target: str | None
    findings: tuple[Finding, ...]

    @property
    def failures(self) -> tuple[Finding, ...]:
        """What keeps the target from being served."""
        return tuple(finding for finding in self.findings if finding.status == "fail")


def examine(target: Target | None, system: System) -> Diagnosis:
    """Look at everything that concerns `target`, or at everything there is."""
    backend = (target.backend or _GRAPHS) if target else None
    findings = []
    for rule in _RULES:
        required = rule.always if backend is None else backend in rule.required
        if backend is not None and not required and backend not in rule.useful:
            continue
        if finding := rule.probe(system, target):
            findings.append(finding if required else finding.at_most("warn"))
    return Diagnosis(target=target.name if target else None, findings=tuple(findings))
