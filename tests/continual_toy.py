"""Domains small enough for tests: rows that count in steps of their own, and the sequence that a strategy is led through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanohydra.adapt.config import AdapterConfig
from nanohydra.continual.domains import Domain
from nanohydra.continual.measures import Loss
from nanohydra.continual.stages import Journey
from nanohydra.continual.strategy import Setup, Stage, Strategy, read_settings
from nanohydra.data.batch import Batch
from nanohydra.data.loader import RowSource
from nanohydra.data.order import Int64s, random_bits
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig

TOKENIZER = Tokenizer.characters("abcdefghijklmnopqrstuvwxyz")
VOCAB = TOKENIZER.vocab_size
LENGTH = 12
ROWS = 32


class Counting(RowSource):
    """Rows x, x + step, x + 2 step, ... modulo the vocabulary, from random starts."""

    def __init__(self, step: int, batch_size: int = 4) -> None:
        super().__init__(LENGTH, batch_size)
        self.step = step

    def take(self, numbers: Int64s) -> Batch:
        starts = (random_bits(self.step, numbers % ROWS) % np.uint64(VOCAB)).astype(np.int64)
        rows = torch.from_numpy((starts[:, None] + self.step * np.arange(LENGTH + 1)) % VOCAB)
        return Batch(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())


def domain(name: str, step: int) -> Domain:
    source = Counting(step)
    return Domain(name, source, ROWS, [Loss(source.take(np.arange(1000, 1008)))])


def domains() -> list[Domain]:
    return [domain("ones", 1), domain("threes", 3), domain("fives", 5)]


def model(seed: int = 0, **changes: Any) -> Transformer:
    torch.manual_seed(seed)
    shape = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return Transformer(ModelConfig(**{**shape, "max_position_embeddings": 32, **changes}))


def train_config(**changes: Any) -> TrainConfig:
    defaults = {"steps": 6, "batch_size": 4, "lr": 0.01, "dtype": "fp32", "compile": "never", "save_seconds": 0.0}
    return TrainConfig(**{**defaults, **changes})


def make(name: str, stages: TrainConfig | None = None, /, over: Transformer | None = None, **settings: Any) -> Strategy:
    kind, parsed = read_settings(name, settings)
    adapter = AdapterConfig(rank=2, alpha=4)
    return kind(Setup(over or model(), TOKENIZER, stages or train_config(), adapter, 0, LENGTH), parsed)


def journey(strategy: Strategy, folder: Path | None = None, of: list[Domain] | None = None) -> Journey:
    return Journey(strategy, of or domains(), strategy.setup.train, torch.float32, folder, 0)


def stage(number: int, **changes: Any) -> Stage:
    all_ = domains()
    return Stage(number, all_[number], all_[:number], train_config(**changes))


@torch.no_grad()
def logits(strategy: Strategy, view: str, name: str) -> torch.Tensor:
    """What the model says to a few rows of a domain, asked in a view."""
    ids = next(d for d in domains() if d.name == name).source.take(np.arange(4)).input_ids  # type: ignore[union-attr]
    said = torch.zeros(4, LENGTH, VOCAB)
    for numbers, speaking in strategy.ask(view, name, ids.tolist()):
        speaking.eval()
        said[numbers] = speaking(ids[numbers])
    return said
