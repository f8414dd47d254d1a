"""ed25519 signatures of a manifest, through which every file of a bundle is signed."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from retentive_export.errors import ArtifactError, InputError, MissingExtraError

__all__ = ["check_signature", "load_private_key", "load_public_key", "sign"]


def sign(content: bytes, key: Any) -> bytes:
    """The signature of some bytes, 64 of them; the same for the same bytes and key."""
    signature: bytes = key.sign(content)
    return signature


def check_signature(content: bytes, signature: bytes | None, key: Any, name: str) -> None:
    """Hold that a signature is that of `content` by the owner of a public key. name: what to call the signed file.

    Raises:
        ArtifactError: there is none, or it is another's.
    """
    from cryptography.exceptions import InvalidSignature

    if signature is None:
        raise ArtifactError(
            f"{name} is not signed, and a key was given to check its signature with",
            hint="take the bundle from where it was signed, or leave out --key to check hashes alone",
        )
    try:
        key.verify(signature, content)
    except InvalidSignature:
        raise ArtifactError(
            f"the signature of {name} is not by the owner of the key that was given, or {name} was altered",
            hint="do not use this bundle before you know where it comes from",
        ) from None


def load_private_key(path: Path) -> Any:
    """An ed25519 private key from a PEM file without a password, as `openssl genpkey -algorithm ed25519` writes it.

    Raises:
        InputError: it cannot be read, or is another kind of key. MissingExtraError: cryptography is not installed.
    """
    serialization, ed25519 = _cryptography()
    try:
        key = serialization.load_pem_private_key(_read(path), password=None)
    except (TypeError, ValueError) as error:
        raise _wrong(path, "private", str(error), "openssl genpkey -algorithm ed25519 -out key.pem") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise _wrong(path, "private", type(key).__name__, "openssl genpkey -algorithm ed25519 -out key.pem")
    return key


def load_public_key(path: Path) -> Any:
    """An ed25519 public key from a PEM file, as `openssl pkey -pubout` writes it.

    Raises:
        InputError: it cannot be read, or is another kind of key. MissingExtraError: cryptography is not installed.
    """
    serialization, ed25519 = _cryptography()
    hint = "openssl pkey -in key.pem -pubout -out key.pub.pem"
    try:
        key = serialization.load_pem_public_key(_read(path))
    except (TypeError, ValueError) as error:
        raise _wrong(path, "public", str(error), hint) from None
    if not isinstance(key, ed25519.Ed25519PublicKey):
        raise _wrong(path, "public", type(key).__name__, hint)
    return key


def _cryptography() -> tuple[Any, Any]:
    if importlib.util.find_spec("cryptography") is None:
        raise MissingExtraError.of("cryptography", "bundle")
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    return serialization, ed25519


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the key {path} cannot be read: {error.strerror}") from None


def _wrong(path: Path, kind: str, seen: str, hint: str) -> InputError:
    return InputError(f"{path} is no ed25519 {kind} key in PEM form: {seen.splitlines()[0]}", hint=hint)
