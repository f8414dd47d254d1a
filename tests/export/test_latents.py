"""Latent bases: exact on data of their rank, better than plain components where it counts; constants in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from retentive_export.cache import latent
from retentive_export.errors import RecipeError
from retentive_export.export.constants import fit_constants, read_constants, write_constants
from retentive_export.export.decoder import DecoderGraph
from retentive_export.export.latents import LayerMoments, fit_bases, shifted, token_rows
from retentive_export.job import Job
from retentive_export.models.attention import AttentionLoop
from retentive_export.ops.params import geometry_struct
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.recipe import ConstantsSection, parse_recipe
from retentive_export.spec.targets import target
from tests.conftest import text_recipe


class Recorded:
    """Keys, values and queries of every layer, and the attention's output with keys and values of `basis`."""

    def __init__(self, bases: list[latent.LatentBasis] | None = None) -> None:
        self.bases, self.outputs = bases, {}
        self.seen: dict[int, tuple[torch.Tensor, ...]] = {}

    def attend(
        self, layer_index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
    ) -> torch.Tensor:
        self.seen[layer_index] = (query, key, value)
        attend = torch.nn.functional.scaled_dot_product_attention
        exact = attend(query, key, value, is_causal=True, scale=scale, enable_gqa=True)
        if self.bases is not None:
            codes = latent.codes_of(latent.encode(key, value, self.bases[layer_index]), "int8")
            near, values = latent.decode(latent.latents_of(codes), self.bases[layer_index])
            self.outputs[layer_index] = (
                exact, attend(query, near, values, is_causal=True, scale=scale, enable_gqa=True)
            )  # fmt: skip
        return exact


def job_of(model: Path, **rows: object) -> Job:
    recipe = text_recipe(model, rows={"latent": {"rank": 8, **rows}}, budget={"rows": 40})
    return Job(parse_recipe(recipe), target("cpu"))


def output_error(job: Job, graph: DecoderGraph, run: object, loop: Recorded) -> float:
    """Relative squared error of what the output projection makes of the attention, over all layers."""
    from retentive_export.export.reference import ReferenceRun

    stream, *features = run  # type: ignore[misc]
    checked: AttentionLoop = loop
    ReferenceRun(graph, checked, *features).step(stream, slice(0, len(stream.input_ids)))
    wrong = whole = 0.0
    for layer, pair in loop.outputs.items():
        weight = job.adapter.output_projection(layer).float()
        exact, near = (x.transpose(1, 2).flatten(2) @ weight.T for x in pair)
        wrong += float((near - exact).square().sum())
        whole += float(exact.square().sum())
    return wrong / whole


def test_weighing_by_the_attention_pays_in_its_output(text_model: Path) -> None:
    """On dialogues that the fit did not see, at the same rank."""
    job = job_of(text_model)
    graph, runs = job.bare_graph(), [job.run(sample) for sample in job.samples]
    fitted, held_out = runs[1:], runs[0]
    errors = {
        plain: output_error(
            job, graph, held_out, Recorded(fit_bases(job.adapter, graph, fitted, 256, plain=plain))
        )
        for plain in (True, False)
    }  # fmt: skip
    assert errors[False] < 0.8 * errors[True]
    wide = replace(graph, geometry=replace(graph.geometry, latent_rank=40))
    assert output_error(job, wide, held_out, Recorded(fit_bases(job.adapter, wide, fitted, 256))) < errors[False] / 4


def test_data_of_the_basis_rank_is_reproduced(text_model: Path) -> None:
    """Keys and values that lie in 8 dimensions around a mean: encode and decode give them back."""
    job = job_of(text_model, dtype="model")
    graph = job.bare_graph()
    heads, size = graph.geometry.kv_heads, graph.geometry.head_dim
    generator = torch.Generator().manual_seed(1)
    span, mean = (
        torch.randn(8, heads * 2 * size, generator=generator),
        torch.randn(heads * 2 * size, generator=generator),
    )
    tokens = torch.randn(200, 8, generator=generator) @ span + mean
    key, value = tokens.view(1, 200, heads, 2 * size).transpose(1, 2).split(size, dim=-1)
    assert torch.equal(token_rows(key, value), tokens)
    moments = LayerMoments()
    query = torch.randn(1, graph.geometry.q_heads, 200, size, generator=generator)
    moments.add(query, key, value, 0.5)
    from retentive_export.export.latents import _components, _metric

    basis = _components(moments, _metric(job.adapter, 0, moments, graph.geometry), graph.geometry)
    back = latent.decode(latent.encode(key, value, basis), basis)
    torch.testing.assert_close(torch.cat(back, dim=-1), torch.cat([key, value], dim=-1), rtol=1e-3, atol=1e-3)


def test_a_fit_sees_samples_at_later_positions(text_model: Path) -> None:
    job = job_of(text_model)
    run = job.run(job.samples[0])
    moved = shifted(run, 100)
    assert (moved[0].position_ids == run[0].position_ids + 100).all()
    assert (moved[0].token_meta == run[0].token_meta).all()


def test_constants_survive_their_file_and_nothing_else_is_taken(text_model: Path, tmp_path: Path) -> None:
    job = Job(
        parse_recipe(
            text_recipe(
                text_model,
                rows={"dtype": "int4", "latent": {"rank": 6, "front": 10}},
                budget={"rows": 40},
            )
        ),
        target("cpu"),
    )
    graph = job.bare_graph()
    fit_constants(job.adapter, graph, [job.run(sample) for sample in job.samples], 256)
    section = write_constants(graph, tmp_path / "fitted.safetensors")
    there = section.model_copy(update={"file": str(tmp_path / section.file)})
    again = job.bare_graph()
    read_constants(there, again)
    assert graph.key_scales is not None
    assert graph.bases is not None
    for name in ("key_scales", "bases"):
        for ours, theirs in zip(getattr(graph, name), getattr(again, name), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    other = replace(again, geometry=replace(again.geometry, latent_rank=8))
    with pytest.raises(RecipeError, match=r"layer 0 needs latent_encode \[2, 32, 8\].*has \[2, 32, 6\]"):
        read_constants(there, other)
    with pytest.raises(RecipeError, match="there is no such file"):
        read_constants(ConstantsSection(file=str(tmp_path / "none"), sha256=there.sha256), again)
    with Path(there.file).open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(RecipeError, match=f"constants.sha256 is {there.sha256}, and that of"):
        read_constants(there, again)


@pytest.mark.parametrize("name", ["rtx", "tensorrt", "jetson-orin"])
def test_engines_are_refused_with_a_remedy(text_model: Path, name: str) -> None:
    recipe = parse_recipe(text_recipe(text_model, rows={"latent": {"rank": 8}}))
    with pytest.raises(RecipeError, match=r"cache.rows.latent is set \(rank 8\).*TensorRT") as caught:
        Job(recipe, target(name))
    assert caught.value.hint is not None
    assert "cache.rows.latent=null" in caught.value.hint


def test_compiled_operators_are_refused() -> None:
    geometry = CacheGeometry(kv_heads=1, q_heads=1, head_dim=4, exact_rows=0, latent_rows=8, latent_rank=4)
    with pytest.raises(RecipeError, match="latent_rows is 8: the compiled operators"):
        geometry_struct(geometry)
