"""Sessions on ONNX Runtime: constant bytes, in-place updates, dialogue on one state, frames, capacity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retentive_export.errors import ArtifactError, CapacityError, InputError, NumericalError, RecipeError
from retentive_export.runtime import Session
from tests.factories import photograph

LONG = "Where is the cat in this picture? How many rows does the grid have? " * 3


def opened(directory: Path) -> Session:
    return Session.open(directory, threads=1, verify=False)


@pytest.fixture
def text(text_artifact: Path) -> Session:
    return opened(text_artifact)


@pytest.fixture
def vision(vision_artifact: Path) -> Session:
    return opened(vision_artifact)


def frames(session: Session, count: int) -> list[np.ndarray]:
    assert session.vision is not None
    return [photograph(session.vision.frame, name) for name in ("astronaut", "coffee", "chelsea")[:count]]


def same_state(a: Session, b: Session) -> bool:
    ours, theirs = a.backend.state(), b.backend.state()
    return all(np.array_equal(ours[name], theirs[name]) for name in theirs) and ours.keys() == theirs.keys()


def test_greedy_is_deterministic(text: Session, text_artifact: Path) -> None:
    answer = text.ask(LONG, max_new_tokens=30)
    tokens = text.last.token_ids
    other = opened(text_artifact)
    assert other.ask(LONG, max_new_tokens=30) == answer
    assert other.last.token_ids == tokens
    assert len(tokens) == 30
    assert same_state(text, other)


def test_sampling_is_seeded(text: Session) -> None:
    def tokens(seed: int) -> list[int]:
        text.reset()
        text.ask("How many?", max_new_tokens=20, temperature=2.0, top_p=0.95, seed=seed)
        return text.last.token_ids

    first = tokens(1)
    assert tokens(1) == first
    assert tokens(2) != first


def test_bytes_are_what_the_manifest_says_at_every_step(vision: Session) -> None:
    expected = vision.manifest.state_bytes
    buffers = vision.backend._state  # type: ignore[attr-defined]
    addresses = buffers.addresses()

    def check() -> None:
        assert vision.state_bytes == expected == buffers.nbytes
        assert buffers.addresses() == addresses
        assert sum(array.nbytes for array in vision.backend.state().values()) == expected

    check()
    for turn in range(3):
        for frame in frames(vision, 2):
            vision.observe(frame)
            check()
        for _ in vision.stream(f"{LONG} {turn}", max_new_tokens=20):
            check()
    check()
    assert vision.tokens_seen > 5 * vision.manifest.plan().geometry.rows


@pytest.mark.parametrize("kind", ["text", "vision"])
def test_in_place_equals_out_of_place(kind: str, request: pytest.FixtureRequest) -> None:
    """State bound as input and as output gives, bit by bit, what separate outputs give; every step evicts."""
    import onnxruntime as ort

    from retentive_export.backends import DecoderInputs

    directory = request.getfixturevalue(f"{kind}_artifact")
    backend = opened(directory).backend
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    graph = ort.InferenceSession(directory / backend.manifest.graphs["onnxruntime"], options)
    outputs = [output.name for output in graph.get_outputs()]
    contract = {tensor.name: tensor for tensor in backend.manifest.contract["decoder"]}
    state, random, seen = backend.state(), np.random.default_rng(0), 0
    rows = backend.manifest.plan().geometry.rows
    for step in range(60):
        count = (8, 3, 1, 1)[step % 4]
        shape = (3, 1, count) if len(contract["position_ids"].shape) == 3 else (1, count)
        feeds: dict[str, Any] = {
            "input_ids": random.integers(0, 300, (1, count)),
            "token_meta": np.stack([seen + np.arange(count), np.full(count, -1)], -1)[None].astype(np.int32),
            "position_ids": np.broadcast_to(seen + np.arange(count), shape).copy(),
        }
        if kind == "vision":
            feeds["token_meta"][0, :, 1] = np.where(random.random(count) < 0.5, random.integers(0, 2, count), -1)
            hidden = backend.manifest.text.hidden
            deep = contract["deep"].shape[1]
            feeds["visual_embeds"] = random.normal(size=(1, count, hidden)).astype(np.float32)
            feeds["deep"] = random.normal(size=(1, deep, count, hidden)).astype(np.float32)
        logits = backend.step(DecoderInputs(**feeds))
        made = dict(zip(outputs, graph.run(None, feeds | state), strict=True))
        np.testing.assert_array_equal(logits, made["logits"], err_msg=f"step {step}")
        state = {name: made[f"present.{name.removeprefix('past.')}"] for name in state}
        for name, array in backend.state().items():
            np.testing.assert_array_equal(array, state[name], err_msg=f"step {step}: {name}")
        seen += count
    assert seen > 3 * rows


def test_turns_share_the_state(text: Session, text_artifact: Path) -> None:
    """Two turns equal one feed of the dialogue's tokens, each answer closed as the template does it."""
    text.ask("Where is the cat?", max_new_tokens=6)
    first = text.last.token_ids
    text.ask("How many?", max_new_tokens=6)
    dialogue = text.dialogue
    twin = opened(text_artifact)
    encode = twin._encode
    stop = first[-1] in dialogue.stop_ids
    close = dialogue.assistant_close[dialogue.assistant_stop_length if stop else 0 :]  # a cut answer is closed too
    turn = dialogue.prefix + (dialogue.user_turn(encode, "Where is the cat?")[-1] or [])
    twin._feed_text(turn)
    for token in first[:-1]:
        twin._feed_text([token])
    logits = twin._feed_text([first[-1], *close] + (dialogue.user_turn(encode, "How many?")[-1] or []))
    second = []
    for _ in range(6):
        second.append(int(logits[0, -1].argmax()))
        if second[-1] in dialogue.stop_ids or len(second) == 6:
            break
        logits = twin._feed_text([second[-1]])
    assert second == text.last.token_ids
    assert twin.tokens_seen == text.tokens_seen
    assert same_state(text, twin)


def test_the_state_remembers(text: Session) -> None:
    alone = text.ask("How many?", max_new_tokens=12)
    alone_tokens = text.last.token_ids
    text.reset()
    text.ask("Where is the cat?", max_new_tokens=4)
    text.ask("How many?", max_new_tokens=12)
    assert text.last.token_ids != alone_tokens
    text.reset()
    assert text.ask("How many?", max_new_tokens=12) == alone


def test_observed_frames_equal_one_turn_with_frames(vision: Session, vision_artifact: Path) -> None:
    seen = frames(vision, 2)
    for frame in seen:
        vision.observe(frame)
    vision.ask("Where is it?", max_new_tokens=8)
    twin = opened(vision_artifact)
    visual, deep = twin.backend.encode(np.stack(seen))
    assert deep is not None
    pieces = twin.dialogue.user_turn(twin._encode, "Where is it?", frames=2)
    assert pieces.count(None) == 2
    # Text between two frames is fed in one go, and the prefix with the opening piece.
    index, lead, logits = 0, list(twin.dialogue.prefix), None
    for piece in pieces:
        if piece is None:
            if lead:
                twin._feed_text(lead)
            twin._feed_block(visual[index], deep[index])
            index, lead = index + 1, []
        else:
            lead = lead + piece
    logits = twin._feed_text(lead)
    tokens = [int(logits[0, -1].argmax())]
    while tokens[-1] not in twin.dialogue.stop_ids and len(tokens) < 8:
        tokens.append(int(twin._feed_text([tokens[-1]])[0, -1].argmax()))
    assert tokens == vision.last.token_ids
    assert same_state(vision, twin)


def test_frames_matter_and_reset_forgets_them(vision: Session) -> None:
    def answer(*seen: np.ndarray) -> list[int]:
        vision.reset()
        for frame in seen:
            vision.observe(frame)
        vision.ask("Where is it?", max_new_tokens=12)
        return vision.last.token_ids

    one, two = frames(vision, 2)
    with_one, with_both, without = answer(one), answer(one, two), answer()
    assert with_one != without
    assert with_both != with_one
    assert answer(one) == with_one
    vision.reset()
    assert vision.tokens_seen == 0
    for name, array in vision.backend.state().items():
        assert (array == (-1 if name.endswith("row_meta") else 0)).all(), name


def test_streaming_gives_the_answer_in_pieces(text: Session) -> None:
    pieces = list(text.stream("How many?", max_new_tokens=12))
    text.reset()
    assert text.ask("How many?", max_new_tokens=12) == "".join(pieces)


def test_an_answer_that_is_abandoned(text: Session, text_artifact: Path) -> None:
    """Stopping a stream keeps what was said so far; the dialogue goes on from there."""
    stream = text.stream("Where is the cat?", max_new_tokens=12)
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    count = len(text.last.token_ids)
    other = opened(text_artifact)
    other.ask("Where is the cat?", max_new_tokens=count)
    text.ask("How many?")
    other.ask("How many?")
    assert text.last.token_ids == other.last.token_ids


def test_raw_generation(text: Session) -> None:
    from retentive_export.runtime import Sampler

    ids = text._encode("The sum of both is")
    tokens = list(text.generate(ids, Sampler(), 10))
    text.reset()
    assert list(text.generate(ids, Sampler(), 10)) == tokens


def test_a_full_cache_refuses_what_does_not_fit_and_goes_on(full_artifact: Path) -> None:
    session = opened(full_artifact)
    assert session.capacity == 64
    fresh = session.backend.state()
    with pytest.raises(CapacityError, match="this full cache holds 64") as error:
        session.ask(LONG)
    assert error.value.exit_code == 7
    assert "cache.context" in str(error.value)
    assert session.tokens_seen == 0
    assert all(np.array_equal(array, fresh[name]) for name, array in session.backend.state().items())
    session.ask("How many?", max_new_tokens=4)
    tokens = session.last.token_ids
    with pytest.raises(CapacityError):
        session.ask(LONG)
    answer = session.ask("Why?", max_new_tokens=200)  # ends where the cache does, and nothing of it is lost
    assert session.last.finish == "capacity"
    assert answer
    assert session.tokens_seen == 64
    with pytest.raises(CapacityError):
        session.ask("And then?")
    session.reset()
    session.ask("How many?", max_new_tokens=4)
    assert session.last.token_ids == tokens


def test_frames_of_another_form(vision: Session, text: Session) -> None:
    height, width = vision.manifest.vision.frame  # type: ignore[union-attr]
    before = vision.backend.state()
    for bad in (
        np.zeros((height, width + 1, 3), np.uint8),
        np.zeros((width, height, 3), np.uint8),
        np.zeros((height, width), np.uint8),
        np.zeros((height, width, 4), np.uint8),
        np.zeros((height, width, 3), np.float32),
    ):
        with pytest.raises(InputError, match=f"uint8 \\[N, {height}, {width}, 3\\]") as error:
            vision.observe(bad)
        assert error.value.exit_code == 7
        assert "resize" in str(error.value)
        assert str(list(bad.shape))[1:-1] in error.value.message
    assert vision.tokens_seen == 0
    assert all(np.array_equal(array, before[name]) for name, array in vision.backend.state().items())
    with pytest.raises(InputError, match="text-only"):
        text.observe(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="text-only"):
        text.backend.encode(np.zeros((1, 8, 8, 3), np.uint8))


def test_options_out_of_range_leave_the_session_alone(text: Session) -> None:
    for options in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 2.0}, {"seed": -1}):
        with pytest.raises(InputError, match=next(iter(options))):
            text.ask("How many?", **options)
    assert text.tokens_seen == 0


def test_steps_that_the_graph_does_not_take(text: Session) -> None:
    from retentive_export.backends import DecoderInputs

    def inputs(count: int, positions: int) -> DecoderInputs:
        return DecoderInputs(
            input_ids=np.zeros((1, count), np.int64),
            token_meta=np.zeros((1, count, 2), np.int32),
            position_ids=np.zeros((1, positions), np.int64),
        )

    for count in (0, text.chunk + 1):
        with pytest.raises(InputError, match=f"a step of {count} tokens"):
            text.backend.step(inputs(count, count))
    with pytest.raises(InputError, match="position_ids has shape"):
        text.backend.step(inputs(2, 3))


def test_logits_that_are_not_finite(text: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    logits = np.full((1, 1, text.manifest.text.vocab), np.nan, np.float32)
    monkeypatch.setattr(text.backend, "step", lambda inputs: logits)
    with pytest.raises(NumericalError):
        text.ask("How many?")


def test_opening_what_cannot_be_opened(text_artifact: Path, tmp_path: Path) -> None:
    import json
    import shutil

    with pytest.raises(RecipeError, match="backend is 'abacus'"):
        Session.open(text_artifact, backend="abacus")
    copy = tmp_path / "copy"
    shutil.copytree(text_artifact, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["graphs"].pop("onnxruntime")
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="has no graph for onnxruntime; it has: tensorrt"):
        Session.open(copy)
    manifest = json.loads((text_artifact / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "dtype": "bfloat16"}))
    with pytest.raises(ArtifactError, match="tiny-text is in bfloat16, which ONNX Runtime's CPU provider does not"):
        Session.open(copy)
    shutil.copy(text_artifact / "manifest.json", copy)
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        Session.open(copy)
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is not readable"):
        Session.open(copy, verify=False)
