"""Bundles of the tiny models for an Orin, with a plugin library of nothing but the sections that are looked at."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from retentive_export.pipeline import BuildResult
from tests.conftest import build_artifact, text_recipe
from tests.doctor.machines import plugin_library


@pytest.fixture(scope="session")
def orin_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For aarch64 and SM 8.7."""
    path = tmp_path_factory.mktemp("library") / "libretentive_plugins.so"
    return plugin_library(path, machine=183, glibc="2.34", cubins=[87])


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two key pairs: key.pem, key.pub.pem, other.pem, other.pub.pem."""
    from cryptography.hazmat.primitives import serialization as form
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tmp_path_factory.mktemp("keys")
    for number, name in enumerate(("key", "other")):
        key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)
        private = key.private_bytes(form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption())
        public = key.public_key().public_bytes(form.Encoding.PEM, form.PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pem").write_bytes(private)
        (folder / f"{name}.pub.pem").write_bytes(public)
    return folder


@pytest.fixture(scope="session")
def signed_build(
    text_model: Path, text_artifact: Path, orin_library: Path, keys: Path, tmp_path_factory: pytest.TempPathFactory
) -> BuildResult:
    """The text artifact built over again for jetson-orin, signed and packed."""
    output = tmp_path_factory.mktemp("bundles") / "orin"
    shutil.copytree(text_artifact, output)
    return build_artifact(
        text_recipe(text_model),
        output,
        "jetson-orin",
        plugin_library=orin_library,
        archive=True,
        sign_key=keys / "key.pem",
    )


@pytest.fixture
def bundle(signed_build: BuildResult, tmp_path: Path) -> Path:
    """A copy of the bundle, signed."""
    return Path(shutil.copytree(signed_build.directory, tmp_path / "orin"))


@pytest.fixture
def archive(signed_build: BuildResult, tmp_path: Path) -> Path:
    """A copy of its archive."""
    assert signed_build.archive is not None
    return Path(shutil.copy(signed_build.archive, tmp_path / "packed.tar.zst"))
