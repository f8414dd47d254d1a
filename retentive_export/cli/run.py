"""`run`: ask an artifact, with no torch in the process (unless it is the backend)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from retentive_export.cli.shared import (
    artifact_argument,
    backend_options,
    echo_json,
    given,
    json_option,
    quiet_libraries,
)
from retentive_export.errors import InputError

if TYPE_CHECKING:
    from retentive_export.runtime import Session
    from retentive_export.spec.arrays import Array

__all__ = ["run"]


@click.command()
@artifact_argument
@click.option("-p", "--prompt", "prompts", multiple=True, help="One turn; repeat for several turns on the same state.")
@click.option(
    "-i", "--image", "images", multiple=True, type=click.Path(path_type=Path), help="Seen before the first turn."
)
@click.option("--resize", is_flag=True, help="Resize pictures to the artifact's frame.")
@click.option("--max-new-tokens", type=int, help="Longest answer, in tokens.")
@click.option("--temperature", type=float, help="0 is greedy.")
@click.option("--top-p", type=float, help="Sample from the most likely tokens that sum to this probability.")
@click.option("--seed", type=int, help="Seed of the sampling.")
@backend_options
@click.option(
    "--interactive", is_flag=True, help="Then read turns from stdin; /image FILE, /reset and /quit are commands."
)
@click.option("--stats", is_flag=True, help="Tokens, seconds and bytes of every turn on stderr.")
@json_option
def run(
    out: Path,
    prompts: tuple[str, ...],
    images: tuple[Path, ...],
    resize: bool,
    backend: str | None,
    threads: int | None,
    provider: str | None,
    device: str | None,
    interactive: bool,
    stats: bool,
    as_json: bool,
    **sampling: Any,
) -> None:
    """Ask the artifact OUT: pictures first, then one or more prompts on the same state."""
    if not prompts and not interactive:
        raise click.UsageError("Give --prompt, or --interactive.")
    if interactive and as_json:
        raise click.UsageError("--interactive and --json exclude each other.")
    from retentive_export.runtime import Session

    quiet_libraries()
    session = Session.open(out, backend=backend, **given(threads=threads, provider=provider, device=device))
    dialogue = _Dialogue(session, resize, stats, sampling)
    for path in images:
        dialogue.show(path)
    if as_json:
        turns = [dialogue.collect(prompt) for prompt in prompts]
        echo_json({"turns": turns, "tokens_seen": session.tokens_seen, "state_bytes": session.state_bytes})
        return
    for prompt in prompts:
        dialogue.stream(prompt)
    if interactive:
        dialogue.converse()


@dataclass
class _Dialogue:
    """The session, and how its answers are printed."""

    session: Session
    resize: bool
    stats: bool
    sampling: dict[str, Any]

    def show(self, path: Path) -> None:
        """Let the session see a picture."""
        vision = self.session.vision
        self.session.observe(_picture(path, vision.frame if self.resize and vision else None))

    def stream(self, prompt: str) -> None:
        """Print an answer while it is made."""
        for piece in self.session.stream(prompt, **self.sampling):
            click.echo(piece, nl=False)
        click.echo()
        if self.stats:
            self._print_stats()

    def collect(self, prompt: str) -> dict[str, Any]:
        """An answer and its costs as data."""
        answer = self.session.ask(prompt, **self.sampling)
        if self.stats:
            self._print_stats()
        cost = self.session.last
        return {
            "prompt": prompt,
            "answer": answer,
            "token_ids": cost.token_ids,
            "prefill_tokens": cost.prefill_tokens,
            "prefill_seconds": cost.prefill_seconds,
            "decode_seconds": cost.decode_seconds,
        }

    def converse(self) -> None:
        """Read turns from stdin until it ends; a refused turn does not end the dialogue."""
        for line in _lines():
            command, _, rest = line.partition(" ")
            if command == "/quit":
                return
            try:
                if command == "/reset":
                    self.session.reset()
                elif command == "/image":
                    self.show(Path(rest.strip()))
                else:
                    self.stream(line)
            except InputError as error:
                click.echo(f"error: {error}", err=True)

    def _print_stats(self) -> None:
        cost, decoded = self.session.last, max(len(self.session.last.token_ids) - 1, 0)
        rate = f", {1e3 * cost.decode_seconds / decoded:.1f} ms/token" if decoded else ""
        click.echo(
            f"prefill {cost.prefill_tokens} tokens in {cost.prefill_seconds:.3f} s; "
            f"answer {len(cost.token_ids)} tokens in {cost.decode_seconds:.3f} s{rate}; "
            f"{self.session.tokens_seen} tokens seen, state {self.session.state_bytes} bytes",
            err=True,
        )


def _lines() -> Iterator[str]:
    """Lines of stdin that are not empty; the prompt goes to stderr, and only to a terminal."""
    while True:
        if sys.stdin.isatty():
            click.echo("> ", nl=False, err=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


def _picture(path: Path, frame: tuple[int, int] | None) -> Array:
    """RGB pixels [H, W, 3] uint8 of a file, resized to `frame` (height, width) if given."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"picture {path} cannot be read: {error}") from None
    if frame is not None and picture.size != (frame[1], frame[0]):
        picture = picture.resize((frame[1], frame[0]), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.uint8)
