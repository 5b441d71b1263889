"""What a strategy is: its batches, its objective and its hooks for the one trainer, and how its model is asked.

A stage is: `start_stage`, then the trainer with `batches`, `objective` and `hooks`, then `end_stage`. Stage 0 is the
base's: it has been trained already, the same for all strategies, so that only `end_stage` is called for it (and for a
strategy that prepares its base, the whole stage). A strategy is built over the base's weights; `load_state_dict` brings it
to where it was after any stage.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from nanohydra.adapt.config import AdapterConfig
from nanohydra.continual.domains import Domain
from nanohydra.continual.learner import Learner
from nanohydra.continual.strategies import STRATEGIES
from nanohydra.data.batch import BatchSource
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError, did_you_mean
from nanohydra.model.transformer import Transformer
from nanohydra.strict import build, check_keys
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import Objective, next_token
from nanohydra.train.precision import resolve_dtype


@dataclass(frozen=True)
class Settings:
    """What every strategy can be told."""

    strategy: str = ""
    """Which strategy the row is of, where that is not the row's name."""

    train: dict[str, Any] = field(default_factory=dict)
    """Changes to a stage's training, such as {lr: 0.003}."""

    adapter: bool = False
    """Train one adapter over the frozen base instead of all weights (for strategies that do not bring their own)."""

    adapters: dict[str, Any] = field(default_factory=dict)
    """Changes to the recipe's adapter, such as {rank: 32, alpha: 64} or {target_modules: [q_proj, v_proj]}."""


@dataclass(frozen=True)
class Setup:
    """What a strategy is built over."""

    model: Transformer
    """The base, in fp32."""
    tokenizer: Tokenizer
    train: TrainConfig
    """A stage's training, with the strategy's changes."""
    adapter: AdapterConfig
    seed: int
    seq_len: int


@dataclass(frozen=True)
class Stage:
    """One stage of the sequence."""

    number: int
    """0: the base's."""
    domain: Domain
    earlier: Sequence[Domain]
    """The domains before it, the base's first."""
    train: TrainConfig
    """How this stage is trained (its seed is the stage's own)."""


class Strategy:
    """The least of a strategy: fine-tuning on each domain as it comes. Others override what they do differently."""

    settings_class: ClassVar[type[Settings]] = Settings
    prepares_base: ClassVar[bool] = False
    """Whether stage 0 is a training too, on the base's text."""
    views: tuple[str, ...] = ("",)
    """Ways of asking the same weights, each a row of the table: "" for the only one."""

    def __init__(self, setup: Setup, settings: Settings) -> None:
        self.setup = setup
        self.settings = settings
        self.model = setup.model
        self.learner = Learner(setup.model, self.adapter_config if settings.adapter else None, setup.seed)

    @property
    def adapter_config(self) -> AdapterConfig:
        """The adapters' kind, with the strategy's changes."""
        given = self.settings.adapters.items()
        changes: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in given}
        return dataclasses.replace(self.setup.adapter, **changes)

    @property
    def dtype(self) -> torch.dtype:
        """What the trainer computes in."""
        return resolve_dtype(self.setup.train.dtype, next(self.model.parameters()).device)

    # ---- training

    def start_stage(self, stage: Stage) -> None:
        """Before a stage's training."""

    def batches(self, stage: Stage) -> BatchSource:
        """What the stage is trained on."""
        assert stage.domain.source is not None
        return stage.domain.source

    def train_config(self, stage: Stage) -> TrainConfig:
        """How long and how the stage is trained."""
        return stage.train

    def objective(self, stage: Stage) -> Objective:
        """What is minimised."""
        return next_token

    def hooks(self, stage: Stage) -> Sequence[Hook]:
        """What else happens in each step."""
        return ()

    def end_stage(self, stage: Stage) -> None:
        """After a stage's training: what must be kept of it is gathered here."""

    # ---- being asked

    def route(self, view: str, domain: str, prompts: Sequence[Sequence[int]]) -> Sequence[Hashable]:
        """For each prompt which way through the model it takes. `domain` is for the oracle's views only."""
        return [None] * len(prompts)

    @contextmanager
    def using(self, route: Hashable) -> Iterator[Transformer]:
        """The model as it answers what took this route."""
        yield self.model

    def ask(self, view: str, domain: str, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Transformer]]:
        """The prompts' numbers, grouped by route, each group with its model (see `domains.Asked`)."""
        routes = self.route(view, domain, prompts)
        for route in dict.fromkeys(routes):
            with self.using(route) as model:
                yield [i for i, own in enumerate(routes) if own == route], model

    # ---- what it costs and how it is kept

    def stored(self) -> dict[str, int]:
        """Bytes kept from stage to stage beside one model of the base's size, by what they are for."""
        adapters = self.learner.adapters
        return (
            {"adapters": sum(p.numel() * p.element_size() for p in self.learner.trained.values())} if adapters else {}
        )

    def state_dict(self) -> dict[str, Any]:
        """All that later stages and answers need: a tree of dicts and lists with tensors, numbers, text."""
        return {"learner": self.learner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.learner.load_state_dict(state["learner"])


def strategy_class(name: str) -> type[Strategy]:
    """The strategy of a name. Raises UserError for an unknown one."""
    if name not in STRATEGIES:
        raise UserError(f'There is no strategy "{name}".{did_you_mean(name, STRATEGIES)}')
    module, _, class_name = STRATEGIES[name].partition(":")
    found: type[Strategy] = getattr(importlib.import_module(f"{STRATEGIES_PACKAGE}.{module}"), class_name)
    return found


STRATEGIES_PACKAGE = "nanohydra.continual.strategies"


def read_settings(row: str, values: Mapping[str, Any]) -> tuple[type[Strategy], Settings]:
    """The strategy of a row of the recipe and its settings. Raises UserError for what is unknown or wrong."""
    kind = strategy_class(str(values.get("strategy") or row))
    where = f"strategies.{row}"
    check_keys(TrainConfig, values.get("train") or {}, f"{where}.train")
    check_keys(AdapterConfig, values.get("adapters") or {}, f"{where}.adapters")
    return kind, build(kind.settings_class, values, where=where, what=where)
