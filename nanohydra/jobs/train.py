"""A recipe, carried out: text, tokenizer, model, training, base folder and report card."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.data.batch import IGNORE, Batch
from nanohydra.data.tinyworld.config import ExamConfig
from nanohydra.data.tinyworld.exam import exam
from nanohydra.errors import UserError
from nanohydra.evals.exam import MEANING, Graded, exam_estimates, take_exam
from nanohydra.evals.intervals import Estimate, bootstrap_ratio
from nanohydra.evals.report import write_report
from nanohydra.files import write_text
from nanohydra.infer.engine import Engine
from nanohydra.jobs.config import Recipe
from nanohydra.jobs.data import Prepared, prepare, world_chats, world_of
from nanohydra.jobs.runs import open_run
from nanohydra.jobs.sft import fine_tune
from nanohydra.model.hub import load_base, save_base
from nanohydra.model.transformer import Transformer
from nanohydra.train.diagnostics import Diagnostics
from nanohydra.train.diagnostics_plots import plot_diagnostics
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token, validation
from nanohydra.train.profile import Profile
from nanohydra.train.trainer import Result, Trainer
from nanohydra.train.watch import Diverged


@dataclass(frozen=True)
class Trained:
    """What a finished training leaves behind."""

    model: Transformer
    prepared: Prepared
    result: Result
    estimates: dict[str, Estimate]
    graded: list[Graded]
    """The answers of the exam; empty where the recipe asks for none."""


def run_recipe(recipe: Recipe, run_dir: Path, *, hooks: Sequence[Hook] = (), quiet: bool = False) -> Trained:
    """Trains `recipe` in `run_dir`, or goes on where an earlier try at it stopped, and measures the outcome.

    Leaves in the folder: the run (metrics, checkpoints), `base` (the model as a Hugging Face folder) and the report card.
    Raises UserError where the folder holds a run of another recipe.
    """
    run = open_run(recipe, run_dir)
    prepared = prepare(recipe.data, recipe.seed)
    model = make_model(recipe, prepared)
    windows = validation_batches(prepared, recipe)
    trainer = Trainer(
        model,
        next_token,
        prepared.rows(recipe.data, recipe.train.batch_size, recipe.seed),
        replace(recipe.train, seed=recipe.seed),
        run=run,
        hooks=[*hooks, *watchers(recipe)],
        evaluate=validation(next_token, windows),
        title=recipe.name,
        quiet=quiet,
    )
    result = trainer.fit()
    if recipe.sft is not None:
        sft = replace(recipe, train=recipe.sft, sft=None)
        fine_tune(
            model,
            prepared.tokenizer,
            world_chats(recipe, prepared.tokenizer),
            recipe.sft,
            seq_len=recipe.data.seq_len,
            seed=recipe.seed,
            run=open_run(sft, run_dir / "sft"),
            title=f"{recipe.name}, chat",
            quiet=quiet,
        )
    model.eval()
    save_base(run_dir / "base", model, prepared.tokenizer)
    estimates, graded = measure(recipe, model, prepared, windows)
    estimates |= {
        "parameters": exact(model.config.parameters()),
        "train_tokens_per_second": exact(result.tokens / result.seconds),
    }
    return Trained(model, prepared, result, estimates, graded)


def train(recipe: Recipe, run_dir: Path, hooks: Sequence[Hook] = (), quiet: bool = False) -> dict[str, Estimate]:
    """`run_recipe`, then the report card in the same folder; returns the estimates."""
    trained = run_recipe(recipe, run_dir, hooks=hooks, quiet=quiet)
    samples = [(g.item.question, g.answer) for g in trained.graded[:: max(1, len(trained.graded) // 12)]]
    details = {"seed": recipe.seed, "tokens": trained.result.tokens, "steps": trained.result.step}
    write_report(
        run_dir, recipe.name, trained.estimates, meaning=MEANING, details=details, samples=samples, run_dir=run_dir
    )
    if recipe.watch.diagnostics:
        plot_diagnostics(run_dir)
    return trained.estimates


def execute(recipe: dict[str, Any], run_dir: Path) -> Mapping[str, Any]:
    """One run of a lab: trains the recipe (nested data) and returns its metrics; a diverged run says so instead."""
    whole = Recipe.from_dict(recipe)
    try:
        trained = run_recipe(whole, run_dir, quiet=True)
    except Diverged as e:
        return {"status": "diverged", "reason": str(e)}
    write_report(run_dir, whole.name, trained.estimates, meaning=MEANING, run_dir=run_dir)
    if trained.graded:
        # By its words: with another seed the world is another, and the n-th question is not the same item.
        answered = {(g.item.kind, g.item.question): g.right for g in trained.graded}
        lines = (json.dumps({"item": question, kind: float(right)}) for (kind, question), right in answered.items())
        write_text(run_dir / "items.jsonl", "".join(line + "\n" for line in lines))
    config, tokens = trained.model.config, trained.result.tokens
    return {
        "metrics": {name: e.value for name, e in trained.estimates.items()},
        "parameters": config.parameters(),
        "flops": config.flops_per_token(whole.data.seq_len) * tokens,
        "tokens": tokens,
        "seconds": trained.result.seconds,
    }


def watchers(recipe: Recipe) -> list[Hook]:
    """The hooks that watch a training as the recipe asks."""
    hooks: list[Hook] = []
    if recipe.watch.diagnostics:
        hooks.append(Diagnostics(every=recipe.watch.diagnostics))
    if recipe.watch.profile:
        hooks.append(Profile())
    return hooks


def make_model(recipe: Recipe, prepared: Prepared) -> Transformer:
    """The model that training starts from: new weights drawn from the recipe's seed, or the base it names."""
    seq_len = recipe.data.seq_len
    if recipe.model.base is not None:
        model, tokenizer = load_base(recipe.model.base, torch.float32)
        if tokenizer.id != prepared.tokenizer.id:
            raise UserError(
                f"The text is tokenised with another tokenizer than that of {recipe.model.base}. "
                f"Set data.tokenizer to {recipe.model.base}."
            )
    else:
        shape = recipe.model.shape(vocab_size=prepared.tokenizer.vocab_size)
        torch.manual_seed(recipe.seed)
        model = Transformer(shape)
    if seq_len > model.config.max_position_embeddings:
        raise UserError(
            f"Rows of {seq_len} tokens are longer than the model's context of {model.config.max_position_embeddings}. "
            "Lower data.seq_len, or raise model.config.max_position_embeddings."
        )
    return model


def validation_batches(prepared: Prepared, recipe: Recipe) -> list[Batch]:
    """The validation rows in batches of the size that training uses."""
    size = recipe.train.micro_batch_size or recipe.train.batch_size
    rows = prepared.validation_rows(recipe.data, recipe.eval.validation_rows)
    return [rows.rows(first, first + size) for first in range(0, len(rows.input_ids), size)]


def measure(
    recipe: Recipe, model: Transformer, prepared: Prepared, windows: Sequence[Batch]
) -> tuple[dict[str, Estimate], list[Graded]]:
    """The validation loss with its interval, bits per byte, and the exam's results where the recipe asks for one."""
    nats, counts = _window_losses(model, windows)
    whole = prepared.validation_rows(recipe.data)
    bytes_per_token = prepared.validation_bytes / int((whole.targets != IGNORE).sum())
    estimates = {
        "val_loss": bootstrap_ratio(nats, counts),
        "val_bits_per_byte": bootstrap_ratio(nats / math.log(2), counts * bytes_per_token),
    }
    if not recipe.eval.exam:
        return estimates, []
    items = exam(
        world_of(recipe.data, recipe.seed),
        ExamConfig(items=recipe.eval.exam),
        seed=recipe.seed + 1,
        training=recipe.data.tinyworld,
    )
    engine = Engine(model, prepared.tokenizer, (CALCULATOR,), max_slots=64, max_seq_len=256)
    graded = take_exam(engine, items)
    return exam_estimates(graded) | estimates, graded


@torch.inference_mode()
def _window_losses(model: Transformer, windows: Sequence[Batch]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(nats, targets) of each row, each of shape (rows,)."""
    nats, counts = [], []
    device = next(model.parameters()).device
    for batch in windows:
        for row in range(len(batch.input_ids)):
            loss, targets, _ = next_token(model, batch.rows(row, row + 1).to(device))
            nats.append(float(loss))
            counts.append(float(targets))
    return np.array(nats), np.array(counts)


def exact(value: float) -> Estimate:
    """A count or a single measurement, which has no interval."""
    return Estimate(value, 1, math.nan, math.nan)
