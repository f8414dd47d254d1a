"""Batches of pictures and dialogues for training the reference VLM, drawn on the device.

`Painter` draws the same pictures as `pictures.render` (to one grey level, and with random changes when asked to), and
`Dialogues` the same texts as `dialogue.chat_text`; tests/reference_vlm/test_reference_training.py holds them to it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from reference_vlm_model import patchify
from tokenizers import Tokenizer
from torch import Tensor

from retentive_export.reference_vlm.dialogue import all_questions
from retentive_export.reference_vlm.pictures import BITMAP, CELL, GRID, PICTURE, ZOOM, DigitSet

TEXT_TOKENS = 384
"""Tokens of a training dialogue, without its 256 visual tokens."""


class Painter:
    """Draws batches of pictures of one digit set on the device."""

    def __init__(self, digits: DigitSet, device: torch.device) -> None:
        self.bitmaps = torch.tensor(digits.bitmaps / 16.0, dtype=torch.float32, device=device)
        order = np.argsort(digits.labels, kind="stable")
        self.order = torch.tensor(order, device=device)
        counts = np.bincount(digits.labels, minlength=10)
        self.counts = torch.tensor(counts, device=device)
        self.starts = torch.tensor(np.cumsum(counts) - counts, device=device)

    def draw(self, grid: Tensor, augment: bool) -> Tensor:
        """Digits [B, 8, 8] int64, -1 for an empty cell, to patches [B, 1024, 384] float32."""
        flat = grid.clamp(min=0).flatten()
        pick = (torch.rand(len(flat), device=flat.device) * self.counts[flat]).long()
        ink = self.bitmaps[self.order[self.starts[flat] + pick]] * (grid.flatten() >= 0)[:, None, None]
        matrix = self._affine(len(flat), flat.device, augment)
        where = F.affine_grid(matrix, [len(flat), 1, CELL, CELL], align_corners=False)
        cells = F.grid_sample(ink[:, None], where, align_corners=False)[:, 0]
        if augment:
            contrast = 0.7 + 0.6 * torch.rand(len(flat), 1, 1, device=flat.device)
            cells = (cells * contrast).clamp(0, 1)
        gray = cells.view(-1, GRID, GRID, CELL, CELL).transpose(2, 3).reshape(-1, PICTURE, PICTURE)
        if augment:
            gray = (gray + 0.03 * torch.rand(len(gray), 1, 1, device=gray.device) * torch.randn_like(gray)).clamp(0, 1)
        pixels = ((1 - gray) * 255 + 0.5).floor() / 255
        return patchify((pixels - 0.5) / 0.5)

    @staticmethod
    def _affine(count: int, device: torch.device, augment: bool) -> Tensor:
        """Maps from cell to bitmap coordinates, [count, 2, 3]; without augmentation exactly `pictures.render`."""
        base = torch.eye(2, device=device) * (CELL / (ZOOM * BITMAP))
        if not augment:
            return F.pad(base, (0, 1)).expand(count, -1, -1)
        angle = 0.2 * torch.randn(count, device=device).clamp(-2, 2)
        rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(-1, 2, 2)
        shear = torch.eye(2, device=device) + 0.12 * torch.randn(count, 2, 2, device=device).clamp(-2, 2)
        shift = (torch.rand(count, 2, 1, device=device) * 2 - 1) * 0.25
        return torch.cat([base @ rotation @ shear, shift], dim=-1)


class Dialogues:
    """Draws batches of dialogues as token ids on the device; the texts are those of `dialogue.chat_text`."""

    def __init__(self, tokenizer: Tokenizer, device: torch.device, mix: tuple[float, float, float]) -> None:
        def encode(text: str) -> list[int]:
            return tokenizer.encode(text).ids

        heads = [encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n") for q in all_questions()]
        width = max(map(len, heads))
        self.heads = torch.tensor([h + [-1] * (width - len(h)) for h in heads], device=device)
        self.first = torch.tensor([encode(str(d))[0] for d in range(10)], device=device)
        self.later = torch.tensor([encode(f" {d}")[0] for d in range(10)], device=device)
        self.tail = torch.tensor(encode("<|im_end|>\n"), device=device)
        self.picture = torch.tensor(encode("<|vision_start|><|vision_end|>"), device=device)
        shortest = min(map(len, heads)) + 1 + len(self.tail)
        self.turns = math.ceil((TEXT_TOKENS - 2) / shortest)
        self.mix = torch.tensor(mix, device=device)

    def sample(self, grid: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Dialogues about filled cells.

        Args:
            grid: digits, -1 empty. [B, 8, 8] int64
            rows: indices of the filled rows, repeated to fill 8. [B, 8] int64
            columns: the same for columns; rows are read and counted only where all are filled. [B, 8] int64

        Returns:
            token ids [B, T], answer mask [B, T] bool and turn number [B, T], without the 256 visual tokens.
        """
        batch, turns, device = len(grid), self.turns, grid.device

        def draw(high: int) -> Tensor:
            return torch.randint(high, (batch, turns), device=device)

        row, column = rows.gather(1, draw(8)), columns.gather(1, draw(8))
        lines = grid.gather(1, row[..., None].expand(-1, -1, 8))  # [B, turns, 8]
        kind = torch.multinomial(self.mix, batch * turns, replacement=True).view(batch, turns)
        kind = kind * (grid.gather(1, rows[:, :1, None].expand(-1, -1, 8)) >= 0).all(-1)
        present = lines.gather(2, draw(8)[..., None])[..., 0].clamp(min=0)
        digit = torch.where(draw(2) == 0, present, draw(10))
        question = torch.stack([row * 8 + column, 64 + row, 72 + digit * 8 + row], -1)
        question = question.gather(2, kind[..., None])[..., 0]
        cell = lines.gather(2, column[..., None])[..., 0]
        count = (lines == digit[..., None]).sum(-1)
        single = torch.where(kind == 0, cell, count)
        is_row = (kind == 1)[..., None]
        start = self.first[torch.where(is_row[..., 0], lines[..., 0], single)][..., None]
        rest = torch.where(is_row, self.later[lines[..., 1:].clamp(min=0)], -1)
        tail = self.tail.expand(batch, turns, -1)
        slots = torch.cat([self.heads[question], start, rest, tail], dim=-1)
        answer = torch.zeros(slots.shape[-1], dtype=torch.bool, device=device)
        answer[self.heads.shape[1] : -1] = True
        number = (torch.arange(turns, device=device) * 3 + kind)[..., None].expand_as(slots)
        return self._compact(slots, answer.expand_as(slots), number)

    def _compact(self, slots: Tensor, answer: Tensor, number: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        flat = slots.flatten(1)
        order = (flat < 0).to(torch.uint8).argsort(dim=1, stable=True)[:, : TEXT_TOKENS - 2]
        tokens, mask = flat.gather(1, order), answer.flatten(1).gather(1, order)
        turn = number.flatten(1).gather(1, order)

        def insert(x: Tensor, y: Tensor) -> Tensor:
            return torch.cat([x[:, :3], y.expand(len(x), 2), x[:, 3:]], 1)

        nothing = torch.zeros(2, dtype=torch.bool, device=flat.device)
        return insert(tokens, self.picture), insert(mask, nothing), insert(turn, turn[:1, :1].expand(1, 2))


def sample_grids(batch: int, partial: float, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Grids and their filled rows and columns; a share `partial` of the pictures has empty cells."""
    grid = torch.randint(10, (batch, GRID, GRID), device=device)
    small = torch.rand(batch, device=device) < partial
    eight = torch.full((batch,), GRID, device=device)
    rows = torch.where(small, torch.randint(1, GRID + 1, (batch,), device=device), eight)
    few = small & (torch.rand(batch, device=device) < 0.5)
    columns = torch.where(few, torch.randint(1, GRID + 1, (batch,), device=device), eight)
    chosen = []
    for count in (rows, columns):
        order = torch.rand(batch, GRID, device=device).argsort(1)
        chosen.append(order.gather(1, torch.arange(GRID, device=device) % count[:, None]))
    filled = F.one_hot(chosen[0], GRID).amax(1)[:, :, None] * F.one_hot(chosen[1], GRID).amax(1)[:, None]
    return torch.where(filled > 0, grid, -1), chosen[0], chosen[1]
