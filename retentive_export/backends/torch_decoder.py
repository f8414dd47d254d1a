"""The decode loop of a Hugging Face model on one device: state updated in place, a decode step as one CUDA graph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from retentive_export.cache.latent import LatentBasis
from retentive_export.cache.loop import CacheLoop
from retentive_export.cache.step import TORCH_DTYPES
from retentive_export.errors import ArtifactError, DeviceError, RecipeError
from retentive_export.models import ModelAdapter, open_model
from retentive_export.ops.aside import AsideStep
from retentive_export.ops.contract import OPS
from retentive_export.ops.torch_ops import step_in_place
from retentive_export.spec.manifest import Manifest
from retentive_export.spec.recipe import parse_recipe

__all__ = ["DecodeLoop", "load_adapter", "open_device", "read_constants", "reference_convolutions"]

WARM_UP = 2
"""Decode steps before capture: libraries choose their kernels and allocate on first use, which a graph cannot hold."""


class DecodeLoop:
    """A model and its state on one device.

    Args:
        adapter: the model, on the device. manifest: of the artifact. device: "cpu" or a CUDA device.
        key_scales: one [Hkv, D] float32 tensor per layer, with coarse rows. bases: one per layer, with latent rows.
        cuda_graph: capture the step of one token, and replay it; other steps are launched one operator at a time.
        aside: what makes a decode step, on a CUDA device; None: `step_in_place`.

    `state[layer][name]` are the state's tensors: the same ones from the first step to the last.
    """

    def __init__(
        self,
        adapter: ModelAdapter,
        manifest: Manifest,
        device: torch.device,
        key_scales: list[Tensor] | None,
        bases: list[LatentBasis] | None = None,
        *,
        cuda_graph: bool,
        aside: AsideStep | None = None,
    ) -> None:
        plan = manifest.plan()
        self.device, self.geometry = device, plan.geometry
        self._decoder = adapter.decoder_module()
        self._contract = {t.name: t for t in manifest.contract["decoder"] if t.role == "input"}
        scales = None if key_scales is None else [scale.to(device) for scale in key_scales]
        there = None if bases is None else [LatentBasis(*(x.to(device) for x in basis)) for basis in bases]
        self._loop = CacheLoop(
            *(plan.geometry, plan.gate, plan.layers),
            key_scales=scales,
            bases=there,
            step=step_in_place if aside is None else aside.step,
            device=device,
        )
        self._aside = aside
        self._loop.reset()
        self.state = self._loop.state
        self._static = self._buffers(1)
        self._graph: torch.cuda.CUDAGraph | None = None
        if cuda_graph:
            self._capture()

    def _buffers(self, steps: int) -> dict[str, Tensor]:
        """Zero inputs of a step."""
        return {
            name: torch.zeros(
                [steps if n == "T" else int(n) for n in tensor.shape],
                dtype=TORCH_DTYPES[tensor.dtype],
                device=self.device,
            )
            for name, tensor in self._contract.items()
        }

    def _capture(self) -> None:
        """Capture a decode step on the empty state, which it then empties again."""
        ahead = torch.cuda.Stream(self.device)
        ahead.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.device(self.device), torch.cuda.stream(ahead):
            for _ in range(WARM_UP):
                self._launch(self._static)
        torch.cuda.current_stream(self.device).wait_stream(ahead)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self.device), torch.cuda.graph(self._graph):
            self._logits = self._launch(self._static)
        self.reset()

    def step(self, inputs: Mapping[str, Tensor | None]) -> Tensor:
        """Feed T tokens; logits [B, 1, vocab] float32 on the device, overwritten by the next step.

        inputs: host tensors by the names of the contract, of the right shapes; None means zeros.
        """
        steps = inputs["input_ids"].shape[1]  # type: ignore[union-attr]
        given = self._static if steps == 1 else self._buffers(steps)
        for name, buffer in given.items():
            source = inputs[name]
            if source is None:
                buffer.zero_()
            else:
                buffer.copy_(source)
        if steps == 1 and self._graph is not None:
            self._graph.replay()
            return self._logits
        return self._launch(given)

    @torch.no_grad()
    def _launch(self, inputs: Mapping[str, Tensor]) -> Tensor:
        visual = inputs.get("visual_embeds")
        self._loop.token_meta = inputs["token_meta"]
        logits: Tensor = self._decoder(
            inputs["input_ids"],
            visual_embeds=visual,
            deep=inputs.get("deep"),
            is_visual=None if visual is None else inputs["token_meta"][..., 1] >= 0,
            position_ids=inputs["position_ids"],
            last_only=True,
            loop=self._loop,
        )
        if self._aside is not None:
            self._aside.join()
        return logits.float()

    def reset(self) -> None:
        """Empty the state, in place."""
        for layer in self.state:
            for spec in self.geometry.state():
                layer[spec.name].fill_(spec.fill)


def torch_device(name: str) -> torch.device:
    """The device called `name` ("cpu", "cuda", "cuda:1"); a GPU with its number.

    Raises:
        RecipeError: not such a name. DeviceError: no such device here.
    """
    try:
        device: torch.device | None = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise RecipeError(f"device is {name!r}, and must be cpu, cuda or cuda:N")
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise DeviceError(
            f"device is {name!r}, and PyTorch {torch.__version__} sees {count} CUDA devices here",
            hint="use --device cpu, or install a PyTorch built for this machine's CUDA driver",
        )
    return torch.device("cuda", device.index or 0)


def open_device(name: str, library: str | Path | None) -> tuple[torch.device, AsideStep | None]:
    """`torch_device`; on CUDA with the operators' kernels behind it, and the step that decode makes with them.

    Raises:
        RecipeError, DeviceError: see there. MissingExtraError: the kernels' library is not built.
    """
    device = torch_device(name)
    if device.type == "cuda":
        from retentive_export.ops.dispatch import enable_cuda

        return device, AsideStep(enable_cuda(library), device)
    return device, None


def load_adapter(manifest: Manifest, device: torch.device) -> ModelAdapter:
    """The checkpoint that the artifact was made from, on the device.

    Raises:
        ModelError: it is not there any more, or cannot be read.
    """
    model = parse_recipe(manifest.recipe, origin="the manifest's recipe").model
    adapter = open_model(model)
    adapter.model.to(device)
    return adapter


def read_constants(directory: Path, manifest: Manifest) -> tuple[list[Tensor] | None, list[LatentBasis] | None]:
    """Key scales [Hkv, D] float32 and latent bases of every layer, which the exporter calibrated; None for either
    where the rows need none.

    Raises:
        ArtifactError: the graph does not hold them.
    """
    import onnx_ir as ir

    plan = manifest.plan()
    names = OPS["StateTransition"].constant_inputs(plan.geometry)  # it reads all of a layer's constants
    if not names:
        return None, None
    graph = ir.load(directory / next(iter(manifest.graphs.values()))).graph
    wanted = [f"{layer}.{name}" for layer in range(plan.layers) for name in names]
    values = {name: graph.initializers[name].const_value for name in wanted if name in graph.initializers}
    found = {name: torch.from_numpy(value.numpy().copy()) for name, value in values.items() if value is not None}
    if len(found) != len(wanted):
        raise ArtifactError(
            f"the decoder graph holds {len(found)} of {len(wanted)} constants ({', '.join(names)} of every layer)"
        )
    layers = [{name: found[f"{layer}.{name}"] for name in names} for layer in range(plan.layers)]
    scales = [layer["key_scale"] for layer in layers] if "key_scale" in names else None
    if "latent_encode" not in names:
        return scales, None
    return scales, [LatentBasis(*(layer[f"latent_{name}"] for name in LatentBasis._fields)) for layer in layers]


@contextmanager
def reference_convolutions() -> Iterator[None]:
    """cuDNN may round float32 factors to 10 bits unless told otherwise; inside the block it does not."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
