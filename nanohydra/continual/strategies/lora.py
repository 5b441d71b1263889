"""One LoRA adapter for each domain over the frozen base: nothing can be forgotten, if the right one is chosen.

    W_k = W + s B_k A_k,   only A_k and B_k are trained in stage k

Hu et al. 2021 (arXiv 2106.09685). Who chooses is a view of the same adapters, each a row of the table:

oracle          somebody says which domain a prompt is from (the base's: no adapter)
perplexity      the adapter, or none, that finds the prompt likeliest
centroid        the nearest domain by the base's hidden states (see `router`)
linear, ties, dare_ties, ...   no choice: all adapters merged into one (see `adapt.merging`)
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from nanohydra.adapt.adapter import Adapter
from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.merging import METHODS, combine
from nanohydra.continual.router import CentroidRouter, by_perplexity
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.errors import UserError, did_you_mean
from nanohydra.model.transformer import Transformer

ROUTED = ("oracle", "perplexity", "centroid")


@dataclass(frozen=True)
class LoRASettings(Settings):
    """Who chooses the adapter, and how merges are made."""

    views: tuple[str, ...] = (*ROUTED, "linear", "ties", "dare_ties")
    """The rows: oracle, perplexity, centroid, and merges by their names in adapt.merging."""

    merge_weights: dict[str, float] | None = None
    """For each merge the weight of every adapter; by default 1 / number of adapters for linear (the mean), else 1."""

    density: float = 0.5
    """Share of values that TIES and DARE keep."""

    router_rows: int = 128
    """Rows of a domain that the centroid router learns from."""


class LoRAPerTask(Strategy):
    """Adapters named after their domains."""

    settings_class: ClassVar[type[Settings]] = LoRASettings
    settings: LoRASettings

    def __init__(self, setup: Setup, settings: LoRASettings) -> None:
        super().__init__(setup, settings)
        known = (*ROUTED, *METHODS)
        for view in settings.views:
            if view not in known:
                raise UserError(f'lora: there is no view "{view}".{did_you_mean(view, known)}')
        if settings.adapter:
            raise UserError("lora brings its own adapters: leave the setting adapter out.")
        self.views = settings.views
        self.adapters = Adapters(setup.model)
        self.router = CentroidRouter()
        self.base_name: str | None = None
        self.domains: list[str] = []

    def start_stage(self, stage: Stage) -> None:
        name = stage.domain.name
        self.adapters.create(name, self.adapter_config, seed=stage.train.seed)
        self.adapters.select(name)

    def end_stage(self, stage: Stage) -> None:
        name, source = stage.domain.name, stage.domain.source
        self.adapters.select(None)
        if stage.number:
            self.adapters.freeze(name)
            self.domains.append(name)
        else:
            self.base_name = name
        if source is not None and "centroid" in self.views:
            rows = np.arange(min(self.settings.router_rows, stage.domain.rows), dtype=np.int64)
            self.router.learn(name, self.model, source.take(rows))
        self._merge()

    def _merge(self) -> None:
        """Merges anew all adapters that there are."""
        for view in self.views:
            if view not in METHODS or not self.domains:
                continue
            if f"merged-{view}" in self.adapters.names:
                self.adapters.remove(f"merged-{view}")
            weight = (self.settings.merge_weights or {}).get(
                view, 1 / len(self.domains) if view in ("linear", "svd") else 1.0
            )
            parts: list[Adapter] = [self.adapters[name] for name in self.domains]
            generator = torch.Generator().manual_seed(self.setup.seed)
            merged = combine(parts, [weight] * len(parts), view, self.settings.density, generator=generator)
            self.adapters.add(f"merged-{view}", merged)

    def route(self, view: str, domain: str, prompts: Sequence[Sequence[int]]) -> Sequence[str | None]:
        if view == "perplexity":
            return by_perplexity([None, *self.domains], prompts, self.using)
        if view == "centroid" and self.router.means:
            found = self.router.route(self.model, prompts)
            return [name if name in self.domains else None for name in found]
        if view in METHODS and self.domains:
            return [f"merged-{view}"] * len(prompts)
        return [domain if domain in self.domains and view == "oracle" else None] * len(prompts)

    @contextmanager
    def using(self, route: Hashable) -> Iterator[Transformer]:
        assert route is None or isinstance(route, str)
        with self.adapters.using(route):
            yield self.model

    def stored(self) -> dict[str, int]:
        adapters = sum(p.numel() * p.element_size() for name in self.domains for p in self.adapters[name].parameters())
        return {"adapters": adapters, "router": self.router.nbytes}

    def state_dict(self) -> dict[str, Any]:
        adapters = {name: dict(self.adapters[name].named_parameters()) for name in self.domains}
        return {"adapters": adapters, "router": self.router.state_dict(), "base_name": self.base_name}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.base_name = state["base_name"]
        self.router.load_state_dict(state["router"])
        load_adapters(self.adapters, self.adapter_config, state["adapters"])
        self.domains = list(state["adapters"])
        self._merge()


@torch.no_grad()
def load_adapters(adapters: Adapters, config: Any, state: dict[str, dict[str, torch.Tensor]]) -> None:
    """Attaches frozen adapters with these tensors, by name."""
    for name, tensors in state.items():
        for key, p in adapters.create(name, config).named_parameters():
            p.copy_(tensors[key])
        adapters.freeze(name)
