"""One recipe for one target: which steps make its artifact, from which keys, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from retentive_export.backends.tensorrt.builder import (
    DECODER,
    VISION,
    EnginePlan,
    build_engines,
    engine_key,
)
from retentive_export.backends.tensorrt.layers import FLAVOUR
from retentive_export.backends.tensorrt.vendor import VENDORS
from retentive_export.bundle.make import SOURCES, bundle_steps, makes_bundle
from retentive_export.errors import MissingExtraError, RecipeError
from retentive_export.ops.native import find
from retentive_export.planner.limits import check_kernels, check_rows
from retentive_export.planner.shape import model_shape
from retentive_export.planner.weights import check_matrices
from retentive_export.spec.files import atomic_file
from retentive_export.spec.manifest import FileEntry, Manifest, TensorContract, cache_fields
from retentive_export.spec.plan import CachePlan, plan_cache
from retentive_export.spec.recipe import Recipe
from retentive_export.spec.sources import locate
from retentive_export.spec.targets import Target
from retentive_export.spec.weights import check_weights
from retentive_export.step_keys import source_stamp, tools, weights_key
from retentive_export.steps import Step, StepRunner

if TYPE_CHECKING:
    from retentive_export.export.decoder import DecoderGraph
    from retentive_export.export.prompts import Sample, TokenStream
    from retentive_export.export.reference import Run
    from retentive_export.models.base import ModelAdapter
    from retentive_export.spec.layout import VisionLayout

__all__ = ["Job"]


@dataclass
class Job:
    """One recipe and target: the model is loaded once, when the first step needs it.

    runner: runs the steps; a step may use what the ones before it left there. bundle: make a bundle even where this
    machine is the target.
    """

    recipe: Recipe
    target: Target
    plugin_library: str | Path | None = None
    runner: StepRunner | None = None
    bundle: bool = False
    source: Path | str = field(init=False)

    def __post_init__(self) -> None:
        self.recipe = self.recipe.on(self.target.engines)
        recipe, target = self.recipe, self.target
        check_weights(recipe.weights, recipe.model.dtype, target)
        check_rows(recipe.cache, target)
        self.source, self._gguf = locate(recipe.model)

    @cached_property
    def adapter(self) -> ModelAdapter:
        MissingExtraError.check("torch", "transformers", "onnxscript", "onnx_ir", extra="export")
        from retentive_export.models import open_model

        return open_model(self.recipe.model)

    @cached_property
    def layout(self) -> VisionLayout | None:
        frame = self.recipe.model.frame
        if not self.adapter.takes_frames:
            if frame is not None:
                raise RecipeError(f"model.frame is {list(frame)}, and {self.adapter.family} takes no frames")
            return None
        if frame is None:
            raise RecipeError("model.frame is null, and a vision model needs [height, width] of the camera's frames")
        return self.adapter.vision_layout(frame)

    @cached_property
    def plan(self) -> CachePlan:
        plan = plan_cache(self.recipe, self.adapter.text_shape(), self.layout)
        check_kernels(plan.geometry, self.target)
        return plan

    @cached_property
    def samples(self) -> list[Sample]:
        from retentive_export.export.prompts import calibration_samples

        return calibration_samples(self.recipe)

    @cached_property
    def _tools(self) -> dict[str, str]:
        return tools()

    @cached_property
    def makes_bundle(self) -> bool:
        """Whether it ends with a bundle in the place of engines.

        Raises:
            RecipeError: a bundle is asked for, and the target needs none.
        """
        if self.bundle and not makes_bundle(self.target, always=True):
            raise RecipeError(
                f"a bundle is asked for, and the target {self.target.name!r} has no engines that must be built on a "
                "device of a known kind: its artifacts are finished here",
                hint="--target jetson-orin, or another one whose engines are built on the device",
            )
        return makes_bundle(self.target, always=self.bundle)

    def check(self) -> None:
        """Refuse what cannot be built, before anything is written: reads the model and the calibration set.

        Raises:
            RecipeError, ModelError, MissingExtraError: as their names say.
        """
        _ = self.plan, self.samples
        if self.target.engines != "none":
            check_matrices(model_shape(self.recipe.model), self.recipe.weights)

    def steps(self) -> list[tuple[str, Any, Step]]:
        """(name, key, function) in order; a key holds everything that the step's files depend on."""
        checkpoint = source_stamp(self.source, self._gguf)
        model = [self.recipe.model.model_dump(mode="json"), checkpoint, self._tools]
        constants = self.recipe.constants
        cache = [self.recipe.cache.model_dump(mode="json", by_alias=True), self.recipe.calibration]
        cache += [] if constants is None else [constants.sha256]
        steps: list[tuple[str, Any, Step]] = [("tokenizer", model, self._tokenizer)]
        if self.recipe.model.frame is not None:
            steps.append(("vision", model, self._vision))
        steps.append(("decoder", [model, cache, *weights_key(self.recipe, self.target)], self._decoder))
        steps.append(("golden", [model, cache, self.recipe.golden_steps], self._golden))
        if self.makes_bundle:
            steps += bundle_steps(self.target, self.plugin_library, self.runner.progress if self.runner else _silent)
        elif self.target.backend in VENDORS:
            engine = engine_key(self.target.backend, find("plugins", self.plugin_library))
            steps.append(("engine", [model, cache, engine, self.target.builder_flags], self._engine))
        elif self.plugin_library is not None:
            raise RecipeError(f"plugin_library is given, and the target {self.target.name!r} has no engines")
        return steps

    def _tokenizer(self, work: Path) -> dict[str, Any]:
        tokenizer = self.adapter.tokenizer
        tokenizer.backend_tokenizer.save(str(work / "tokenizer.json"))
        if template := getattr(tokenizer, "chat_template", None):
            (work / "chat_template.jinja").write_text(str(template), encoding="utf-8")
        return {"dialogue": self.adapter.dialogue_layout().model_dump(mode="json")}

    def _vision(self, work: Path) -> dict[str, Any]:
        from retentive_export.export.save import contract_of, save_graph
        from retentive_export.export.vision import vision_model

        assert self.layout is not None
        module = self.adapter.vision_module(self.layout.frame)
        assert module is not None
        model = vision_model(module, self.layout.frame, deep=self.layout.deep_layers > 0)
        save_graph(model, work / "vision.onnx")
        contract = [tensor.model_dump(mode="json") for tensor in contract_of(model)]
        return {"vision_graph": "vision.onnx", "vision_contract": contract}

    def _decoder(self, work: Path) -> dict[str, Any]:
        from retentive_export.export.decoder import attention_scale, decoder_model
        from retentive_export.export.passes.block_weights import block_weights
        from retentive_export.export.passes.quantise_weights import quantise_weights
        from retentive_export.export.save import contract_of, save_alone, save_flavours, save_quantised

        model = decoder_model(self.graph)
        weights, for_engines = self.recipe.weights, self.target.engines != "none"
        record = None
        if weights.format != "none":
            record = (block_weights if for_engines else quantise_weights)(model, weights)
        save = save_alone if self.plan.geometry.latent_rows else save_flavours  # no engine reads latent rows
        if record and not for_engines:
            save = save_quantised
        return {
            "family": self.adapter.family,
            "text": self.adapter.text_shape().model_dump(mode="json"),
            "vision": self.layout.model_dump(mode="json") if self.layout else None,
            "cache": cache_fields(self.plan),
            "state_bytes": self.plan.state_bytes,
            "full_cache_bytes": self.plan.full_cache_bytes,
            "scale": attention_scale(model),
            "contract": {"decoder": [tensor.model_dump(mode="json") for tensor in contract_of(model)]},
            "weights": record.model_dump(mode="json") if record else None,
            "graphs": save(model, work, "decoder"),
        }

    def _golden(self, work: Path) -> dict[str, Any]:
        import numpy as np

        from retentive_export.export.golden import golden_run
        from retentive_export.export.reference import visual_features

        sample = self.samples[0]
        features = visual_features(self.adapter, self.layout, sample)
        stream = self.stream(sample)
        arrays = golden_run(self.graph, stream, sample, features, self.recipe.golden_steps)
        with atomic_file(work / "golden.npz") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        return {}

    def _engine(self, work: Path) -> dict[str, Any]:
        assert self.runner is not None
        assert self.target.backend is not None
        facts, runner = self._facts(self.runner.facts), self.runner
        graphs = {DECODER: work.parent / facts["graphs"][FLAVOUR]}
        if facts["vision_graph"] is not None:
            graphs[VISION] = work.parent / facts["vision_graph"]
        plan = EnginePlan(
            backend=self.target.backend,
            graphs=graphs,
            contract=TypeAdapter(dict[str, list[TensorContract]]).validate_python(facts["contract"]),
            layers=facts["cache"]["layers"],
            chunk=facts["cache"]["geometry"]["chunk"],
            plugin_library=find("plugins", self.plugin_library),
            earlier=runner.finished,
            flags=self.target.builder_flags,
        )
        section = build_engines(plan, work, lambda text: runner.progress("engine", text))
        return {"engine": section.model_dump(mode="json")}

    def stream(self, sample: Sample) -> TokenStream:
        """The tokens of a sample's first two turns, cut to what a full cache holds before the golden steps."""
        from retentive_export.export.prompts import token_stream

        stream = token_stream(self.adapter, self.layout, sample, turns=2)
        if self.plan.capacity is None:
            return stream
        return stream.cut(max(1, self.plan.capacity - self.recipe.golden_steps))

    @cached_property
    def graph(self) -> DecoderGraph:
        """The decoder to export, with the constants that its rows need: the recipe's, or from the calibration set."""
        from retentive_export.export.constants import fit_constants, read_constants

        graph = self.bare_graph()
        if not graph.geometry.constants():
            return graph
        if (section := self.recipe.constants) is not None:
            read_constants(section, graph)
        else:
            fit_constants(self.adapter, graph, [self.run(sample) for sample in self.samples], self.plan.context)
        return graph

    def bare_graph(self) -> DecoderGraph:
        """The decoder without the constants of its rows."""
        from retentive_export.export.decoder import DecoderGraph, DecoderInputs

        geometry = self.plan.geometry
        inputs = DecoderInputs.of(self.adapter.text_shape(), self.layout, geometry.dtype)
        return DecoderGraph(self.adapter.decoder_module(), geometry, self.plan.gate, self.plan.layers, inputs)

    def run(self, sample: Sample, *, closed: bool = False) -> Run:
        """A whole sample as the model takes it; see `sample_run`."""
        from retentive_export.export.reference import sample_run

        return sample_run(self.adapter, self.layout, sample, closed=closed)

    def manifest(self, files: dict[str, FileEntry], facts: dict[str, Any]) -> Manifest:
        """The manifest from what the steps recorded; the model need not be loaded for it."""
        recipe = self.recipe
        return Manifest.model_validate(
            {
                **self._facts(facts),
                "name": recipe.name,
                "target": self.target.name,
                "dtype": recipe.model.dtype,
                "tools": self._tools,
                "recipe": recipe.portable().to_dict(),
                "thresholds": recipe.thresholds.resolved(recipe.model.dtype, recipe.cache.coarsest),
                "generation": recipe.generation,
                "files": files,
            }
        )

    def _facts(self, facts: dict[str, Any]) -> dict[str, Any]:
        """The steps' facts in the manifest's form: one contract for all graphs."""
        rest = {name: fact for name, fact in facts.items() if name != "vision_contract"}
        vision = {VISION: facts["vision_contract"]} if "vision_contract" in facts else {}
        rest = {"vision_graph": None, **rest, "contract": facts["contract"] | vision}
        if "libraries" not in facts:
            return rest
        parts = {name: rest.pop(name) for name in ("libraries", "runtime")}
        return rest | {"bundle": {**parts, "target": self.target.model_dump(mode="json"), "sources": SOURCES}}


def _silent(step: str, event: str) -> None:
    """Progress that nobody asked for."""
