"""`build` for a device that is not here: what is in the bundle, equal bytes for equal builds, what is refused."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
import zstandard

from retentive_export.bundle import make
from retentive_export.bundle.compile import source_files
from retentive_export.bundle.toolchain import Toolkit, plan_compilations
from retentive_export.errors import ArtifactError, InputError, MissingExtraError, RecipeError, RetentiveExportError
from retentive_export.pipeline import BuildResult
from retentive_export.spec.bundle import BundleLibrary
from retentive_export.spec.manifest import MANIFEST, read_manifest, verify_files
from retentive_export.spec.targets import load_targets
from tests.cli.calls import call
from tests.conftest import ROOT, build_artifact, text_recipe
from tests.doctor.machines import plugin_library

WHEEL = "runtime/retentive_export-0.1.0-py3-none-any.whl"


def files(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_content(signed_build: BuildResult, orin_library: Path) -> None:
    directory, manifest = signed_build.directory, read_manifest(signed_build.directory)
    assert (manifest.target, manifest.engine) == ("jetson-orin", None)
    section = manifest.bundle
    assert section is not None
    assert section.target == load_targets()["jetson-orin"]
    (library,) = section.libraries
    assert library == BundleLibrary(
        stacks=("JetPack 6.2", "JetPack 7.2", "TensorRT 11"), file="plugins/aarch64/libretentive_plugins.so"
    )
    assert (directory / "plugins/aarch64/libretentive_plugins.so").read_bytes() == orin_library.read_bytes()
    plugins = ROOT / "plugins"
    held = files(directory / section.sources)
    assert held == {name: (plugins / name).read_bytes() for name in source_files(plugins)}
    assert {"CMakeLists.txt", "kernels/step/step.cu", "glue/tensorrt/library.cpp"} < set(held)
    unlisted = {MANIFEST, f"{MANIFEST}.sha256", f"{MANIFEST}.sig", "build.json"}
    assert set(files(directory)) == {*manifest.files, *unlisted}
    assert {"decoder.onnx", "decoder.tensorrt.onnx", "decoder.onnx.data", "golden.npz", "README.md"} < set(
        manifest.files
    )
    verify_files(directory, manifest)


def test_the_wheel_is_light(signed_build: BuildResult) -> None:
    with zipfile.ZipFile(signed_build.directory / WHEEL) as wheel:
        names = wheel.namelist()
        metadata = wheel.read("retentive_export-0.1.0.dist-info/METADATA").decode()
        assert {one.date_time for one in wheel.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist") and "extra" not in line]
    assert not [line for line in required if any(word in line for word in ("torch", "transformers", "onnx>"))]
    assert "retentive_export/spec/targets.yaml" in names
    assert "retentive_export/recipes/qwen3-vl-4b.yaml" in names
    assert not [name for name in names if "weights/" in name or "samples/" in name or "calibration/" in name]
    assert sum(Path(name).suffix == ".py" for name in names) > 150


def test_readme_is_of_this_bundle(signed_build: BuildResult) -> None:
    text = (signed_build.directory / "README.md").read_text()
    for words in (
        "# tiny-text for jetson-orin",
        "(SM 8.7)",
        "13,440 bytes, policy h2o",
        "| JetPack 6.2 | 12.6 | 10.3 | `plugins/aarch64/libretentive_plugins.so` |",
        f"pip install './{WHEEL}[cuda,bundle]'",
        "retentive-export finish . -o ../tiny-text --key KEY.pub.pem",
        "It is signed",
    ):
        assert words in text, words


def test_a_repeated_build_reuses_everything(
    bundle: Path, text_model: Path, orin_library: Path, keys: Path, signed_build: BuildResult
) -> None:
    before = files(bundle)
    result = build_artifact(
        text_recipe(text_model), bundle, "jetson-orin", plugin_library=orin_library, sign_key=keys / "key.pem"
    )
    assert result.ran == []
    assert result.reused == ["tokenizer", "decoder", "golden", "plugins", "runtime"]
    assert files(bundle) == before
    unsigned = build_artifact(text_recipe(text_model), bundle, "jetson-orin", plugin_library=orin_library)
    assert (unsigned.ran, unsigned.signed) == ([], False)
    assert not (bundle / f"{MANIFEST}.sig").exists()
    assert "It is not signed" in (bundle / "README.md").read_text()


def test_equal_builds_give_equal_archives(
    signed_build: BuildResult, text_model: Path, orin_library: Path, keys: Path, tmp_path: Path
) -> None:
    """All made again, graphs and wheel too, in another directory and under another name."""
    options = {"plugin_library": orin_library, "archive": True, "sign_key": keys / "key.pem"}
    again = build_artifact(text_recipe(text_model), tmp_path / "elsewhere", "jetson-orin", **options)
    assert "runtime" in again.ran
    assert again.archive == tmp_path / "elsewhere.tar.zst"
    assert signed_build.archive is not None
    assert again.archive.read_bytes() == signed_build.archive.read_bytes()


def test_members_of_the_archive(signed_build: BuildResult) -> None:
    assert signed_build.archive is not None
    with zstandard.open(signed_build.archive, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        members = list(tar)
    first = [f"tiny-text-jetson-orin/{MANIFEST}{suffix}" for suffix in ("", ".sha256", ".sig")]
    assert [member.name for member in members][:3] == first
    assert {m.name for m in members[3:]} == {f"tiny-text-jetson-orin/{name}" for name in signed_build.manifest.files}
    metadata = {(m.mtime, m.mode, m.uid, m.gid, m.uname, m.gname, m.isreg()) for m in members}
    assert metadata == {(315532800, 0o644, 0, 0, "", "", True)}


def test_validate_and_inspect_take_a_bundle(signed_build: BuildResult) -> None:
    """With ONNX Runtime, its graphs are an artifact's."""
    assert call("validate", signed_build.directory).exit_code == 0
    shown = call("inspect", signed_build.directory).stdout
    assert "engines are built on the device: Jetson AGX Orin 64 GB" in shown


def test_the_command_line(text_model: Path, bundle: Path, orin_library: Path, keys: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny-text.yaml"
    recipe.write_text(yaml.safe_dump(text_recipe(text_model)))
    args = ("build", recipe, "--target", "jetson-orin", "-o", bundle, "--plugin-library", orin_library, "--archive")
    data = json.loads(call(*args, "--sign", keys / "key.pem", "--json").stdout)
    assert data["bundle"]["signed"] is True
    assert data["bundle"]["archive"] == f"{bundle}.tar.zst"
    shown = call(*args).stdout
    assert "retentive-export finish orin.tar.zst" in shown
    assert shown.count("orin.tar.zst") == 2  # and where it lies


@pytest.mark.parametrize(
    ("target", "options", "kind", "words"),
    [
        ("cpu", {"archive": True}, RecipeError, "an archive is asked for, and the target 'cpu' gives no bundle"),
        ("cpu", {"bundle": True}, RecipeError, "a bundle is asked for, and the target 'cpu'"),
        ("tensorrt", {"bundle": True}, RecipeError, "a bundle is asked for, and the target 'tensorrt'"),
        ("jetson-orin", {"sign_key": "key.pub.pem"}, InputError, "no ed25519 private key"),
        ("jetson-orin", {"sign_key": "absent.pem"}, InputError, "absent.pem cannot be read: No such file"),
        ("jetson-orin", {"plugin_library": "x86.so"}, ArtifactError, "is for x86_64, and the target is aarch64"),
        ("jetson-thor", {"plugin_library": "orin.so"}, ArtifactError, "SM 8.7, and the target is SM 11.0"),
    ],
)
def test_refused_before_anything_is_written(
    target: str,
    options: dict[str, Any],
    kind: type[RetentiveExportError],
    words: str,
    text_model: Path,
    orin_library: Path,
    keys: Path,
    tmp_path: Path,
) -> None:
    inputs = tmp_path / "inputs"
    shutil.copytree(keys, inputs)
    shutil.copy(orin_library, inputs / "orin.so")
    plugin_library(inputs / "x86.so", cubins=[87])
    named = {name: inputs / value if isinstance(value, str) else value for name, value in options.items()}
    with pytest.raises(kind) as error:
        build_artifact(text_recipe(text_model), tmp_path / "out", target, **named)
    assert words in str(error.value)
    assert list(tmp_path.iterdir()) == [inputs]


def test_an_archive_that_cannot_be_written_is_refused_first(
    text_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without zstandard nothing is exported before it is missed."""
    real = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "zstandard" else real(name))
    with pytest.raises(MissingExtraError, match="zstandard"):
        build_artifact(text_recipe(text_model), tmp_path / "out", "jetson-orin", archive=True)
    assert list(tmp_path.iterdir()) == []


def toolkit(version: str, *capabilities: int) -> Toolkit:
    return Toolkit(nvcc=Path("/nvcc"), version=version, capabilities=frozenset(capabilities))


def test_which_stacks_are_compiled_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One library per major version of CUDA, by the newest toolkit of it; what is missing is said."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    orin, thor = load_targets()["jetson-orin"], load_targets()["jetson-thor"]
    both = [toolkit("13.2", 87, 110), toolkit("12.6", 87)]
    six, seven = plan_compilations(orin, tmp_path, both)
    assert (six.stacks, six.name) == (("JetPack 6.2",), "cuda12-aarch64-sm87")
    assert (seven.stacks, seven.name) == (("JetPack 7.2", "TensorRT 11"), "cuda13-aarch64-sm87")
    (none,) = plan_compilations(thor, tmp_path, [toolkit("12.6", 87)])
    assert none.why == "it takes nvcc of CUDA 13, and here is: 12.6"
    (old,) = plan_compilations(thor, tmp_path, [toolkit("13.0", 87)])
    assert old.why == "nvcc 13.0 does not know SM 11.0"
    (nothing,) = plan_compilations(thor, tmp_path, [])
    assert nothing.why == "it takes nvcc of CUDA 13, and here is: none"
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("shutil.which", lambda name: None if "aarch64" in name else f"/usr/bin/{name}")
    (cross,) = plan_compilations(thor, tmp_path, both)
    assert cross.why == "aarch64-linux-gnu-g++ was not found (scripts/cross_toolchain.sh installs it)"
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    (runtime,) = plan_compilations(thor, tmp_path, both)
    assert runtime.why == "the CUDA runtime 13.2 for aarch64 is not here (scripts/cross_toolchain.sh)"


def test_a_bundle_without_compilers_has_the_sources_and_says_so(
    bundle: Path, text_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make, "find_toolkits", list)
    result = build_artifact(text_recipe(text_model), bundle, "jetson-orin")
    assert result.ran == ["plugins"]
    section = result.manifest.bundle
    assert section is not None
    assert [library.file for library in section.libraries] == [None, None]
    assert (bundle / section.sources / "CMakeLists.txt").is_file()
    assert not list(bundle.rglob("*.so"))
    text = (bundle / "README.md").read_text()
    assert "compiled on the device: it takes nvcc of CUDA 12, and here is: none" in text
    assert "For JetPack 6.2, JetPack 7.2, TensorRT 11 no library could be compiled" in text


def test_a_bundle_is_made_from_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text_model: Path) -> None:
    monkeypatch.setattr("retentive_export.bundle.wheel.PACKAGE", tmp_path / "site-packages" / "retentive_export")
    with pytest.raises(MissingExtraError, match="is not in a source checkout"):
        build_artifact(text_recipe(text_model), tmp_path / "out", "jetson-orin")
    assert list(tmp_path.iterdir()) == []
