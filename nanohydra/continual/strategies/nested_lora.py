"""Nested LoRA: each domain's adapter is trained on top of all earlier ones, which are frozen.

    W_k = W + s B_1 A_1 + ... + s B_k A_k,   only A_k and B_k are trained in stage k

A later domain builds on what the earlier adapters know (they are part of what it learns to correct). Two views:

all       the whole stack for everything: nobody chooses, and what later adapters change for earlier domains is lost
oracle    for each domain the stack as it was after its stage: nothing is lost, but somebody must choose
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from nanohydra.adapt.attach import Adapters
from nanohydra.continual.strategies.lora import load_adapters
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer


class NestedLoRA(Strategy):
    """A growing stack of adapters named after their domains."""

    views: tuple[str, ...] = ("all", "oracle")

    def __init__(self, setup: Setup, settings: Settings) -> None:
        super().__init__(setup, settings)
        if settings.adapter:
            raise UserError("This strategy brings its own adapters: leave the setting adapter out.")
        self.adapters = Adapters(setup.model)

    @property
    def stack(self) -> list[str]:
        """The domains' adapters, the lowest first."""
        return self.adapters.names

    def start_stage(self, stage: Stage) -> None:
        self.adapters.create(stage.domain.name, self.adapter_config, seed=stage.train.seed)
        self.adapters.select(self.stack)

    def end_stage(self, stage: Stage) -> None:
        self.adapters.select(None)
        if stage.number:
            self.adapters.freeze(stage.domain.name)

    def route(self, view: str, domain: str, prompts: Sequence[Sequence[int]]) -> Sequence[int]:
        height = len(self.stack)
        if view == "oracle":
            height = self.stack.index(domain) + 1 if domain in self.stack else 0
        return [height] * len(prompts)

    @contextmanager
    def using(self, route: Hashable) -> Iterator[Transformer]:
        assert isinstance(route, int)
        with self.adapters.using(self.stack[:route]):
            yield self.model

    def stored(self) -> dict[str, int]:
        return {"adapters": sum(p.numel() * p.element_size() for p in self.adapters.parameters())}

    def state_dict(self) -> dict[str, Any]:
        return {"adapters": {name: dict(self.adapters[name].named_parameters()) for name in self.stack}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_adapters(self.adapters, self.adapter_config, state["adapters"])
