"""Derive a `DialogueLayout` from a chat template, by rendering sample conversations with sentinel strings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from retentive_export.errors import ModelError
from retentive_export.spec.layout import DialogueLayout, TextContext

__all__ = ["derive_dialogue"]

_ASKS = ("Zq1first", "Zq2second", "Zq3third")
_ANSWERS = ("Zw1first", "Zw2second")


def derive_dialogue(
    tokenizer: Any,
    *,
    template: str | None,
    image_markup: str | None,
    frame_anchor: str = "",
    stop_ids: list[int] | None = None,
) -> DialogueLayout:
    """Token pieces of a dialogue; no template engine is needed afterwards.

    Args:
        tokenizer: a fast tokenizer.
        template: Jinja chat template; None gives plain text: empty pieces but the bos that the tokenizer adds.
        image_markup: what the template renders for one picture; None for a text-only model.
        frame_anchor: the added token that ends a frame's block.
        stop_ids: token ids that end an answer; the template's own stop token is added.

    Raises:
        ModelError: the template cannot be split into one piece per role.
    """
    stops = list(stop_ids or [])
    if template is None:
        return DialogueLayout(
            prefix=_leading_ids(tokenizer),
            stop_ids=stops,
            frame_before_text=image_markup is not None,
            frame_text=TextContext(anchor=frame_anchor, anchor_length=1 if frame_anchor else 0),
        )
    return _Deriver(tokenizer, template, image_markup, frame_anchor).layout(stops)


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False)) if text else []


def _leading_ids(tokenizer: Any) -> list[int]:
    """Ids that the tokenizer itself puts before any text (bos)."""
    plain, whole = _encode(tokenizer, "a"), list(tokenizer.encode("a", add_special_tokens=True))
    return whole[: whole.index(plain[0])] if plain and plain[0] in whole else []


@dataclass
class _Deriver:
    tokenizer: Any
    template: str
    markup: str | None
    frame_anchor: str

    def layout(self, stops: list[int]) -> DialogueLayout:
        head, generation, between = self._split(self._render(frames=0))
        answer_end = self._after_last_answer()
        if not between.startswith(answer_end):
            raise self._error("the text between an answer and the next turn depends on what follows")
        opening = between[len(answer_end) :]
        if not head.endswith(opening):
            raise self._error("the first user turn opens differently from the later ones")
        prefix = head[: len(head) - len(opening)]
        close_ids = self._ids(generation)
        closing = self._ids(answer_end) if answer_end.strip() or not self._adds_leading_space() else []
        stop_length = int(self._first_added(answer_end) == 0)
        if stop_length and closing[0] not in stops:
            stops = [*stops, closing[0]]
        pieces: dict[str, Any] = {
            "prefix": self._prefix_ids(prefix, whole=head),
            "user_open": self._ids(opening),
            "user_close": close_ids,
            "assistant_close": closing,
            "assistant_stop_length": stop_length,
            "stop_ids": stops,
            "frame_before_text": self.markup is not None,
            "user_text": self._context(opening, generation),
        }
        return DialogueLayout(**pieces, **(self._frame_pieces(prefix, answer_end, generation) if self.markup else {}))

    def _frame_pieces(self, prefix: str, answer_end: str, generation: str) -> dict[str, Any]:
        assert self.markup is not None
        head, own_generation, between = self._split(self._render(frames=1))
        opening, found, closing = head.partition(self.markup)
        if not found or not opening.startswith(prefix) or own_generation != generation:
            raise self._error(f"a turn with a picture does not render {self.markup!r} before its text")
        opening = opening[len(prefix) :]
        separator = self._render(frames=2).split(self.markup)[1]
        if between != answer_end + opening + self.markup + closing:
            raise self._error("a later turn with a picture opens differently from the first one")
        return {
            "frame_open": self._ids(opening),
            "frame_separator": self._ids_after(self.frame_anchor, separator),
            "frame_close": self._ids_after(self.frame_anchor, closing),
            "frame_text": self._context(closing, generation, anchor=self.frame_anchor),
        }

    def _render(self, *, frames: int) -> str:
        messages: list[dict[str, Any]] = []
        for index, ask in enumerate(_ASKS):
            messages.append(self._message("user", ask, frames))
            if index < len(_ANSWERS):
                messages.append(self._message("assistant", _ANSWERS[index], 0))
        return self._apply(messages, generation=True)

    def _message(self, role: str, text: str, frames: int) -> dict[str, Any]:
        if self.markup is None:
            return {"role": role, "content": text}
        return {"role": role, "content": [{"type": "image"}] * frames + [{"type": "text", "text": text}]}

    def _apply(self, messages: list[dict[str, Any]], *, generation: bool) -> str:
        try:
            text: str = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, tokenize=False, add_generation_prompt=generation
            )
        except Exception as error:
            raise self._error(f"it does not render a dialogue of user and assistant turns: {error}") from error
        return text

    def _split(self, text: str) -> tuple[str, str, str]:
        """(before the first ask, generation prompt, between an answer and the next ask)."""
        head, rest = self._cut(text, _ASKS[0])
        _, rest = self._cut(rest, _ANSWERS[0])
        between, rest = self._cut(rest, _ASKS[1])
        _, rest = self._cut(rest, _ANSWERS[1])
        again, generation = self._cut(rest, _ASKS[2])
        if again != between:
            raise self._error("two later user turns open differently")
        return head, generation, between

    def _cut(self, text: str, sentinel: str) -> tuple[str, str]:
        before, found, after = text.partition(sentinel)
        if not found:
            raise self._error("it drops or reorders the text of a turn")
        return before, after

    def _after_last_answer(self) -> str:
        messages = [self._message("user", _ASKS[0], 0), self._message("assistant", _ANSWERS[0], 0)]
        return self._cut(self._apply(messages, generation=False), _ANSWERS[0])[1]

    def _context(self, opening: str, closing: str, anchor: str = "") -> TextContext:
        """Context of the text between `opening` and `closing`: the plain text up to the nearest added tokens."""
        end, token = self._last_added(opening)
        anchor = token or anchor
        prefix = opening[end:]
        first = self._first_added(closing)
        suffix = closing if first < 0 else closing[:first]
        return TextContext(
            anchor=anchor,
            anchor_length=1 if anchor else 0,
            prefix=prefix,
            suffix=suffix,
            open_length=len(self._ids(opening[:end])),
            close_start=len(self._ids(suffix)),
        )

    def _added(self) -> list[str]:
        return sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True)

    def _last_added(self, text: str) -> tuple[int, str]:
        """(end index, token) of the last added token in the text; (0, "") if there is none."""
        ends = [(text.rfind(token) + len(token), len(token), token) for token in self._added() if token in text]
        if not ends:
            return 0, ""
        end, _, token = max(ends)
        return end, token

    def _first_added(self, text: str) -> int:
        starts = [text.find(token) for token in self._added() if token in text]
        return min(starts) if starts else -1

    def _ids(self, text: str) -> list[int]:
        return _encode(self.tokenizer, text)

    def _ids_after(self, anchor: str, text: str) -> list[int]:
        return self._ids(anchor + text)[1:] if anchor and text else self._ids(text)

    def _prefix_ids(self, prefix: str, *, whole: str) -> list[int]:
        """Prefix with the bos that the family's processor adds, unless the template writes it itself."""
        bos = self.tokenizer.bos_token
        added = [] if self.markup is None or (bos and whole.startswith(bos)) else _leading_ids(self.tokenizer)
        return added + self._ids(prefix)

    def _adds_leading_space(self) -> bool:
        """Whether a text encoded alone starts as if a space stood before it (sentencepiece's dummy prefix)."""
        tokens = self.tokenizer.convert_ids_to_tokens(self._ids("a"))
        return bool(tokens) and tokens[0].startswith("\u2581")

    def _error(self, what: str) -> ModelError:
        return ModelError(
            f"tokenizer: its chat_template cannot be split into token pieces: {what}",
            hint="set tokenizer.chat_template to a template with the same text around every turn",
        )
