"""Jobs for the builder of engines, on the graphs of a finished artifact."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from retentive_export.backends.tensorrt.build import EngineJob
from retentive_export.backends.tensorrt.builder import run_worker
from retentive_export.spec.manifest import read_manifest

KEEP_LOG = """
import json, sys
from pathlib import Path
from retentive_export.backends.tensorrt import build, worker

real = build.parse_log

def keep(facts):
    Path(sys.argv[1]).write_text(json.dumps(facts))
    return real(facts)

build.parse_log = keep
worker.main()
"""


def decoder_job(artifact: Path, plan: Path, plugin_library: Path | None, **changes: Any) -> EngineJob:
    """The decoder's engine for TensorRT-RTX, as the pipeline asks for it, with changes."""
    manifest = read_manifest(artifact)
    chunk = manifest.plan().geometry.chunk
    fields: dict[str, Any] = {
        "vendor": "tensorrt_rtx",
        "graph": artifact / manifest.graphs["tensorrt"],
        "plan": plan,
        "layers": manifest.plan().layers,
        "contract": manifest.contract["decoder"],
        "profiles": [(1, 1, chunk)],
        "plugin_library": plugin_library,
    }
    return EngineJob.model_validate(fields | changes)


def builder_log(job: EngineJob, file: Path) -> list[str]:
    """Build, and return what the check after the build read in the builder's log."""
    run_worker(job, lambda _: None, [sys.executable, "-c", KEEP_LOG, str(file)])
    log: list[str] = json.loads(file.read_text())
    return log
