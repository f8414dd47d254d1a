"""What a runtime must know of a model to feed it: its sizes, the tokens of a frame, the tokens of a dialogue.

Torch-free and JSON-serialisable: these models are stored in `manifest.json`, so that a device needs neither
transformers nor a template engine. Token ids are those of the artifact's tokenizer; positions are RoPE positions.
"""

from __future__ import annotations

from collections.abc import Callable

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["CELL_STRIDE", "DialogueLayout", "TextContext", "TextShape", "VisionLayout"]

Encode = Callable[[str], list[int]]

CELL_STRIDE = 65536
"""A cell (y, x) of a frame's grid is one int32, y * CELL_STRIDE + x; a text token has -1."""


class _Layout(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TextShape(_Layout):
    """Sizes of the language model.

    `hidden` is the width of an embedding row, `vocab` the number of logits, `max_positions` the largest position + 1
    that the model was trained for.
    """

    layers: int = Field(ge=1)
    q_heads: int = Field(ge=1)
    kv_heads: int = Field(ge=1)
    head_dim: int = Field(ge=1)
    hidden: int = Field(ge=1)
    vocab: int = Field(ge=1)
    max_positions: int = Field(ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> TextShape:
        if self.q_heads % self.kv_heads:
            raise ValueError(f"q_heads={self.q_heads} is not a multiple of kv_heads={self.kv_heads}")
        return self


class VisionLayout(_Layout):
    """The tokens that one frame of a fixed size inserts into the prompt (its *block*), their cells and positions.

    Attributes:
        frame: (height, width) in pixels of the uint8 RGB frame that the vision graph takes.
        tokens: visual tokens per frame, the row count of the vision graph's output.
        grid: (rows, cols), extents of the cell coordinates.
        block_ids: every token id of the block: markers, separators, image placeholders.
        block_cells: same length; (y, x) of a visual token on `grid`, None for a text token of the block. Visual tokens
            come in the order of the vision graph's rows. Several tokens may share a cell (a tile's and the
            overview's), and a token that stands for the whole frame has the grid's middle cell.
        position_axes: 1, or 3 for M-RoPE (time, height, width).
        position_offsets: [position_axes][len(block_ids)], relative to the position where the block starts.
        position_advance: position of the first token after the block, relative to the block's start.
        deep_layers: features per visual token that are added after the first decoder layers (deepstack); 0 if none.
    """

    frame: tuple[int, int]
    tokens: int = Field(ge=1)
    grid: tuple[int, int]
    block_ids: list[int]
    block_cells: list[tuple[int, int] | None]
    position_axes: int
    position_offsets: list[list[int]]
    position_advance: int = Field(ge=1)
    deep_layers: int = Field(default=0, ge=0)

    @property
    def cell_codes(self) -> list[int]:
        """`block_cells` as the graphs take them: y * CELL_STRIDE + x, -1 for a text token."""
        return [-1 if cell is None else cell[0] * CELL_STRIDE + cell[1] for cell in self.block_cells]

    @model_validator(mode="after")
    def _consistent(self) -> VisionLayout:
        length = len(self.block_ids)
        cells = [cell for cell in self.block_cells if cell is not None]
        if self.position_axes not in (1, 3):
            raise ValueError(f"position_axes={self.position_axes}, expected 1 or 3")
        if len(self.block_cells) != length:
            raise ValueError(f"block_cells has {len(self.block_cells)} entries, block_ids has {length}")
        if len(cells) != self.tokens:
            raise ValueError(f"block_cells places {len(cells)} visual tokens, tokens={self.tokens}")
        if any(not (0 <= y < self.grid[0] and 0 <= x < self.grid[1]) for y, x in cells):
            raise ValueError(f"block_cells has a cell outside of grid={self.grid}")
        if [len(axis) for axis in self.position_offsets] != [length] * self.position_axes:
            raise ValueError(f"position_offsets must be [{self.position_axes}][{length}]")
        return self


class TextContext(_Layout):
    """How a user's text is encoded in its place of a turn, so that it gives the very tokens of the whole rendering.

    A tokenizer splits a string at its added tokens and may merge everything in between ("user\\n" and a text that
    starts with a line break, for one). So the text is encoded together with the plain text around it.

    Attributes:
        anchor: added token before the text; it is encoded along, then its `anchor_length` ids are dropped.
        prefix, suffix: plain text of the template around the user's text.
        open_length: leading ids of the turn's opening piece that are not covered by `prefix`.
        close_start: leading ids of `user_close` that are covered by `suffix`.
    """

    anchor: str = ""
    anchor_length: int = Field(default=0, ge=0)
    prefix: str = ""
    suffix: str = ""
    open_length: int = Field(default=0, ge=0)
    close_start: int = Field(default=0, ge=0)

    def encode(self, encode: Encode, text: str) -> list[int]:
        """Ids of `prefix + text + suffix` behind the anchor; `encode` must add no bos or eos of its own."""
        return encode(self.anchor + self.prefix + text + self.suffix)[self.anchor_length :]


class DialogueLayout(_Layout):
    """Token pieces of a dialogue, derived once from the chat template.

        prefix  (user_open TEXT user_close  ANSWER  assistant_close)*

    A turn with frames opens with `frame_open` in place of `user_open`, then the frames' blocks with `frame_separator`
    between two of them, then `frame_close`, then the text. `user_turn` assembles a turn exactly; plain concatenation
    of the pieces with an encoded text gives the same ids for a text that does not start or end with white space, with
    tokenizers whose merges stop at words.

    Attributes:
        prefix: bos and system text, before the first user turn.
        user_open, user_close: around the user's text; `user_close` also opens the assistant's turn.
        assistant_close: between the answer's last ordinary token and the next turn. Its first `assistant_stop_length`
            ids (0 or 1) are the stop token that the model itself generates.
        stop_ids: a generated token of these ends the answer.
        frame_before_text: True if frames come before the text of their turn; False for a text-only model.
        user_text, frame_text: contexts of the text in a turn without and with frames.
    """

    prefix: list[int] = Field(default_factory=list)
    user_open: list[int] = Field(default_factory=list)
    user_close: list[int] = Field(default_factory=list)
    assistant_close: list[int] = Field(default_factory=list)
    assistant_stop_length: int = Field(default=0, ge=0, le=1)
    stop_ids: list[int] = Field(default_factory=list)
    frame_before_text: bool = False
    user_text: TextContext = TextContext()
    frame_open: list[int] = Field(default_factory=list)
    frame_separator: list[int] = Field(default_factory=list)
    frame_close: list[int] = Field(default_factory=list)
    frame_text: TextContext = TextContext()

    def user_turn(self, encode: Encode, text: str, *, frames: int = 0) -> list[list[int] | None]:
        """Pieces of one user turn in order: token ids, and None where a frame's block stands.

        Args:
            encode: text -> token ids, recognising added tokens, adding no bos or eos.
            text: what the user says.
            frames: number of frames in the turn; only for a model with `frame_before_text`.
        """
        context = self.frame_text if frames else self.user_text
        words = context.encode(encode, text) + self.user_close[context.close_start :]
        if not frames:
            return [self.user_open[: context.open_length] + words]
        if not self.frame_before_text:
            raise ValueError(f"frames={frames}, but the model takes text only")
        pieces: list[list[int] | None] = [list(self.frame_open)]
        for index in range(frames):
            if index:
                pieces.append(list(self.frame_separator))
            pieces.append(None)
        pieces.append(self.frame_close[: context.open_length] + words)
        return [piece for piece in pieces if piece is None or piece]
