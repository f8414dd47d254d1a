"""Snapshots: a restored session continues as if nothing had happened; anything else is refused and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retentive_export.errors import InputError, StorageError
from retentive_export.runtime import Session
from retentive_export.runtime.snapshot import PLACE
from tests.factories import photograph


def opened(directory: Path) -> Session:
    return Session.open(directory, threads=1, verify=False)


def snapshot_of(session: Session) -> tuple[Any, ...]:
    state = {name: array.tobytes() for name, array in session.backend.state().items()}
    return state, session.tokens_seen, session._rope, session._frames_in_turn, session._started, list(session._unfed)


def test_continues_identically(vision_artifact: Path, tmp_path: Path) -> None:
    session, other = opened(vision_artifact), opened(vision_artifact)
    assert session.vision is not None
    session.ask("How many rows does the grid have?", max_new_tokens=20)
    session.observe(photograph(session.vision.frame))
    session.save(tmp_path / "a.npz")
    before = snapshot_of(session)
    other.ask("Something else entirely", max_new_tokens=5)
    other.restore(tmp_path / "a.npz")
    assert snapshot_of(other) == before
    for question in ("Where is it?", "How many?"):
        assert session.ask(question, max_new_tokens=15) == other.ask(question, max_new_tokens=15)
        assert session.last.token_ids == other.last.token_ids
    assert snapshot_of(session) == snapshot_of(other)
    session.restore(tmp_path / "a.npz")
    assert snapshot_of(session) == before


@pytest.fixture
def saved(text_artifact: Path, tmp_path: Path) -> tuple[Session, Path]:
    session = opened(text_artifact)
    session.ask("How many?", max_new_tokens=5)
    session.save(tmp_path / "a.npz")
    session.ask("And now?", max_new_tokens=3)
    return session, tmp_path / "a.npz"


def refused(session: Session, path: Path) -> InputError:
    before = snapshot_of(session)
    with pytest.raises(InputError) as error:
        session.restore(path)
    assert snapshot_of(session) == before
    return error.value


def rewrite(path: Path, **changes: Any) -> Path:
    """The snapshot with tensors replaced, or removed where the change is None."""
    with np.load(path) as archive:
        tensors = {name: archive[name] for name in archive.files}
    tensors = {name: array for name, array in {**tensors, **changes}.items() if array is not None}
    np.savez(path.with_name("changed.npz"), **tensors)
    return path.with_name("changed.npz")


def test_of_another_artifact(saved: tuple[Session, Path], vision_artifact: Path, full_artifact: Path) -> None:
    for other in (vision_artifact, full_artifact):
        assert "another artifact" in refused(opened(other), saved[1]).message


def test_poisoned_states(saved: tuple[Session, Path]) -> None:
    session, path = saved
    state = session.backend.state()
    for bad in (np.nan, np.inf, -np.inf):
        array = state["past.1.key_rows"].copy()
        array[0, 0, 0, 0] = bad
        assert "past.1.key_rows" in refused(session, rewrite(path, **{"past.1.key_rows": array})).message
    small = state["past.0.importance"][..., 1:]
    assert "past.0.importance" in refused(session, rewrite(path, **{"past.0.importance": small})).message
    wide = state["past.0.row_meta"].astype(np.int64)
    assert "int64" in refused(session, rewrite(path, **{"past.0.row_meta": wide})).message
    assert "lacks 'past.1.value_rows'" in refused(session, rewrite(path, **{"past.1.value_rows": None})).message
    session.restore(path)


@pytest.mark.parametrize(
    "place",
    [
        *[{"tokens_seen": -1}, {"tokens_seen": "many"}, {"tokens_seen": None}, {"unfed": [10**6]}, {"unfed": [-1]}],
        *[{"unfed": 3}, {"started": "yes"}, {"rope": 1.5}, {"more": 1}],
    ],
)
def test_a_place_that_cannot_be(saved: tuple[Session, Path], place: dict[str, Any]) -> None:
    import json

    session, path = saved
    with np.load(path) as archive:
        header = json.loads(archive[PLACE].tobytes())
    header["place"] |= place
    header["place"] = {name: value for name, value in header["place"].items() if value is not None}
    packed = np.frombuffer(json.dumps(header).encode(), np.uint8)
    refused(session, rewrite(path, **{PLACE: packed}))
    refused(session, rewrite(path, **{PLACE: packed[:-3]}))
    refused(session, rewrite(path, **{PLACE: None}))


def test_files_that_are_no_snapshots(saved: tuple[Session, Path], tmp_path: Path) -> None:
    session, path = saved
    content = path.read_bytes()
    bad = tmp_path / "bad.npz"
    refused(session, tmp_path / "none.npz")
    refused(session, tmp_path)
    for data in (b"", b"PK", b"junk" * 50, content[:-1], content[: len(content) // 2]):
        bad.write_bytes(data)
        refused(session, bad)
    np.save(tmp_path / "one.npy", np.zeros(3))
    refused(session, tmp_path / "one.npy")
    np.savez(tmp_path / "objects.npz", **{PLACE: np.array([{}], object)})
    refused(session, tmp_path / "objects.npz")


def test_flipped_bytes_are_found_or_harmless(saved: tuple[Session, Path], tmp_path: Path) -> None:
    session, path = saved
    session.restore(path)
    before = snapshot_of(session)
    content = path.read_bytes()
    bad = tmp_path / "bad.npz"
    for position in np.random.default_rng(0).integers(0, len(content), 300):
        damaged = bytearray(content)
        damaged[position] ^= 1 << int(position % 8)
        bad.write_bytes(damaged)
        try:
            session.restore(bad)
        except InputError:
            assert snapshot_of(session) == before
        else:
            assert snapshot_of(session) == before, f"byte {position} changed the state unseen"


def test_a_place_that_cannot_be_written(saved: tuple[Session, Path], tmp_path: Path) -> None:
    with pytest.raises(StorageError) as error:
        saved[0].save(tmp_path / "a.npz" / "b.npz")
    assert error.value.exit_code == 9
