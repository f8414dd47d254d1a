"""The constants of a layer between the reference's arguments and the operators' named inputs."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from retentive_export.cache.latent import LatentBasis
from retentive_export.spec.geometry import CacheGeometry

__all__ = ["basis_of", "constants_of"]


def constants_of(key_scale: Tensor | None, basis: LatentBasis | None) -> dict[str, Tensor]:
    """By the names of `CacheGeometry.constants()`."""
    named = {} if key_scale is None else {"key_scale": key_scale}
    return named if basis is None else named | {f"latent_{name}": x for name, x in basis._asdict().items()}


def basis_of(named: Mapping[str, Tensor], geometry: CacheGeometry) -> LatentBasis | None:
    """The basis among an operator's inputs; None without latent rows.

    RetentiveAttention does not read `encode`: `decode` stands in for it.
    """
    if not geometry.latent_rows or "latent_decode" not in named:
        return None
    decode = named["latent_decode"]
    return LatentBasis(named.get("latent_encode", decode), decode, named["latent_mean"])
