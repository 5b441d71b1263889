"""PackNet: each domain gets the weights that the ones before it could do without, and is asked with its own mask.

    stage k:   train the free weights; prune the smallest share of them to 0 (free again); train those that stay
    domain j:  W * [owner <= j],  owner[i] = the stage that keeps weight i

Mallya and Lazebnik 2018 (arXiv 1711.05769). The base is pruned first, on its own text. What is not a matrix of the
blocks (embeddings, norms, biases) belongs to the base, as in the paper. Somebody must say which domain a prompt is of.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nanohydra.continual.masks import Held
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer
from nanohydra.train.hooks import Hook
from nanohydra.train.trainer import Trainer

FREE = 255
"""The owner of a weight that no domain has kept."""


@dataclass(frozen=True)
class PackNetSettings(Settings):
    """How much is freed."""

    base_share: float = 0.5
    """Share of the base's weights that is pruned for the domains to come."""

    share: float = 0.75
    """Share of a domain's weights that is pruned again for the next ones."""

    prune_at: float = 0.5
    """At which part of a stage it is pruned; the rest trains what stays."""

    def __post_init__(self) -> None:
        for name in ("base_share", "share", "prune_at"):
            if not 0 < getattr(self, name) < 1:
                raise UserError(f"packnet.{name} is a share between 0 and 1, not {getattr(self, name)}.")


class Prune(Held):
    """Holds what belongs to earlier domains; at the given step prunes what was trained and goes on with what stays."""

    def __init__(self, owners: dict[str, Tensor], number: int, share: float, step: int) -> None:
        super().__init__({name: owner != FREE for name, owner in owners.items()})
        self.owners, self.number, self.share, self.step = owners, number, share, step

    @torch.no_grad()
    def before_step(self, trainer: Trainer) -> None:
        if trainer.step != self.step:
            return
        for name, owner in self.owners.items():
            p = trainer.parameters[name]
            mine = owner == FREE
            size = p.detach().abs().masked_fill(~mine, -1.0)
            kept = round((1 - self.share) * int(mine.sum()))
            if kept:
                top = size.flatten().topk(kept).indices
                owner.view(-1)[top] = self.number
            p.masked_fill_(owner == FREE, 0.0)
        self.hold(trainer, {name: owner != self.number for name, owner in self.owners.items()})


class PackNet(Strategy):
    """Trains all weights of the blocks' matrices under masks."""

    settings_class: ClassVar[type[Settings]] = PackNetSettings
    settings: PackNetSettings
    prepares_base: ClassVar[bool] = True

    def __init__(self, setup: Setup, settings: PackNetSettings) -> None:
        super().__init__(setup, settings)
        if settings.adapter:
            raise UserError("packnet prunes the base's weights: leave the setting adapter out.")
        linears = (f"{path}.weight" for path, m in self.model.named_modules() if isinstance(m, nn.Linear))
        parameters = dict(self.model.named_parameters())
        self.packed = {name: parameters[name] for name in linears if name in parameters and ".layers." in name}
        self.owners = {name: torch.full_like(p, FREE, dtype=torch.uint8) for name, p in self.packed.items()}
        self.numbers: dict[str, int] = {}

    def start_stage(self, stage: Stage) -> None:
        if stage.number:
            self.model.requires_grad_(False)
            for p in self.packed.values():
                p.requires_grad_(True)

    def hooks(self, stage: Stage) -> Sequence[Hook]:
        if stage.train.steps is None:
            raise UserError("packnet prunes at a step of the stage: set train.steps.")
        share = self.settings.share if stage.number else self.settings.base_share
        return (Prune(self.owners, stage.number, share, round(self.settings.prune_at * stage.train.steps)),)

    def end_stage(self, stage: Stage) -> None:
        self.numbers[stage.domain.name] = stage.number

    def route(self, view: str, domain: str, prompts: Sequence[Sequence[int]]) -> Sequence[int | None]:
        latest = max(self.numbers.values(), default=None)
        return [self.numbers.get(domain, latest)] * len(prompts)

    @contextmanager
    def using(self, route: Hashable) -> Iterator[Transformer]:
        if not isinstance(route, int):  # nothing was pruned yet
            yield self.model
            return
        weights = {name: self.model.get_parameter(name) for name in self.packed}
        whole = {name: p.data for name, p in weights.items()}
        for name, p in weights.items():
            p.data = p.data.masked_fill(self.owners[name] > route, 0.0)
        try:
            yield self.model
        finally:
            for name, p in weights.items():
                p.data = whole[name]

    def stored(self) -> dict[str, int]:
        return {"masks": sum(owner.numel() for owner in self.owners.values())}

    def state_dict(self) -> dict[str, Any]:
        weights = {name: p.detach() for name, p in self.model.named_parameters()}
        return {"weights": weights, "owners": self.owners, "numbers": self.numbers}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, p in self.model.named_parameters():
            p.copy_(state["weights"][name])
        for name, owner in self.owners.items():
            owner.copy_(state["owners"][name])
        self.numbers = {name: int(number) for name, number in state["numbers"].items()}
