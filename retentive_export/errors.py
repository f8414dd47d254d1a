"""The exception tree, and the exit code of each class.

    RetentiveExportError            1
    ├── RecipeError                 3   a recipe, target or option that cannot be
    ├── ModelError                  4   the model cannot be loaded or traced
    │   └── ModelNotSupportedError  4
    ├── ExportError                 5   the graph could not be made, or lost something on the way
    ├── ArtifactError               6   files that are missing, altered or of another version
    ├── InputError                  7   a frame, text or state that the artifact does not take
    │   └── CapacityError           7   more tokens than a full cache holds
    ├── MissingExtraError           8   an optional dependency is not installed
    ├── StorageError                9   the disk is full or not writable
    ├── ValidationError            10   outputs differ by more than the thresholds allow
    ├── NumericalError             11   the model produced NaN or infinity
    └── DeviceError                12   no GPU, or a machine that cannot run this

Exit code 2 is Click's own (wrong usage). Every message names the field, the value seen and what would be accepted;
`hint` is the next thing to do.
"""

from __future__ import annotations

import importlib.util

__all__ = [
    "ArtifactError",
    "CapacityError",
    "DeviceError",
    "ExportError",
    "InputError",
    "MissingExtraError",
    "ModelError",
    "ModelNotSupportedError",
    "NumericalError",
    "RecipeError",
    "RetentiveExportError",
    "StorageError",
    "ValidationError",
]


class RetentiveExportError(Exception):
    """Base of every error that the package raises on purpose."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class RecipeError(RetentiveExportError):
    exit_code = 3


class ModelError(RetentiveExportError):
    exit_code = 4


class ModelNotSupportedError(ModelError):
    pass


class ExportError(RetentiveExportError):
    exit_code = 5


class ArtifactError(RetentiveExportError):
    exit_code = 6


class InputError(RetentiveExportError):
    exit_code = 7


class CapacityError(InputError):
    pass


class MissingExtraError(RetentiveExportError):
    exit_code = 8

    @classmethod
    def of(cls, package: str, extra: str) -> MissingExtraError:
        """The error for a feature whose optional dependency is absent."""
        return cls(
            f"this step needs the package {package!r}, which is not installed",
            hint=f"pip install 'retentive-export[{extra}]'",
        )

    @classmethod
    def check(cls, *packages: str, extra: str) -> None:
        """Raise for the first of a feature's packages that is not installed; nothing is imported."""
        for package in packages:
            if importlib.util.find_spec(package) is None:
                raise cls.of(package, extra)


class StorageError(RetentiveExportError):
    exit_code = 9


class ValidationError(RetentiveExportError):
    exit_code = 10


class NumericalError(RetentiveExportError):
    exit_code = 11


class DeviceError(RetentiveExportError):
    exit_code = 12
