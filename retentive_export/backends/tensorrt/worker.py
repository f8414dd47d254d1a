"""The process in which an engine is built: a crash of TensorRT, or its memory, stays there.

Reads an `EngineJob` as JSON from stdin and writes lines of JSON to stdout:

    {"progress": TEXT}                                   any number of them
    {"result": EngineResult} or {"error": CLASS, "message": TEXT, "hint": TEXT or null}   once, at the end

What libraries print to stdout goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from retentive_export.backends.tensorrt.build import EngineJob, build_engine
from retentive_export.errors import RetentiveExportError

__all__ = ["main"]


def main() -> None:
    """Build what stdin says."""
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    job = EngineJob.model_validate_json(sys.stdin.buffer.read())
    try:
        result = build_engine(job, lambda text: send({"progress": text}))
    except RetentiveExportError as error:
        send({"error": type(error).__name__, "message": error.message, "hint": error.hint})
    else:
        send({"result": result.model_dump(mode="json")})


if __name__ == "__main__":
    main()
