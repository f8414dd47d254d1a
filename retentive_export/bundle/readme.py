"""README.md of one bundle: what is in it, what its device needs, and what to type there."""

from __future__ import annotations

from retentive_export.spec.bundle import SIGNATURE, BundleLibrary, BundleSection
from retentive_export.spec.manifest import MANIFEST, Manifest
from retentive_export.spec.targets import Stack

__all__ = ["README", "readme"]

README = "README.md"


def readme(manifest: Manifest, *, signed: bool) -> str:
    """Markdown; the same text for the same bundle."""
    section = manifest.bundle
    assert section is not None
    parts = [
        _title(manifest, section),
        _needs(section),
        _finish(manifest, section, signed),
        _content(manifest, section),
    ]
    return "\n".join(parts)


def _title(manifest: Manifest, section: BundleSection) -> str:
    target, plan = section.target, manifest.plan()
    frame = f", frames of {manifest.vision.frame[0]} x {manifest.vision.frame[1]} pixels" if manifest.vision else ""
    weights = f"{manifest.weights.format} in blocks of {manifest.weights.block}" if manifest.weights else manifest.dtype
    made = ", ".join(f"{name} {version}" for name, version in sorted(manifest.tools.items()) if name != "source")
    end = "has no end" if plan.capacity is None else f"holds {plan.capacity} tokens"
    return f"""# {manifest.name} for {target.name}

A deployment bundle for {target.description} (SM {", ".join(target.sm)}). Everything that can be made and checked on
another machine is in it; the TensorRT engines are not, because they can only be built on the device that runs them.

| | |
| --- | --- |
| model | {manifest.family}, {manifest.text.layers} layers{frame} |
| weights | {weights} |
| state of a session | {manifest.state_bytes:,} bytes, policy {plan.policy}; it {end} |
| made by | {made} |
"""


def _needs(section: BundleSection) -> str:
    rows = [_stack_row(stack, section) for stack in section.target.stacks]
    if not rows:
        rows = [f"| any | | | {_library_words(section.libraries[0])} |"]
    lines = [
        "## What the device needs",
        "",
        "| software | CUDA | TensorRT | plugin library |",
        "| --- | --- | --- | --- |",
    ]
    lines += [*rows, ""]
    if lacking := [library for library in section.libraries if library.file is None]:
        stacks = ", ".join(stack for library in lacking for stack in library.stacks) or "every stack"
        lines += [
            f"For {stacks} no library could be compiled where the bundle was made. `finish` compiles it on",
            f"the device from `{section.sources}`, which takes nvcc, cmake, ninja, a C++ compiler, TensorRT's headers",
            "(JetPack has all but ninja: `pip install ninja`) and some minutes. With `finish --plugin-library FILE` it",
            "takes one that is there already.",
            "",
        ]
    return "\n".join(lines)


def _stack_row(stack: Stack, section: BundleSection) -> str:
    library = next(one for one in section.libraries if stack.name in one.stacks)
    return f"| {stack.name} | {stack.cuda} | {stack.tensorrt} | {_library_words(library)} |"


def _library_words(library: BundleLibrary) -> str:
    if library.file is None:
        return f"compiled on the device: {library.why}"
    return f"`{library.file}`" + (f", by CUDA {library.cuda}" if library.cuda else "")


def _finish(manifest: Manifest, section: BundleSection, signed: bool) -> str:
    key = " --key KEY.pub.pem" if signed else ""
    extras = "[cuda,bundle]" if signed else "[cuda]"
    signature = (
        f"It is signed (`{SIGNATURE}`, ed25519, over `{MANIFEST}`). With `--key` nothing is loaded unless the\n"
        "signature is that key's; take the public key from its owner, not from here.\n"
        if signed
        else "It is not signed: hashes show damage, but not who made it.\n"
    )
    return f"""## On the device

In this directory:

```bash
python3 -m venv --system-site-packages ../venv && . ../venv/bin/activate
pip install './{section.runtime}{extras}'
retentive-export finish . -o ../{manifest.name}{key}
retentive-export run ../{manifest.name} --prompt "Hello"
```

`--system-site-packages` because JetPack installs TensorRT's Python module for the system's Python; the environment lies
outside, because a bundle with files that its maker did not put there is refused. `finish` checks every file against
`{MANIFEST}` before it loads any, looks at the machine (in more words: `retentive-export doctor --target
{section.target.name}`), builds the engines, replays `golden.npz` on them and writes a report. Interrupted, it goes on
where it was. With `--target cpu` it does the same without a GPU, on ONNX Runtime.

{signature}"""


def _content(manifest: Manifest, section: BundleSection) -> str:
    sources = sum(name.startswith(f"{section.sources}/") for name in manifest.files)
    rows = {
        MANIFEST: "recipe as resolved, tensor contract, cache plan, sha256 of every file",
        manifest.graphs["tensorrt"]: "decoder for TensorRT: the plugins' operators without bodies",
        manifest.graphs["onnxruntime"]: "the same for ONNX Runtime, over the same weights",
        "decoder.onnx.data": "the decoder's weights",
        **({manifest.vision_graph: "frames to embeddings"} if manifest.vision_graph else {}),
        "golden.npz": "inputs and reference outputs of a short run of the original model",
        "tokenizer.json": "tokenizer",
        section.runtime: "the runtime: needs neither torch nor transformers",
        **{library.file: "plugin library" for library in section.libraries if library.file},
        f"{section.sources}/": f"the plugins' sources with their CMake build, {sources} files",
    }
    lines = [f"| `{name}` | {words} |" for name, words in rows.items()]
    return "\n".join(["## What is in it", "", "| file | |", "| --- | --- |", *lines, ""])
