"""One training of the ladder as a lab runs it: `execute: nanohydra.foundations.makemore.experiment:execute`.

The recipe is plain data: `names` (a file; null for the mirror's list), `seed`, `fit` (fields of FitConfig) and one of
`mlp` (fields of MLPConfig) and `recurrent` (fields of RecurrentConfig). The split into training and held-out names is
always the same, so that seeds differ in initial weights and in the order of the examples only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from nanohydra.errors import UserError, did_you_mean
from nanohydra.files import write_text
from nanohydra.foundations.makemore.data import Vocabulary, examples, read_names, split
from nanohydra.foundations.makemore.mlp import MLP, MLPConfig
from nanohydra.foundations.makemore.recurrent import Recurrent, RecurrentConfig
from nanohydra.foundations.makemore.train import FitConfig, evaluate, fit
from nanohydra.home import mirror_dir

CURVE = 50  # steps that one point of the loss curve averages
Config = TypeVar("Config", FitConfig, MLPConfig, RecurrentConfig)


def execute(recipe: dict[str, Any], run_dir: Path) -> Mapping[str, Any]:
    """Trains `recipe` and returns {"metrics": {"nll", "train_nll", "first_loss"}, "parameters", "tokens", "seconds"}.

    `nll` is the held-out mean per letter in nats. The loss curve goes to run_dir/metrics.jsonl. A loss that is not a
    number gives {"status": "diverged", ...}.
    """
    unknown = sorted(recipe.keys() - {"names", "seed", "fit", "mlp", "recurrent"})
    if unknown:
        raise UserError(f'Unknown setting "{unknown[0]}". Known: names, seed, fit, and mlp or recurrent.')
    seed = int(recipe.get("seed", 0))
    names = read_names(_names_file(recipe.get("names")))
    vocabulary, parts = Vocabulary.of(names), split(names)
    torch.manual_seed(seed)
    model = _model(recipe, len(vocabulary))
    context: int | None = model.context  # type: ignore[assignment]
    config = dataclasses.replace(_config(FitConfig, recipe.get("fit")), seed=seed)
    began = time.perf_counter()
    losses = fit(model, examples(parts.train, vocabulary, context), config)
    seconds = time.perf_counter() - began
    _write_curve(run_dir / "metrics.jsonl", losses, config.batch_size)
    held_out = evaluate(model, examples(parts.held_out, vocabulary, context))
    if not math.isfinite(held_out):
        return {"status": "diverged", "reason": f"the held-out loss is {held_out}"}
    return {
        "metrics": {
            "nll": held_out,
            "train_nll": evaluate(model, examples(parts.train, vocabulary, context)),
            "first_loss": losses[0],
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": config.steps * config.batch_size,
        "seconds": seconds,
    }


def _names_file(given: str | None) -> Path:
    if given is not None:
        return Path(given)
    mirror = mirror_dir()
    if mirror is None:
        raise UserError("There are no names to learn from. Set names in the recipe, or NANOHYDRA_MIRROR to a mirror.")
    return mirror / "karpathy/names/default/train.jsonl.xz"


def _model(recipe: Mapping[str, Any], vocabulary_size: int) -> nn.Module:
    if ("mlp" in recipe) == ("recurrent" in recipe):
        raise UserError("The recipe needs a model: give one of mlp and recurrent.")
    if "mlp" in recipe:
        return MLP(vocabulary_size, _config(MLPConfig, recipe["mlp"]))
    return Recurrent(vocabulary_size, _config(RecurrentConfig, recipe["recurrent"]))


def _config(kind: type[Config], values: Mapping[str, Any] | None) -> Config:
    known = [field.name for field in dataclasses.fields(kind)]
    for key in values or {}:
        if key not in known:
            raise UserError(f'{kind.__name__} has no setting "{key}".{did_you_mean(key, known)}')
    return kind(**(values or {}))


def _write_curve(path: Path, losses: list[float], batch_size: int) -> None:
    points = [(end, losses[max(0, end - CURVE) : end]) for end in range(CURVE, len(losses) + 1, CURVE)]
    lines = [{"step": end, "tokens": end * batch_size, "loss": sum(part) / len(part)} for end, part in points]
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
