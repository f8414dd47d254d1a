"""The peers: which weights each one gets, made from the artifact's own source, and whether it is installed.

Every peer runs the weights of the artifact's model in the artifact's weight format. What a peer cannot do is said, not
approximated: `Unavailable` becomes a line of the report.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retentive_export.errors import RetentiveExportError
from retentive_export.spec.manifest import Manifest
from retentive_export.spec.recipe import ModelSection, parse_recipe
from retentive_export.spec.sources import locate

__all__ = ["PEERS", "Peer", "Unavailable"]


class Unavailable(Exception):
    """A peer cannot run this model here; says why, and what would help."""


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A runtime to compare with.

    name: as `--peer` takes it, and the kind of its arm. title: as tables show it. module: what must be importable.
    extra: of this package, that installs it. prepare: (manifest, folder for converted models, interpreter) -> the arm's
    specification.
    """

    name: str
    title: str
    module: str
    extra: str
    prepare: Callable[[Manifest, Path, str], dict[str, Any]]

    def spec(self, manifest: Manifest, folder: Path, python: str) -> dict[str, Any]:
        """What its arm is opened with.

        Raises:
            Unavailable: not installed under `python`, or not for this model.
        """
        probe = [python, "-c", f"import {self.module}"]
        try:
            installed = subprocess.run(probe, capture_output=True, check=False).returncode == 0
        except OSError as error:
            raise Unavailable(f"{python} cannot be started: {error.strerror}") from None
        if not installed:
            raise Unavailable(
                f"{self.module} is not installed for {python}: pip install 'retentive-export[{self.extra}]', or name "
                f"another interpreter with --peer {self.name}=PYTHON"
            )
        try:
            return {"kind": self.name, "context": manifest.plan().context, **self.prepare(manifest, folder, python)}
        except (RetentiveExportError, ImportError) as error:
            raise Unavailable(str(error).splitlines()[0]) from error


def weight_format(manifest: Manifest) -> str:
    """float32, float16, bfloat16, int8 or int4."""
    return manifest.weights.format if manifest.weights is not None else manifest.dtype


def _model(manifest: Manifest) -> ModelSection:
    if manifest.vision is not None:
        raise Unavailable("the artifact takes frames, and peers are compared on text-only models")
    return parse_recipe(manifest.recipe, origin="the manifest's recipe").model


def _transformers(manifest: Manifest, folder: Path, python: str) -> dict[str, Any]:
    if manifest.weights is not None:
        raise Unavailable(f"transformers has no {manifest.weights.format} products on a CPU without further packages")
    return {"checkpoint": str(_checkpoint(manifest, folder)), "dtype": manifest.dtype}


def _genai(manifest: Manifest, folder: Path, python: str) -> dict[str, Any]:
    form = weight_format(manifest)
    precision = {"float32": "fp32", "int4": "int4"}.get(form)
    if precision is None:
        raise Unavailable(f"onnxruntime-genai's builder makes no {form} weights for the CPU; float32 and int4 it does")
    checkpoint = _checkpoint(manifest, folder)
    options = []
    if manifest.weights is not None:
        options = ["--extra_options", f"int4_block_size={manifest.weights.block}", "int4_accuracy_level=4"]

    def build(out: Path) -> None:
        cache = out.parent / "cache"
        command = [python, "-m", "onnxruntime_genai.models.builder", "-m", str(checkpoint), "-o", str(out)]
        command += ["-i", str(checkpoint), "-p", precision, "-e", "cpu", "-c", str(cache), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            raise Unavailable(f"onnxruntime-genai's builder failed: {said[-1] if said else done.returncode}")

    key = [_key(manifest), precision, options, _version(python, "onnxruntime-genai")]
    return {"model": str(_made_once(folder, "genai", key, build))}


def _llama_cpp(manifest: Manifest, folder: Path, python: str) -> dict[str, Any]:
    root, file = locate(_model(manifest))
    if file is None or not isinstance(root, Path):
        raise Unavailable("the model's source is no GGUF file, and llama.cpp's converter is not part of this package")
    source = root / file
    form = weight_format(manifest)
    stored = _matrix_types(source)
    if form == "int4":
        if not stored <= {"Q4_0", "Q4_1"}:
            raise Unavailable(
                f"the model's GGUF file stores its matrices as {', '.join(sorted(stored))}, not in 4 bits"
            )
        return {"gguf": str(source), "weights": f"{'/'.join(sorted(stored))}, as in {file}"}
    if form != "float32":
        raise Unavailable(f"there is no GGUF conversion to {form} here; float32 and int4 there are")

    def convert(out: Path) -> None:
        out.mkdir()
        _float_gguf(source, out / "model.gguf")

    made = _made_once(folder, "gguf-float32", [_key(manifest), source.stat().st_size], convert)
    return {"gguf": str(made / "model.gguf"), "weights": f"F32, the numbers of {file}"}


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            name="transformers",
            title="transformers, DynamicCache, SDPA",
            module="transformers",
            extra="export",
            prepare=_transformers,
        ),
        Peer(
            name="genai",
            title="onnxruntime-genai, its builder's model",
            module="onnxruntime_genai",
            extra="genai",
            prepare=_genai,
        ),
        Peer(name="llama_cpp", title="llama.cpp", module="llama_cpp", extra="llama-cpp", prepare=_llama_cpp),
    )
}


def _checkpoint(manifest: Manifest, folder: Path) -> Path:
    """The model as a directory with safetensors, in the artifact's dtype."""
    model = _model(manifest)

    def save(out: Path) -> None:
        from retentive_export.models import open_model

        adapter = open_model(model)
        _plain(adapter.model).save_pretrained(out)
        adapter.tokenizer.save_pretrained(out)

    return _made_once(folder, "checkpoint", [_key(manifest)], save)


def _plain(model: Any) -> Any:
    """The same weights without the memory that they came from a GGUF file, which transformers would refuse to save."""
    if getattr(model.config, "quantization_config", None) is None:
        return model
    config = type(model.config)(
        **{name: value for name, value in model.config.to_dict().items() if name != "quantization_config"}
    )
    plain = type(model)(config).to(model.dtype)
    plain.load_state_dict(model.state_dict())
    return plain


def _matrix_types(path: Path) -> set[str]:
    """Types of the layers' matrices in a GGUF file."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    return {t.tensor_type.name for t in reader.tensors if t.name.startswith("blk.") and len(t.shape) > 1}


def _float_gguf(source: Path, out: Path) -> None:
    """The same file with every tensor as float32: same keys, same numbers."""
    import numpy as np
    from gguf import GGUFReader, GGUFValueType, GGUFWriter, LlamaFileType
    from gguf.quants import dequantize

    reader = GGUFReader(source)
    writer = GGUFWriter(out, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.quantization_version"):
            continue
        value = field.contents()
        if field.name == "general.file_type":
            value = int(LlamaFileType.ALL_F32)
        kinds = list(field.types)
        writer.add_key_value(field.name, value, kinds[0], kinds[-1] if kinds[0] == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _key(manifest: Manifest) -> list[Any]:
    return [manifest.recipe["model"], manifest.dtype]


def _version(python: str, package: str) -> str:
    code = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False).stdout.strip()


def _made_once(folder: Path, name: str, key: list[Any], make: Callable[[Path], None]) -> Path:
    """A directory under `folder` that `make` fills, whole or not at all; found again by `key`."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:12]
    path = folder / f"{name}-{digest}"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}-") as beside:
        made = Path(beside) / "made"
        make(made)
        if not path.exists():
            shutil.move(made, path)
    return path
