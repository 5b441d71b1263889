"""One job: a base trained for a seed, or a strategy led through all stages of the sequence with a seed.

A strategy's job keeps in its folder what it needs to go on after the last finished stage, should it be killed:
stages/step-0000000k, written whole or not at all, and deleted when the job is done.
"""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanohydra.continual.domains import Domain, base_domain, make_domains, save_text
from nanohydra.continual.plan import Plan
from nanohydra.continual.strategy import Setup, Stage, Strategy, read_settings
from nanohydra.data.order import random_bits
from nanohydra.files import write_json
from nanohydra.jobs.config import Recipe
from nanohydra.jobs.train import run_recipe
from nanohydra.model.hub import load_base
from nanohydra.train.checkpoint import latest_checkpoint, pack, prune, set_aside, step_folder, unpack, write_checkpoint
from nanohydra.train.config import TrainConfig
from nanohydra.train.parallel import join
from nanohydra.train.precision import DTYPES, WeightCopies
from nanohydra.train.run import environment
from nanohydra.train.trainer import Trainer
from nanohydra.train.watch import Diverged


def train_base(recipe: dict[str, Any], run_dir: Path) -> Mapping[str, Any]:
    """Trains the base of one seed and leaves it, with its tokens, in run_dir/base (a job of a lab)."""
    whole = Recipe.from_dict({**recipe["base"], "seed": recipe["seed"]})
    trained = run_recipe(whole, run_dir, quiet=True)
    save_text(run_dir / "base", trained.prepared)
    return {
        "metrics": {name: estimate.value for name, estimate in trained.estimates.items()},
        "parameters": trained.model.config.parameters(),
        "tokens": trained.result.tokens,
        "seconds": trained.result.seconds,
    }


def run_strategy(recipe: dict[str, Any], run_dir: Path) -> Mapping[str, Any]:
    """Leads one strategy through the sequence with one seed (a job of a lab); goes on after the last finished stage."""
    row, settings, seed = recipe["row"], recipe["settings"], recipe["seed"]
    mine = {"name": "experiment", "strategies": {row: settings}, "seeds": [seed]}
    plan = Plan.of({**recipe["experiment"], **mine})
    whole, folder = plan.recipe, plan.base_folder(run_dir.parents[3], seed)
    model, tokenizer = load_base(folder, torch.float32)
    domains = [base_domain(whole, folder, tokenizer, seed), *make_domains(whole, tokenizer, folder, seed)]
    kind, parsed = read_settings(row, settings)
    train = dataclasses.replace(whole.train, **_budget(parsed.train))
    model.to(join(train.device).device)
    strategy = kind(Setup(model, tokenizer, train, whole.adapter, seed, whole.seq_len), parsed)
    write_json(run_dir / "environment.json", environment())
    try:
        journey = Journey(strategy, domains, train, DTYPES[whole.eval_dtype], run_dir / "stages", seed)
        record = journey.run()
    except Diverged as e:
        return {"status": "diverged", "reason": str(e)}
    shutil.rmtree(run_dir / "stages", ignore_errors=True)
    return {"metrics": {}, "parameters": sum(p.numel() for p in model.parameters()), **record}


def _budget(changes: Mapping[str, Any]) -> dict[str, Any]:
    """A strategy's changes to the training; a budget among them takes the place of the recipe's."""
    budgets = ("steps", "tokens", "seconds")
    return {**(dict.fromkeys(budgets) if any(b in changes for b in budgets) else {}), **changes}


class Journey:
    """A strategy on its way through the stages, with what was measured so far."""

    def __init__(
        self,
        strategy: Strategy,
        domains: list[Domain],
        train: TrainConfig,
        eval_dtype: torch.dtype,
        folder: Path | None,
        seed: int,
    ) -> None:
        """`domains`: the base's first. `folder`: where finished stages are kept; None: nowhere."""
        self.strategy, self.domains, self.train, self.eval_dtype = strategy, domains, train, eval_dtype
        self.folder, self.seed = folder, seed
        self.record: dict[str, Any] = {"values": {}, "stored": [], "stage_seconds": [], "cpu_seconds": [], "tokens": 0}

    def run(self) -> dict[str, Any]:
        """Does what stages are missing and returns the record:

        values[view][domain][metric][k]     what was measured after stage k; k = 0: of the base as it was given
        stored[k]                           bytes kept after stage k, by what they are for
        stage_seconds[k], cpu_seconds[k]    of stage k: training and what the strategy does around it, not measuring
        tokens, seconds                     of all training
        """
        for number in range(self._resume(), len(self.domains)):
            self._stage(number)
            self._save(number)
        return {**self.record, "seconds": sum(self.record["stage_seconds"])}

    def _stage(self, number: int) -> None:
        strategy, domain = self.strategy, self.domains[number]
        seed = int(random_bits(self.seed, np.array([number]))[0] >> np.uint64(33))
        steps = {} if domain.steps is None else _budget({"steps": domain.steps})
        stage = Stage(number, domain, self.domains[:number], dataclasses.replace(self.train, seed=seed, **steps))
        if not number:
            self._measure()  # before a strategy prepares its base: what that costs counts as forgetting
        wall, cpu = time.monotonic(), time.process_time()
        if domain.source is not None and (number or strategy.prepares_base):
            strategy.start_stage(stage)
            config, batches = strategy.train_config(stage), strategy.batches(stage)
            objective, hooks = strategy.objective(stage), strategy.hooks(stage)
            trainer = Trainer(strategy.model, objective, batches, config, hooks=hooks, title=domain.name, quiet=True)
            self.record["tokens"] += trainer.fit().tokens
        strategy.model.eval()
        strategy.end_stage(stage)
        self.record["stage_seconds"].append(round(time.monotonic() - wall, 3))
        self.record["cpu_seconds"].append(round(time.process_time() - cpu, 3))
        self.record["stored"].append(strategy.stored())
        if number:
            self._measure()

    def _measure(self) -> None:
        self.strategy.model.eval()
        with WeightCopies(self.strategy.model, self.eval_dtype).lent():
            for view in self.strategy.views:
                for domain in self.domains:
                    found = domain.evaluate(partial(self.strategy.ask, view, domain.name))
                    rows = self.record["values"].setdefault(view, {}).setdefault(domain.name, {})
                    for metric, value in found.items():
                        rows.setdefault(metric, []).append(value)

    def _resume(self) -> int:
        """Brings all to the state after the newest finished stage; returns the number of the next one."""
        if self.folder is None:
            return 0
        checkpoint, damaged = latest_checkpoint(self.folder)
        set_aside(damaged)
        if checkpoint is None:
            return 0
        self.strategy.load_state_dict(unpack(checkpoint.state["strategy"], checkpoint.tensors("strategy")))
        self.record = checkpoint.state["record"]
        return int(checkpoint.state["stage"]) + 1

    def _save(self, number: int) -> None:
        if self.folder is None:
            return
        tensors: dict[str, torch.Tensor] = {}
        state = {"stage": number, "record": self.record, "strategy": pack(self.strategy.state_dict(), tensors)}
        cpu = {name: tensor.cpu() for name, tensor in tensors.items()}
        write_checkpoint(step_folder(self.folder, number), {"strategy": cpu}, state)
        prune(self.folder, 1, set())
