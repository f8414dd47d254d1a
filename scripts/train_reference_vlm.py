"""Train the reference VLM from scratch.

    python scripts/train_reference_vlm.py --out DIR --seed 0

Two stages. First the vision tower alone learns, from labels per visual token, which digit it sees and where. Then
the whole model learns dialogues (loss on the answers only), while the visual labels stay as a small extra loss.
Pictures are drawn on the device with random shifts, sizes, slants and contrasts. A curriculum shortens the plateau
before the model finds out how to look a cell up: at first most pictures hold few rows and columns of digits.

Prints a JSON line with the accuracy per kind of question every `--report` steps, and writes the model directory at
every report and at the end, weights in bfloat16. Needs `pip install 'retentive-export[export,train]'` and, for a
training within minutes, a GPU.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import torch.nn.functional as F
import transformers
from reference_vlm_batches import TEXT_TOKENS, Dialogues, Painter, sample_grids
from reference_vlm_model import (
    VISUAL_TOKENS,
    BatchedForward,
    build_config,
    build_tokenizer,
    write_model_directory,
)
from torch import Tensor, nn
from transformers import Qwen3VLForConditionalGeneration

from retentive_export.reference_vlm.dialogue import DEFAULT_MIX, KINDS
from retentive_export.reference_vlm.pictures import GRID, load_digit_sets

TRAIN_MIX = (0.45, 0.15, 0.4)
"""Shares of cell, row and count questions in training; counts are learned last."""
IGNORE = -100


class Trainer(nn.Module):
    """The two losses."""

    def __init__(self, model: Qwen3VLForConditionalGeneration) -> None:
        super().__init__()
        self.forward_pass = BatchedForward(model, TEXT_TOKENS)
        self.probe = nn.Linear(model.config.text_config.hidden_size, 10 + GRID + GRID)

    def visual_loss(self, visual: Tensor, grid: Tensor) -> Tensor:
        """Cross entropy of digit, row and column for each visual token [B, 256, 320] and grid [B, 8, 8]."""
        digit, row, column = self.probe(visual.float()).split([10, GRID, GRID], dim=-1)
        labels = grid.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        place = torch.arange(GRID, device=grid.device).repeat_interleave(2)
        rows = place[:, None].expand(-1, 16).reshape(1, -1).expand_as(labels)
        columns = place[None, :].expand(16, -1).reshape(1, -1).expand_as(labels)
        losses = [
            F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)
            for logits, target in ((digit, labels), (row, rows), (column, columns))
        ]
        return torch.stack(losses).sum()

    def see_losses(self, patches: Tensor, grid: Tensor) -> list[Tensor]:
        """Stage 1: visual loss."""
        return [self.visual_loss(self.forward_pass.see(patches)[0], grid)]

    def talk_losses(self, patches: Tensor, grid: Tensor, tokens: Tensor, mask: Tensor) -> list[Tensor]:
        """Stage 2: visual loss and answer loss."""
        visual = self.forward_pass.see(patches)
        logits = self.forward_pass.read(visual, tokens)[:, VISUAL_TOKENS + 3 : -1]
        targets = torch.where(mask, tokens, IGNORE)[:, 4:]
        answers = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
        return [self.visual_loss(visual[0], grid), answers]

    def right(self, patches: Tensor, tokens: Tensor) -> Tensor:
        """Whether the greedy choice is the dialogue's own next token, [B, T] bool, for tokens from the fifth on."""
        logits = self.forward_pass.read(self.forward_pass.see(patches), tokens)[:, VISUAL_TOKENS + 3 : -1]
        return F.pad(logits.argmax(-1) == tokens[:, 4:], (4, 0), value=True)


@torch.no_grad()
def accuracy(trainer: Trainer, painter: Painter, dialogues: Dialogues, pictures: int, batch: int) -> dict[str, float]:
    """Exact answers per kind, teacher forced, on full grids without augmentation."""
    device = painter.bitmaps.device
    right, asked = torch.zeros(3, device=device), torch.zeros(3, device=device)
    for _ in range(max(1, pictures // batch)):
        grid, rows, columns = sample_grids(batch, 0.0, device)
        tokens, mask, turn = dialogues.sample(grid, rows, columns)
        with torch.autocast(device.type, torch.bfloat16):
            good = trainer.right(painter.draw(grid, False), tokens)
        slots = dialogues.turns * 3
        wrong = torch.zeros(batch, slots, device=device).scatter_add_(1, turn, (~good & mask).float())
        ended = torch.zeros(batch, slots, device=device)
        ended.scatter_add_(1, turn, (mask & (tokens == dialogues.tail[0])).float())
        for kind in range(3):
            done = ended[:, kind::3] > 0
            right[kind] += (done & (wrong[:, kind::3] == 0)).sum()
            asked[kind] += done.sum()
    result = {name: round((right[i] / asked[i]).item(), 4) for i, name in enumerate(KINDS)}
    return {**result, "all": round((right.sum() / asked.sum()).item(), 4), "questions": int(asked.sum())}


def optimizer_of(module: nn.Module, peak: float) -> torch.optim.Optimizer:
    """AdamW; no weight decay on norms, biases and embeddings."""
    decay = [p for n, p in module.named_parameters() if p.ndim >= 2 and "embed" not in n]
    plain = [p for n, p in module.named_parameters() if not (p.ndim >= 2 and "embed" not in n)]
    groups = [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak, betas=(0.9, 0.95), fused=torch.cuda.is_available())


def rate(step: int, steps: int, warmup: int) -> float:
    """Linear warm-up, then cosine decay to 2 % of the peak."""
    if step < warmup:
        return (step + 1) / warmup
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))


def train(options: argparse.Namespace) -> None:
    """Both stages, with reports."""
    torch.manual_seed(options.seed)
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = build_tokenizer()
    model = Qwen3VLForConditionalGeneration(build_config(tokenizer)).to(device)
    trainer = Trainer(model).to(device)
    train_set, held_out_set = load_digit_sets()
    painter, held_out = Painter(train_set, device), Painter(held_out_set, device)
    dialogues, questions = Dialogues(tokenizer, device, TRAIN_MIX), Dialogues(tokenizer, device, DEFAULT_MIX)
    compiled = (lambda f: f) if options.no_compile else (lambda f: torch.compile(f, dynamic=False))
    losses_of = compiled(trainer.see_losses), compiled(trainer.talk_losses)
    optimizer = optimizer_of(trainer, options.lr)
    started = time.monotonic()
    print(json.dumps({"parameters": sum(p.numel() for p in model.parameters()), **machine(device)}), flush=True)
    step, total = 0, options.see_steps + options.steps
    while step < total and time.monotonic() - started < options.seconds:
        talking = step >= options.see_steps
        stage, length = (step - options.see_steps, options.steps) if talking else (step, options.see_steps)
        for group in optimizer.param_groups:
            group["lr"] = options.lr * rate(stage, length, options.warmup)
        partial = 0.9 * max(0.0, 1 - stage / options.curriculum) if talking else 0.0
        losses = update(trainer, losses_of[talking], optimizer, painter, dialogues, partial, talking, options.batch)
        step += 1
        if step % options.report == 0 or step in (options.see_steps, total):
            line = {"step": step, "seconds": round(time.monotonic() - started, 1), "partial": round(partial, 2)}
            line["losses"] = [round(x.item(), 4) for x in losses]
            if talking:
                line.update(accuracy(trainer, held_out, questions, options.report_pictures, min(256, options.batch)))
                write_model_directory(model, tokenizer, options.out)
            print(json.dumps(line), flush=True)
    summary = {"steps": step, "training_seconds": round(time.monotonic() - started, 1), **machine(device)}
    summary["options"] = {name: value for name, value in vars(options).items() if name != "out"}
    finish(trainer, tokenizer, held_out, questions, options, summary)


def update(
    trainer: Trainer,
    losses_of: Callable[..., list[Tensor]],
    optimizer: torch.optim.Optimizer,
    painter: Painter,
    dialogues: Dialogues,
    partial: float,
    talking: bool,
    batch: int,
) -> list[Tensor]:
    """One step on new pictures; returns the losses."""
    device = painter.bitmaps.device
    grid, rows, columns = sample_grids(batch, partial, device)
    inputs = [painter.draw(grid, True), grid]
    if talking:
        inputs += dialogues.sample(grid, rows, columns)[:2]
    with torch.autocast(device.type, torch.bfloat16):
        losses = losses_of(*inputs)
    (losses[1] + 0.1 * losses[0] if talking else losses[0]).backward()
    nn.utils.clip_grad_norm_(trainer.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return losses


def finish(
    trainer: Trainer,
    tokenizer: tokenizers.Tokenizer,
    held_out: Painter,
    questions: Dialogues,
    options: argparse.Namespace,
    summary: dict[str, Any],
) -> None:
    """Round the weights to bfloat16 as they are stored, measure them on held-out pictures, write them."""
    model = trainer.forward_pass.model
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    final = accuracy(trainer, held_out, questions, options.final_pictures, min(256, options.batch))
    write_model_directory(model, tokenizer, options.out)
    summary = {"held_out": final, **summary}
    print(json.dumps(summary), flush=True)
    (options.out / "training.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def machine(device: torch.device) -> dict[str, str]:
    """Versions and device, for the model card."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    return {"device": name, "python": platform.python_version(), **versions}


def main() -> None:
    """Parse the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--see-steps", type=int, default=800)
    parser.add_argument("--steps", type=int, default=10500)
    parser.add_argument("--curriculum", type=int, default=3000, help="steps until every picture is full")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--report", type=int, default=500)
    parser.add_argument("--report-pictures", type=int, default=256)
    parser.add_argument("--final-pictures", type=int, default=2048)
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after this time")
    parser.add_argument("--no-compile", action="store_true")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
