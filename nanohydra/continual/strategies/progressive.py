"""Progressive networks: every domain gets a new column, which reads the frozen base and all earlier columns.

    h_l^(k) = f_l( h_{l-1}^(k) + sum_{j < k} U_l^(k:j) h_{l-1}^(j) ),   only column k is trained in stage k

Rusu et al. 2016 (arXiv 1606.04671). Column 0 is the base. A column is a narrower transformer of as many blocks (see
`columns`); its output is added to the base's last hidden state, which stands for the lateral connection into the last
layer. Nothing is forgotten; somebody must say which domain a prompt is of, and size and time grow with every domain.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from nanohydra.continual.columns import Columns
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.errors import UserError
from nanohydra.model.transformer import Transformer


@dataclass(frozen=True)
class ProgressiveSettings(Settings):
    """How large a column is."""

    width: float = 0.5
    """Width of a column as a share of the base's."""


class Progressive(Strategy):
    """Columns, one a domain."""

    settings_class: ClassVar[type[Settings]] = ProgressiveSettings
    settings: ProgressiveSettings

    def __init__(self, setup: Setup, settings: ProgressiveSettings) -> None:
        super().__init__(setup, settings)
        if settings.adapter or setup.model.config.norm_position != "pre":
            raise UserError("progressive trains columns of its own, over a base with norm_position: pre.")
        self.model.requires_grad_(False)
        self.columns = Columns(setup.model)
        self.domains: list[str] = []

    @property
    def _width(self) -> int:
        return max(8, round(self.settings.width * self.setup.model.model.config.hidden_size / 8) * 8)

    def start_stage(self, stage: Stage) -> None:
        self.columns.grow(self._width, stage.train.seed)
        self.columns.switch(len(self.domains) + 1)

    def end_stage(self, stage: Stage) -> None:
        self.columns.switch(0)
        if stage.number:
            self.columns.requires_grad_(False)
            self.domains.append(stage.domain.name)

    def route(self, view: str, domain: str, prompts: Sequence[Sequence[int]]) -> Sequence[int]:
        number = self.domains.index(domain) + 1 if domain in self.domains else 0
        return [number] * len(prompts)

    @contextmanager
    def using(self, route: Hashable) -> Iterator[Transformer]:
        assert isinstance(route, int)
        with self.columns.using(route) as model:
            yield model

    def stored(self) -> dict[str, int]:
        return {"columns": sum(p.numel() * p.element_size() for p in self.columns.parameters())}

    def state_dict(self) -> dict[str, Any]:
        return {"domains": self.domains, "columns": dict(self.columns.named_parameters())}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.domains = list(state["domains"])
        for _ in self.domains:
            self.columns.grow(self._width, 0)
        for name, p in self.columns.named_parameters():
            p.copy_(state["columns"][name])
        self.columns.requires_grad_(False)
