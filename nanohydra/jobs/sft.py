"""Supervised fine-tuning: a base learns from conversations; the loss is on the assistant's tokens alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanohydra.data.chat import Message, render_chat
from nanohydra.data.corpora import rows
from nanohydra.data.loader import PackedConversations
from nanohydra.data.readers import Row
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.jobs.config import SftRecipe
from nanohydra.jobs.runs import open_run
from nanohydra.model.hub import load_base, save_base
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.objectives import next_token, validation
from nanohydra.train.run import Run
from nanohydra.train.trainer import Result, Trainer

_SPEAKERS = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def run_sft(recipe: SftRecipe, run_dir: Path) -> Result:
    """Fine-tunes the recipe's base and leaves the outcome in `run_dir`/base. Resumes an earlier try at the same recipe."""
    run = open_run(recipe, run_dir)
    model, tokenizer = load_base(recipe.base, torch.float32)
    chats = list(conversations(recipe.data, recipe.split))
    held_out = max(1, round(recipe.validation_share * len(chats))) if recipe.validation_share else 0
    if held_out >= len(chats):
        raise UserError(
            f"{recipe.data} has {len(chats)} conversations: too few to hold some out. Set validation_share to 0."
        )
    result = fine_tune(
        model,
        tokenizer,
        chats[: len(chats) - held_out],
        recipe.train,
        seq_len=recipe.seq_len,
        seed=recipe.seed,
        run=run,
        held_out=chats[len(chats) - held_out :],
        title=recipe.name,
    )
    save_base(run_dir / "base", model, tokenizer)
    return result


def fine_tune(
    model: Transformer,
    tokenizer: Tokenizer,
    chats: Sequence[Sequence[Message]],
    config: TrainConfig,
    *,
    seq_len: int,
    seed: int,
    run: Run | None = None,
    held_out: Sequence[Sequence[Message]] = (),
    title: str = "sft",
    quiet: bool = False,
) -> Result:
    """Trains `model` in place on whole conversations packed into rows of `seq_len`, none of which sees another.

    held_out: conversations whose loss is reported as val_loss and never trained on.
    """
    limit = model.config.max_position_embeddings
    if seq_len > limit:
        raise UserError(f"Rows of {seq_len} tokens are longer than the model's context of {limit}. Lower seq_len.")

    def packed(part: Sequence[Sequence[Message]]) -> PackedConversations:
        rendered = [render_chat(tokenizer, messages) for messages in part]
        return PackedConversations(rendered, seq_len, config.batch_size, seed=seed, pad_id=tokenizer.pad_id)

    evaluate = None
    if held_out:
        source = packed(held_out)
        size = config.micro_batch_size or config.batch_size
        starts = range(0, source.row_count, size)
        evaluate = validation(next_token, [source.take(np.arange(s, min(s + size, source.row_count))) for s in starts])
    trainer = Trainer(
        model,
        next_token,
        packed(chats),
        replace(config, seed=seed),
        run=run,
        evaluate=evaluate,
        title=title,
        quiet=quiet,
    )
    result = trainer.fit()
    model.eval()
    return result


def conversations(source: str, split: str = "train") -> Iterator[list[Message]]:
    """The conversations of a corpus or a local file, in any of the usual layouts.

    A row has `messages` (role, content), `conversations` (from, value), or a question and an answer: instruction, input or
    context, and output or response; question and answer; prompt and completion.
    """
    for where, row in rows(source, split):
        yield conversation(row, where)


def conversation(row: Row, where: str) -> list[Message]:
    """One row as messages. Raises UserError, naming the row, when it is in none of the layouts."""
    turns = row.get("messages") or row.get("conversations")
    if isinstance(turns, list):
        return [_message(turn, where) for turn in turns]
    for question, extra, answer in (
        ("instruction", "input", "output"),
        ("instruction", "context", "response"),
        ("question", "context", "answer"),
        ("prompt", "", "completion"),
    ):
        if isinstance(row.get(question), str) and isinstance(row.get(answer), str):
            asked = "\n\n".join(part for part in (row[question], row.get(extra)) if part)
            return [{"role": "user", "content": asked}, {"role": "assistant", "content": row[answer]}]
    raise UserError(
        f"{where}: no conversation here. A row needs messages (role, content), or instruction and output; it has {', '.join(row)}."
    )


def _message(turn: Any, where: str) -> Message:
    if isinstance(turn, dict):
        role, content = turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value") or ""
        role = _SPEAKERS.get(str(role), "tool" if role in ("tool", "observation") else None)
        if role is not None and isinstance(content, str | list):
            return {"role": role, "content": content}
    raise UserError(f"{where}: a turn needs a role (system, user, assistant or tool) and a content, not {turn!r:.80}.")
