"""A training small enough for tests: arithmetic progressions, to be continued by a tiny transformer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nanohydra.data.batch import IGNORE, Batch
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token, validation
from nanohydra.train.run import Run
from nanohydra.train.trainer import Trainer

VOCAB = 32


class Progressions:
    """Rows x, x + 3, x + 6, ... modulo the vocabulary; a pure function of the step. Some targets carry no loss."""

    def __init__(self, rows: int = 8, length: int = 16, ignored: float = 0.0) -> None:
        self.rows, self.length, self.ignored = rows, length, ignored

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        draw = torch.Generator().manual_seed(step)
        start = torch.randint(0, VOCAB, (self.rows, 1), generator=draw)
        x = (start + 3 * torch.arange(self.length + 1)) % VOCAB
        targets = x[:, 1:].clone()
        targets[torch.rand(targets.shape, generator=draw) < self.ignored] = IGNORE
        share = self.rows // world_size
        return Batch(x[:, :-1].clone(), targets).rows(rank * share, (rank + 1) * share)


def tiny_model(seed: int = 0, **changes: Any) -> Transformer:
    """About 30,000 parameters; the same weights for the same seed."""
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Transformer(ModelConfig(**{**shape, "max_position_embeddings": 32, **changes}))


def make_trainer(
    folder: Path | None = None, *, hooks: tuple[Hook, ...] = (), model: Any = None, **settings: Any
) -> Trainer:
    """A trainer over the toy; with a folder it starts, or goes on with, the run there."""
    run = None
    if folder is not None:
        run = Run.open(folder) if (folder / "config.yaml").exists() else Run.create(folder, {"train": {"seed": 0}})
    defaults = {"steps": 20, "dtype": "fp32", "save_seconds": 0.0, "compile": "never"}
    if "tokens" in settings or "seconds" in settings:
        del defaults["steps"]
    config = TrainConfig(**{**defaults, **settings})
    batches = Progressions(ignored=0.3)
    evaluate = validation(next_token, [Progressions().batch(10**6)])
    model = tiny_model() if model is None else model
    return Trainer(model, next_token, batches, config, run, hooks, evaluate, quiet=True)
