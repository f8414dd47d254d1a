"""Latent bases: exact on data of their rank, better than plain components where it counts; constants in a file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from retentive_export import Session, pipeline
from retentive_export.cache import latent
from retentive_export.errors import RecipeError
from retentive_export.export import latents
from retentive_export.export.constants import fit_constants, read_constants, write_constants
from retentive_export.export.latents import LayerMoments, _components, _metric, fit_spectrum, token_rows
from retentive_export.export.reference import Pass, ReferenceRun
from retentive_export.job import Job
from retentive_export.ops.params import gate_struct, geometry_struct
from retentive_export.planner import plan_recipe
from retentive_export.spec.gate import GateConfig
from retentive_export.spec.geometry import CacheGeometry
from retentive_export.spec.recipe import ConstantsSection, parse_recipe
from retentive_export.spec.targets import target
from retentive_export.validate import validate_golden
from tests.conftest import text_recipe


def job_of(model: Path, **rows: object) -> Job:
    recipe = text_recipe(model, rows={"latent": {"rank": 8, **rows}}, budget={"rows": 40})
    return Job(parse_recipe(recipe), target("cpu"))


def recorded(job: Job, layer: int) -> tuple[torch.Tensor, torch.Tensor, LayerMoments]:
    """Keys and values [B, Hkv, T, D] of a layer over a sample, and their moments."""
    seen: dict[int, tuple[torch.Tensor, ...]] = {}

    class Loop(Pass):
        def attend(
            self, layer_index: int, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scale: float
        ) -> torch.Tensor:
            seen[layer_index] = (query, key, value)
            return super().attend(layer_index, query, key, value, scale)

    stream, *features = job.run(job.samples[0])
    ReferenceRun(job.bare_graph(), Loop(), *features).step(stream, slice(0, len(stream.input_ids)))
    moments = LayerMoments()
    moments.add(*seen[layer], 0.3)
    return seen[layer][1], seen[layer][2], moments


def test_no_basis_loses_less_in_the_attentions_metric(text_model: Path) -> None:
    """Weighted by queries and output projection, the dropped components are the smallest: plain ones lose more, and
    what is lost falls with the rank to nothing."""
    job, layer = job_of(text_model), 1
    geometry = job.bare_graph().geometry
    key, value, moments = recorded(job, layer)
    metric = _metric(job.adapter, layer, moments, geometry)
    whole = torch.block_diag(*metric.flatten(0, 1))
    x = token_rows(key, value).double()

    def lost(basis: latent.LatentBasis, rank: int) -> float:
        cut = latent.LatentBasis(basis.encode[..., :rank], basis.decode[..., :rank], basis.mean)
        back = token_rows(*latent.decode(latent.encode(key, value, cut), cut)).double()
        return float(((back - x) @ whole).square().sum())

    weighted, plain = _components(moments, metric, geometry), _components(moments, None, geometry)
    ranks = (4, 8, 16, 32, 64)
    ours, theirs = [lost(weighted, r) for r in ranks], [lost(plain, r) for r in ranks]
    assert all(a < b for a, b in zip(ours[:-1], theirs[:-1], strict=True))
    assert ours == sorted(ours, reverse=True)
    assert ours[-1] < 1e-6 * ours[0]


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
    whole = _components(moments, _metric(job.adapter, 0, moments, graph.geometry), graph.geometry)
    basis = latent.LatentBasis(whole.encode[..., :8], whole.decode[..., :8], whole.mean)
    back = latent.decode(latent.encode(key, value, basis), basis)
    torch.testing.assert_close(torch.cat(back, dim=-1), torch.cat([key, value], dim=-1), rtol=1e-3, atol=1e-3)


def test_fewer_bits_for_the_smaller_components_lose_less_than_the_same_for_all(text_model: Path) -> None:
    """At equal bytes, in the attention's metric: 8, 4 and 2 bits beat 4 bits for the larger half of the components; and
    codes of two bits, which have no zero, carry no bias."""
    job = job_of(text_model)
    graph, run = job.bare_graph(), job.run(job.samples[0])
    key, value, moments = recorded(job, 1)
    spectrum = fit_spectrum(job.adapter, graph, [run], 256)
    whole = torch.block_diag(*_metric(job.adapter, 1, moments, graph.geometry).flatten(0, 1))
    x = token_rows(key, value).double()

    def lost(**latents: object) -> tuple[float, float]:
        geometry = replace(graph.geometry, **latents)
        basis = spectrum.bases(geometry)[1]
        codes = latent.codes_of(latent.encode(key, value, basis), geometry)
        back = token_rows(*latent.decode(latent.latents_of(codes, geometry), basis)).double()
        error = (back - x) @ whole
        return float(error.square().sum()), float(error.mean(dim=0).norm() / error.square().sum(dim=1).mean().sqrt())

    mixed, bias = lost(latent_rank=40, latent_dtype="mixed", latent_int8=4, latent_int4=8)
    plain, _ = lost(latent_rank=30, latent_dtype="int4")
    assert (4 * 8 + 8 * 4 + 28 * 2) == 30 * 4
    assert mixed < plain
    assert bias < 0.2


def test_sinks_that_stay_in_front_scale_no_latent(text_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first tokens, outliers of many models, count only where they become latents themselves."""
    seen: list[LayerMoments] = []

    def noted(moments: LayerMoments, *rest: object) -> latent.LatentBasis:
        seen.append(moments)
        return _components(moments, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(latents, "_components", noted)
    left_out = {}
    for front in (0, 10):
        job = job_of(text_model, front=front)
        graph, run = job.bare_graph(), job.run(job.samples[0])
        fit_spectrum(job.adapter, graph, [run], 256)
        left_out[front] = 4 * len(run[0].input_ids) - seen[-1].count  # at four positions
    assert left_out == {0: 0, 10: 4 * graph.geometry.sinks}
    assert graph.geometry.sinks > 0


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
    recipe = text_recipe(text_model, rows={"latent": {"rank": 8}})
    with pytest.raises(RecipeError, match=r"cache.rows.latent is set \(rank 8\).*TensorRT") as caught:
        Job(parse_recipe(recipe), target(name))
    assert caught.value.hint is not None
    assert "cache.rows.latent=null" in caught.value.hint
    with pytest.raises(RecipeError, match=r"cache\.policy is 'coverage'.*TensorRT"):
        Job(parse_recipe(text_recipe(text_model, policy="coverage")), target(name))
    other = {"cache.rows": {"dtype": "int8"}, "cache.budget.rows": 30}
    job = Job(parse_recipe(recipe | {"engines": other}), target(name))
    assert (job.recipe.cache.rows.latent, job.recipe.cache.rows.dtype, job.recipe.cache.budget.rows) == (
        None,
        "int8",
        30,
    )
    kept = Job(parse_recipe(recipe | {"engines": other}), target("cpu")).recipe
    assert kept.cache.rows.latent is not None
    assert kept.cache.budget.rows == 24


def test_fields_for_engines_are_checked(text_model: Path) -> None:
    recipe = parse_recipe(text_recipe(text_model) | {"engines": {"cache.nosuch": 1}})
    with pytest.raises(RecipeError, match=r"for engines.*nosuch"):
        Job(recipe, target("rtx"))


def test_compiled_operators_are_refused() -> None:
    with pytest.raises(RecipeError, match="score is 'coverage': the compiled operators know"):
        gate_struct(GateConfig(score="coverage"))
    geometry = CacheGeometry(kv_heads=1, q_heads=1, head_dim=4, exact_rows=0, latent_rows=8, latent_rank=4)
    with pytest.raises(RecipeError, match="latent_rows is 8: the compiled operators"):
        geometry_struct(geometry)


@pytest.mark.parametrize(
    ("policy", "latents"),
    [
        ("coverage", {"rank": 12}),
        ("retentive", {"rank": 12}),
        ("retentive", {"rank": 24, "dtype": "mixed", "int8": 4, "int4": 8}),
    ],
    ids=["coverage", "retentive", "mixed"],
)
def test_an_artifact_equals_the_reference_while_it_demotes_and_merges(
    text_model: Path, tmp_path: Path, policy: str, latents: dict[str, object]
) -> None:
    """Three tiers and the memory under ONNX Runtime, state in place: every step of the golden run, codes and all."""
    recipe = text_recipe(
        text_model,
        policy=policy,
        readout="mass",
        rows={"dtype": "int8", "latent": {**latents, "front": 10}},
        memory={"grid": [0, 0], "recall": 3},
        budget={"rows": 30},
    )
    result = pipeline.build(parse_recipe({**recipe, "golden_steps": 24}), "cpu", tmp_path / "out")
    assert list(result.manifest.graphs) == ["onnxruntime"]
    report = validate_golden(tmp_path / "out")
    assert report.passed, report
    golden = np.load(tmp_path / "out" / "golden.npz")
    assert golden["state.past.1.memory_mass"].min() > 0  # the memory was used
    assert golden["state.past.1.latent_codes"].any()
    session = Session.open(tmp_path / "out")
    assert sum(array.nbytes for array in session.backend.state().values()) == result.manifest.state_bytes
    planned = plan_recipe(parse_recipe(recipe), target("cpu"))
    bases = 2 * sum(spec.nbytes for spec in planned.cache.geometry.constants() if spec.name.startswith("latent_"))
    plain = plan_recipe(parse_recipe(text_recipe(text_model)), target("cpu"))
    assert planned.memory.weights - plain.memory.weights == bases
    assert planned.memory.state == planned.state.total == result.manifest.state_bytes
