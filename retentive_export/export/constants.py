"""The constants of a model's cache in a file: key scales and latent bases of every layer, as `calibrate` writes them.

A .safetensors file with tensors `LAYER.NAME`, NAME and shape as in `CacheGeometry.constants()`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.rows import LEVELS
from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.errors import RecipeError
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.key_scales import calibrate_key_scales
from retentive_export.export.latents import fit_bases
from retentive_export.export.reference import Run
from retentive_export.models.base import ModelAdapter
from retentive_export.spec.files import atomic_file
from retentive_export.spec.manifest import file_entry
from retentive_export.spec.recipe import ConstantsSection

__all__ = ["fit_constants", "read_constants", "write_constants"]


def fit_constants(adapter: ModelAdapter, graph: DecoderGraph, runs: Sequence[Run], context: int) -> None:
    """Give the graph the key scales and latent bases that its geometry needs, from sample runs; see `fit_bases`."""
    geometry = graph.geometry
    if geometry.coarse_rows:
        graph.key_scales = calibrate_key_scales(graph, runs, LEVELS[geometry.coarse_dtype], context)
    if geometry.latent_rows:
        graph.bases = fit_bases(adapter, graph, runs, context)


def write_constants(graph: DecoderGraph, path: Path) -> ConstantsSection:
    """Write the graph's constants, whole or not at all; the section of a recipe beside the file.

    Raises:
        StorageError: the disk is full or not writable.
    """
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for layer in range(graph.layers):
        if graph.key_scales is not None:
            tensors[f"{layer}.key_scale"] = graph.key_scales[layer].contiguous()
        if graph.bases is not None:
            named = graph.bases[layer]._asdict().items()
            tensors |= {f"{layer}.latent_{name}": tensor.contiguous() for name, tensor in named}
    with atomic_file(path) as stream:
        stream.write(save(tensors))
    return ConstantsSection(file=path.name, sha256=file_entry(path).sha256)


def read_constants(section: ConstantsSection, graph: DecoderGraph) -> None:
    """Give the graph the constants of a recipe's file.

    Raises:
        RecipeError: the file is not there, is another one, or was fitted for another model or other rows.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path, again = Path(section.file), "retentive-export calibrate fits them again"
    if not path.is_file():
        raise RecipeError(f"constants.file is {section.file!r}: there is no such file", hint=again)
    if (seen := file_entry(path).sha256) != section.sha256:
        raise RecipeError(f"constants.sha256 is {section.sha256}, and that of {path.name} is {seen}", hint=again)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError) as error:
        raise RecipeError(f"constants.file {path.name} is no safetensors file: {error}") from None
    specs = graph.geometry.constants()
    for layer in range(graph.layers):
        for spec in specs:
            tensor = tensors.get(f"{layer}.{spec.name}")
            found = None if tensor is None else (tuple(tensor.shape), tensor.dtype)
            if found != (spec.shape, TORCH_DTYPES[spec.dtype]):
                told = "lacks it" if found is None else f"has {list(found[0])} {found[1]}"
                raise RecipeError(
                    f"constants.file {path.name}: layer {layer} needs {spec.name} {list(spec.shape)} {spec.dtype}, "
                    f"and the file {told}: it was fitted for another model or other rows",
                    hint=again,
                )
    names = [spec.name for spec in specs]
    if "key_scale" in names:
        graph.key_scales = [tensors[f"{layer}.key_scale"] for layer in range(graph.layers)]
    if "latent_encode" in names:
        graph.bases = [
            LatentBasis(*(tensors[f"{layer}.latent_{name}"] for name in LatentBasis._fields))
            for layer in range(graph.layers)
        ]
