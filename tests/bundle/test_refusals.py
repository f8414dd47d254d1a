"""A bundle that is not what its maker wrote, or not for this machine: refused before anything is loaded or executed."""

from __future__ import annotations

import ctypes
import io
import json
import random
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from retentive_export.bundle import checksum, device, finish, load_public_key, open_bundle, unpack
from retentive_export.errors import ArtifactError, DeviceError, RecipeError, RetentiveExportError, StorageError
from retentive_export.pipeline import BuildResult
from retentive_export.spec.bundle import CHECKSUM, SIGNATURE
from retentive_export.spec.manifest import MANIFEST
from tests.bundle.test_bundle_build import files
from tests.cli.calls import call
from tests.doctor.machines import Machine, host_with_gpu, jetson

Change = Callable[[Path], object]
FOLDER = "tiny-text-jetson-orin"


@pytest.fixture(autouse=True)
def nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a library, opening a graph, building an engine or starting a program fails the test."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was loaded or executed")

    for where, name in (
        (ctypes, "CDLL"),
        (subprocess, "Popen"),
        (device, "validate_golden"),
        (device, "build_engines"),
        (device, "engine_key"),
        (device, "compile_library"),
    ):
        monkeypatch.setattr(where, name, refuse)


def refused(bundle: Path, kind: type[RetentiveExportError], *words: str, **options: object) -> None:
    """`finish` refuses, and leaves nothing beside the bundle."""
    before = sorted(bundle.parent.iterdir())
    with pytest.raises(kind) as error:
        finish(bundle, **{"target_name": "cpu", **options})  # type: ignore[arg-type]
    for word in words:
        assert word in str(error.value)
    assert sorted(bundle.parent.iterdir()) == before


def flip(path: Path, at: int) -> None:
    """Change one bit of one byte, or change it back."""
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


def rewrite(bundle: Path, change: Callable[[dict[str, object]], object]) -> None:
    """Change the manifest, and its hash with it, as someone would who means harm."""
    data = json.loads((bundle / MANIFEST).read_text())
    change(data)
    content = json.dumps(data).encode()
    (bundle / MANIFEST).write_bytes(content)
    (bundle / CHECKSUM).write_bytes(checksum(content))


def test_one_byte_of_any_file(bundle: Path, signed_build: BuildResult, keys: Path) -> None:
    key = load_public_key(keys / "key.pub.pem")
    open_bundle(bundle, key)
    seen = 0
    for path in sorted(path for path in bundle.rglob("*") if path.is_file() and path.name != "build.json"):
        for at in {0, path.stat().st_size // 2, path.stat().st_size - 1}:
            flip(path, at)
            with pytest.raises(ArtifactError, match=r"altered|signature"):
                open_bundle(bundle, key)
            flip(path, at)
        seen += 1
    assert seen == len(signed_build.manifest.files) + 3
    open_bundle(bundle, key)


def test_one_byte_of_the_manifest_without_a_key(bundle: Path) -> None:
    name = (bundle / MANIFEST).read_bytes().index(b"tiny-text")
    flip(bundle / MANIFEST, name)
    refused(bundle, ArtifactError, "manifest.json was altered: its sha256 is not that in manifest.json.sha256")


@pytest.mark.parametrize("name", ["decoder.onnx.data", "decoder.tensorrt.onnx", "golden.npz", "README.md"])
def test_an_altered_file(name: str, bundle: Path) -> None:
    flip(bundle / name, 100)
    refused(bundle, ArtifactError, name, "altered")
    result = call("finish", bundle, "--target", "cpu")
    assert result.exit_code == 6
    assert f"error: {name} was altered" in result.stderr


@pytest.mark.parametrize(
    "name",
    ["decoder.onnx", "plugins/aarch64/libretentive_plugins.so", MANIFEST, CHECKSUM, "plugins/source/CMakeLists.txt"],
)
def test_a_missing_file(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    refused(bundle, ArtifactError, name)


def test_a_truncated_file(bundle: Path) -> None:
    with (bundle / "decoder.onnx.data").open("r+b") as file:
        file.truncate(1000)
    refused(bundle, ArtifactError, "decoder.onnx.data has 1000 bytes", "truncated or altered")


def _added(bundle: Path) -> None:
    (bundle / "plugins" / "extra.so").write_bytes(b"")


def _hidden(bundle: Path) -> None:
    (bundle / ".hidden").write_bytes(b"")


def _linked(bundle: Path) -> None:
    moved = bundle.parent / "elsewhere.npz"
    if not moved.exists():
        shutil.move(bundle / "golden.npz", moved)
        (bundle / "golden.npz").symlink_to(moved)


def _linked_folder(bundle: Path) -> None:
    shutil.move(bundle / "runtime", bundle.parent / "elsewhere")
    (bundle / "runtime").symlink_to(bundle.parent / "elsewhere")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_added, "plugins/extra.so"),
        (_hidden, ".hidden"),
        (_linked, "golden.npz"),
        (_linked_folder, "runtime"),
    ],
)
def test_a_file_that_was_added_and_a_link(change: Change, words: str, bundle: Path) -> None:
    change(bundle)
    refused(bundle, ArtifactError, words)


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../outside", "a\\..\\b", "", ".", "a//b", "a/./b"])
def test_a_path_that_leaves_the_bundle(name: str, bundle: Path) -> None:
    """With the right hash of a file that is there: the name alone is refused."""
    (bundle.parent / "outside").write_bytes(b"")
    empty = {"bytes": 0, "sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"}
    rewrite(bundle, lambda manifest: manifest["files"].update({name: empty}))  # type: ignore[attr-defined]
    refused(bundle, ArtifactError, repr(name), "leaves the bundle's directory")


def test_signatures(bundle: Path, keys: Path) -> None:
    """Of another key, missing, and of a manifest that was changed together with its hash."""
    open_bundle(bundle, load_public_key(keys / "key.pub.pem"))
    refused(bundle, ArtifactError, "not by the owner of the key", key=keys / "other.pub.pem")
    signature = (bundle / SIGNATURE).read_bytes()
    assert len(signature) == 64
    for wrong in (b"", signature[:-1], bytes(64)):
        (bundle / SIGNATURE).write_bytes(wrong)
        refused(bundle, ArtifactError, "not by the owner of the key", key=keys / "key.pub.pem")
    (bundle / SIGNATURE).unlink()
    refused(bundle, ArtifactError, "manifest.json is not signed", key=keys / "key.pub.pem")
    (bundle / SIGNATURE).write_bytes(signature)
    rewrite(bundle, lambda manifest: manifest.update(name="another"))
    open_bundle(bundle)
    refused(bundle, ArtifactError, "not by the owner of the key", key=keys / "key.pub.pem")


def test_what_is_no_bundle(text_artifact: Path, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(text_artifact, tmp_path / "copy"))
    (copy / CHECKSUM).write_bytes(checksum((copy / MANIFEST).read_bytes()))
    refused(copy, ArtifactError, "tiny-text was built for the target cpu and is no bundle")
    refused(tmp_path / "absent", ArtifactError, "is neither a bundle's directory nor a .tar.zst archive")
    with pytest.raises(ArtifactError, match="which is the bundle"):
        finish(bundle, bundle, target_name="cpu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(StorageError, match="exists and is not an artifact"):
        finish(bundle, tmp_path / "mine", target_name="cpu")


def test_archives_with_a_damaged_byte(archive: Path) -> None:
    """Byte 5 is the size of the window, a hint to whoever unpacks it: with another one the same files come out."""
    size, seed = archive.stat().st_size, random.Random(7)
    for at in [0, 4, size - 1, *(seed.randrange(6, size) for _ in range(30))]:
        flip(archive, at)
        refused(archive, ArtifactError, "packed.tar.zst")
        flip(archive, at)
    directory = archive.with_name("packed")
    unpack(archive, directory)
    flip(archive, 5)
    unpack(archive, archive.with_name("again"))
    assert files(archive.with_name("again")) == files(directory)


def members(archive: Path) -> list[tuple[tarfile.TarInfo, bytes]]:
    with zstandard.open(archive, "rb") as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def repack(archive: Path, content: list[tuple[tarfile.TarInfo, bytes]]) -> None:
    with zstandard.open(archive, "wb") as plain, tarfile.open(fileobj=plain, mode="w|") as tar:
        for member, data in content:
            tar.addfile(member, io.BytesIO(data))


def member(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size, made.type, made.linkname = len(data), kind, link
    return made, data


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (member("../outside", b"x"), "'../outside'"),
        (member(f"{FOLDER}/../../outside", b"x"), "/../../outside'"),
        (member("/tmp/outside", b"x"), "'/tmp/outside'"),
        (member("golden.npz", b"x"), "'golden.npz'"),
        (member(f"{FOLDER}/extra", b"x"), f"'{FOLDER}/extra'"),
        (member(f"{FOLDER}/link", kind=tarfile.SYMTYPE, link="/etc/passwd"), f"'{FOLDER}/link'"),
        (member(f"{FOLDER}/golden.npz", kind=tarfile.LNKTYPE, link="/etc/passwd"), f"'{FOLDER}/golden.npz'"),
        (member(f"{FOLDER}/golden.npz", kind=tarfile.FIFOTYPE), f"'{FOLDER}/golden.npz'"),
        (member(f"{FOLDER}/golden.npz", b"another size"), f"'{FOLDER}/golden.npz'"),
    ],
)
def test_archives_with_what_is_not_listed(extra: tuple[tarfile.TarInfo, bytes], words: str, archive: Path) -> None:
    content = members(archive)
    repack(archive, [*content[:3], extra, *content[3:]])
    refused(archive, ArtifactError, words, "is not what its manifest.json lists")
    assert not Path("/tmp/outside").exists()


def test_archives_that_lack_or_repeat_something(archive: Path, keys: Path) -> None:
    content = members(archive)
    repack(archive, content[:-1])
    refused(archive, ArtifactError, f"{content[-1][0].name.removeprefix(f'{FOLDER}/')} is missing")
    repack(archive, [*content, content[-1]])
    refused(archive, ArtifactError, "is not what its manifest.json lists")
    repack(archive, content[1:])
    refused(archive, ArtifactError, "does not begin with manifest.json")
    repack(archive, [content[0], *content[2:]])
    refused(archive, ArtifactError, "does not begin with manifest.json and manifest.json.sha256")
    repack(archive, [*content[:2], *content[3:]])
    refused(archive, ArtifactError, "is not signed", key=keys / "key.pub.pem")
    repack(archive, content)
    with archive.open("ab") as file:
        file.write(b"x")
    refused(archive, ArtifactError, "is no readable .tar.zst archive")
    archive.write_bytes(b"no archive at all")
    refused(archive, ArtifactError, "is no readable .tar.zst archive")


def test_an_archive_does_not_overwrite(archive: Path) -> None:
    standing = archive.with_name("packed")
    standing.mkdir()
    refused(archive, StorageError, f"{standing} exists, and is not what {archive} holds")


@pytest.mark.parametrize(
    ("machine", "words"),
    [
        (lambda root: host_with_gpu(root), ["gpu: NVIDIA L4 (SM 8.9); jetson-orin is SM 8.7", "copy the bundle"]),
        (
            lambda root: Machine(root=root),
            ["gpu: none", "copy the bundle to the device", "--target cpu checks it here"],
        ),
        (lambda root: jetson(root, tensorrt="8.6.2"), ["tensorrt: 8.6.2; 10.3 to 11.x are supported"]),
        (lambda root: jetson(root, tensorrt="10.2.0"), ["tensorrt: 10.2.0"]),
        (lambda root: jetson(root, tensorrt="11.3.0"), ["11.3.0; jetson-orin takes 11.4.1 or later"]),
        (lambda root: jetson(root, tensorrt="12.0.0"), ["tensorrt: 12.0.0; 10.3 to 11.x are supported"]),
    ],
    ids=["another SM", "no GPU", "TensorRT 8", "TensorRT 10.2", "TensorRT 11.3", "TensorRT 12"],
)
def test_another_machine(machine: Callable[[Path], Machine], words: list[str], bundle: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    system = machine(root)
    refused(
        bundle, DeviceError, "cannot finish a bundle for jetson-orin (SM 8.7)", *words, target_name=None, system=system
    )


def test_a_chip_of_another_kind(bundle: Path, tmp_path: Path) -> None:
    system = jetson(tmp_path / "root")
    (tmp_path / "root/proc/device-tree/compatible").write_text("nvidia,tegra264\0")
    refused(bundle, DeviceError, "(SM 11.0); jetson-orin is SM 8.7", target_name=None, system=system)


@pytest.mark.parametrize(
    ("name", "words"),
    [("jetson-thor", "this bundle is for 'jetson-orin' and others of SM 8.7"), ("toaster", "must be one of")],
)
def test_another_target(name: str, words: str, bundle: Path) -> None:
    refused(bundle, RecipeError, words, target_name=name)


def test_this_host(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command says where there is no GPU: the fixture's refusal of programs hides one that there may be."""
    monkeypatch.setattr("retentive_export.doctor.System.run", lambda self, *command: None)
    monkeypatch.setattr("retentive_export.doctor.System.read", lambda self, path: None)
    result = call("finish", bundle)
    assert result.exit_code == 12
    assert "error: this machine cannot finish a bundle for jetson-orin (SM 8.7): gpu: none;" in result.stderr
    assert "hint: copy the bundle to the device and run finish there; --target cpu checks it here" in result.stderr
