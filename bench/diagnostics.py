"""What diagnostics cost: one training in which every second step is sampled, so that both kinds of step see the same machine.

    python bench/diagnostics.py            # prints a table; about two minutes on one CPU thread

The cost of a run that samples every 50 steps is the extra time of a sampled step / 50, plus what each step pays for the look at
its loss. Times are the process's CPU seconds, which other work on the machine does not inflate (on a GPU: the clock).
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from nanohydra.data.batch import Batch
from nanohydra.foundations.makemore.data import Vocabulary, examples
from nanohydra.foundations.makemore.mlp import MLP, MLPConfig
from nanohydra.foundations.makemore.train import FitConfig, fit
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.diagnostics import Diagnostics
from nanohydra.train.diagnostics_rules import LossWatch
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token
from nanohydra.train.trainer import Trainer


class RandomTokens:
    """Batches of random tokens: the time of a step does not depend on what they say."""

    def __init__(self, vocabulary: int, rows: int, length: int) -> None:
        self.shape, self.vocabulary = (rows, length + 1), vocabulary

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        tokens = torch.randint(self.vocabulary, self.shape, generator=torch.Generator().manual_seed(step))
        return Batch(tokens[:, :-1], tokens[:, 1:])


class Stopwatch(Hook):
    """The time of each step; one of them stands before the diagnostics in the list of hooks, its `end` after."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.end = Hook()
        self.end.after_step = self.stop  # type: ignore[method-assign]

    def now(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def before_step(self, trainer: object) -> None:
        self._began = self.now()

    def stop(self, trainer: object) -> None:
        self.times.append(self.now() - self._began)


def report(name: str, times: list[float], every: int) -> float:
    """Prints one line: usual step, sampled step, cost at `every`; returns the cost."""
    skipped = 10  # warm-up
    sampled, usual = times[skipped::2], times[skipped + 1 :: 2]
    step = float(np.median(usual))
    extra = float(np.median(sampled)) - step
    watch = LossWatch()
    began = time.process_time()
    for i in range(1000):
        watch.add(i, 3.0 + 0.1 * (i % 7))
    look = (time.process_time() - began) / 1000
    cost = (extra / every + look) / step
    print(f"| {name} | {1e3 * step:.2f} | {1e3 * extra:.2f} | {1e3 * look:.3f} | {cost:.2%} |")
    return cost


def transformer(shape: ModelConfig, rows: int, dtype: str, steps: int) -> list[float]:
    """Step times of a transformer, even steps sampled."""
    watch = Stopwatch()
    config = TrainConfig(steps=steps, batch_size=rows, dtype=dtype, compile="never")  # type: ignore[arg-type]
    batches = RandomTokens(shape.vocab_size, rows, shape.max_position_embeddings)
    hooks = [watch, Diagnostics(every=2), watch.end]
    Trainer(Transformer(shape), next_token, batches, config, hooks=hooks, quiet=True).fit()
    return watch.times


def makemore(steps: int) -> list[float]:
    """Step times of the ladder's MLP, even steps sampled."""
    watch = Stopwatch()
    names = ["emma", "olivia", "ava", "sophia", "mia"] * 100
    vocabulary = Vocabulary.of(names)
    model = MLP(len(vocabulary), MLPConfig())
    diagnostics = Diagnostics(every=2)
    fit(model, examples(names, vocabulary, 3), FitConfig(steps=steps), [watch, diagnostics, watch.end])
    return watch.times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=50, help="steps between samples (default 50)")
    parser.add_argument("--steps", type=int, default=60, help="steps of each transformer (default 60)")
    options = parser.parse_args()
    small = ModelConfig(vocab_size=4096, hidden_size=128, num_hidden_layers=4, max_position_embeddings=128)
    larger = ModelConfig(vocab_size=4096, hidden_size=256, num_hidden_layers=6, max_position_embeddings=256)
    print(
        f"| model | step (ms) | extra of a sampled step (ms) | look at the loss (ms) | cost at every {options.every} |"
    )
    print("|---|---:|---:|---:|---:|")
    report("makemore MLP, 12k, batch 256", makemore(10 * options.steps), options.every)
    for dtype in ("fp32", "bf16"):
        for shape, rows in ((small, 16), (larger, 8)):
            name = f"transformer, {shape.parameters() / 1e6:.1f}M, {rows} x {shape.max_position_embeddings}, {dtype}"
            report(name, transformer(shape, rows, dtype, options.steps), options.every)


if __name__ == "__main__":
    main()
