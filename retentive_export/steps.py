"""Steps that a repeated build reuses: each has a key, and a record in build.json of the files it made.

They write beside their destination, which appears whole: `work_directory` says where, `put_in_place` renames.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from retentive_export.errors import StorageError
from retentive_export.spec.files import atomic_file, storage_errors
from retentive_export.spec.manifest import MANIFEST, FileEntry, file_entry

__all__ = ["RECORD", "Progress", "Step", "StepRunner", "link", "put_in_place", "read_record", "work_directory"]

RECORD = "build.json"
Progress = Callable[[str, str], None]
Step = Callable[[Path], dict[str, Any]]


class StepRunner:
    """Runs steps in `work`, reusing what a record there, or in the finished artifact, vouches for.

    Args:
        work: where steps write. finished: an earlier artifact, or nothing yet.
        progress: called with (step, event): "run" or "reuse", then any lines about what the step is doing, then "done".

    `files` and `facts` collect what all steps made and recorded; `ran` and `reused` name them.
    """

    def __init__(self, work: Path, finished: Path, progress: Progress) -> None:
        self.work, self.finished, self.progress = work, finished, progress
        self.records: dict[str, Any] = read_record(work)
        self.earlier: dict[str, Any] = read_record(finished)
        self.files: dict[str, FileEntry] = {}
        self.facts: dict[str, Any] = {}
        self.ran: list[str] = []
        self.reused: list[str] = []

    def knows(self, name: str, key: Any) -> bool:
        """Whether a record has this step; its files are checked when it is reused."""
        return any(records.get(name, {}).get("key") == _digest(key) for records in (self.records, self.earlier))

    def run(self, name: str, key: Any, make: Step) -> None:
        """Run one step, unless a record vouches for its files.

        Args:
            key: plain data; everything that the step's files depend on.
            make: writes into the directory it is given, subfolders included, and returns facts for the record. Beside
                that directory lie the files of the steps before it.
        """
        digest = _digest(key)
        if self._intact(self.work, self.records.get(name), digest):
            self.progress(name, "reuse")
            self.reused.append(name)
        elif self._intact(self.finished, self.earlier.get(name), digest):
            self.progress(name, "reuse")
            self.reused.append(name)
            for file in self.earlier[name]["files"]:
                link(self.finished / file, self.work / file)
            self._record(name, self.earlier[name])
        else:
            self.progress(name, "run")
            self.ran.append(name)
            stage = self.work / f".{name}"  # files join the others only when the step is through
            shutil.rmtree(stage, ignore_errors=True)
            stage.mkdir()
            facts = make(stage)
            entries = {name: file_entry(stage / name).model_dump() for name in _files(stage)}
            for file in entries:
                (self.work / file).parent.mkdir(parents=True, exist_ok=True)
                os.replace(stage / file, self.work / file)
            shutil.rmtree(stage)
            self._record(name, {"key": digest, "files": entries, "facts": facts})
        self.facts |= self.records[name]["facts"]
        self.files |= {file: FileEntry(**entry) for file, entry in self.records[name]["files"].items()}
        self.progress(name, "done")

    def _intact(self, directory: Path, record: Mapping[str, Any] | None, digest: str) -> bool:
        if record is None or record["key"] != digest:
            return False
        return all(
            (directory / file).is_file() and file_entry(directory / file).model_dump() == entry
            for file, entry in record["files"].items()
        )

    def _record(self, name: str, record: dict[str, Any]) -> None:
        self.records[name] = record
        with atomic_file(self.work / RECORD) as stream:
            stream.write(json.dumps(self.records, indent=1, sort_keys=True).encode())

    def prune(self, keep: set[str]) -> None:
        """Remove what earlier, different builds left in the work directory; `keep` has relative paths."""
        for name in _files(self.work):
            if name not in keep:
                (self.work / name).unlink()
        for path in sorted(self.work.rglob("*"), reverse=True):  # what lies in a folder comes before it
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def _files(directory: Path) -> list[str]:
    """Relative paths of all files below a directory, with forward slashes."""
    return sorted(path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file())


def _digest(key: Any) -> str:
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def read_record(directory: Path) -> dict[str, Any]:
    """Step -> its key, files and facts, as build.json in `directory` has them; empty if it is missing or damaged."""
    try:
        record = json.loads((directory / RECORD).read_text(encoding="utf-8"))
        return {name: item for name, item in record.items() if {"key", "files", "facts"} <= set(item)}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def link(source: Path, destination: Path) -> None:
    """Make `destination` the same file, or a copy where that cannot be."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.unlink(missing_ok=True)
    try:
        os.link(source, destination)
    except OSError:
        shutil.copy2(source, destination)


def work_directory(output: Path) -> Path:
    """Where to write what becomes `output`.

    Raises:
        StorageError: something stands there that is no artifact.
    """
    if output.exists() and not (output / MANIFEST).is_file() and (not output.is_dir() or any(output.iterdir())):
        raise StorageError(f"{output} exists and is not an artifact", hint="choose another -o, or remove it")
    return output.with_name(f"{output.name}.partial")


def put_in_place(work: Path, output: Path) -> None:
    """Rename `work` to `output`; what stood there is moved aside first and removed afterwards."""
    with storage_errors(output):
        old = output.with_name(f"{output.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        if output.exists():
            os.replace(output, old)
        os.replace(work, output)
        shutil.rmtree(old, ignore_errors=True)
