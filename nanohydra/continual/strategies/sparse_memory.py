"""Sparse memory fine-tuning (a research option): a large table beside one MLP, of which a domain trains few slots.

    y = MLP(x) + sum_{i in top-k} softmax_i(q(x) . K_i / tau) V_i
    trained in stage k:  V_i of the t slots with the highest  tf_i log( (N + 1) / (n_i + 1) )

tf_i: how often the new domain reads slot i; n_i of N: how many rows of the earlier domains read it. Slots that the old
text reads are left alone, so what they say stays. Lin et al. 2025, "Continual learning via sparse memory finetuning"
(arXiv 2510.15103); the memory layer is that of Berges et al. 2024 (arXiv 2412.09764), simplified: the keys are hidden
states of the base and are not trained, and there is one flat table instead of product keys. V begins at 0: the base is
as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nanohydra.continual.masks import Held
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.train.hooks import Hook


@dataclass(frozen=True)
class SparseMemorySettings(Settings):
    """The table and how much of it a domain may write."""

    slots: int = 4096
    """Rows of the table."""

    slots_a_domain: int = 512
    """t: rows that one domain trains."""

    top: int = 16
    """k: rows that are read at a place."""

    tau: float = 0.1
    """Temperature of the reading; scores are cosines."""

    layer: int = -2
    """The block beside whose MLP the table stands; negative: counted from the last."""

    rows: int = 128
    """Rows of a domain by which its reading is counted."""


class Table(nn.Module):
    """A memory layer beside an MLP: reads what the MLP reads, adds to what it says."""

    mean: Tensor
    keys: Tensor

    def __init__(self, slots: int, width: int, top: int, tau: float) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("keys", torch.zeros(slots, width))
        self.values = nn.Parameter(torch.zeros(slots, width))
        self.top, self.tau = top, tau
        self.read: list[Tensor] | None = None
        """While counting: the slots read in each call."""

    def forward(self, mlp: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        """The forward hook of the MLP."""
        x = F.normalize(args[0].float() - self.mean, dim=-1)
        scores, slots = (x @ self.keys.T).topk(self.top, dim=-1)
        if self.read is not None:
            self.read.append(slots)
        weights = F.softmax(scores / self.tau, -1)
        said = (weights[..., None] * F.embedding(slots, self.values)).sum(-2)
        return output + said.to(output.dtype)


class SparseMemory(Strategy):
    """Trains the values of the table alone."""

    settings_class: ClassVar[type[Settings]] = SparseMemorySettings
    settings: SparseMemorySettings

    def __init__(self, setup: Setup, settings: SparseMemorySettings) -> None:
        super().__init__(setup, settings)
        if settings.adapter or settings.slots_a_domain > settings.slots:
            raise UserError("sparse_memory trains a table of its own: no adapter, and slots_a_domain at most slots.")
        layers = self.model.model.layers
        if not -len(layers) <= settings.layer < len(layers):
            raise UserError(f"sparse_memory.layer is {settings.layer}: the base has {len(layers)} blocks.")
        self.model.requires_grad_(False)
        self.mlp: nn.Module = layers[settings.layer].mlp  # type: ignore[assignment]
        self.table = Table(settings.slots, self.model.config.hidden_size, settings.top, settings.tau)
        self.model.add_module("memory", self.table.to(next(self.model.parameters()).device))
        self.mlp.register_forward_hook(self.table)
        self.rows_met = 0
        self.rows_reading = torch.zeros(settings.slots)
        """For each slot by how many rows of the domains so far it was read."""
        self.chosen = torch.zeros(settings.slots, dtype=torch.bool)

    def start_stage(self, stage: Stage) -> None:
        if not self.rows_met:  # a base without text: the first domain's hidden states are the keys
            self._make_keys(stage)
        counts = self._count(stage)
        frequency = counts.sum(0) / counts.sum()
        rarity = torch.log((self.rows_met + 1) / (self.rows_reading + 1))
        best = (frequency * rarity).topk(self.settings.slots_a_domain).indices
        self.chosen = torch.zeros(self.settings.slots, dtype=torch.bool)
        self.chosen[best] = True

    def hooks(self, stage: Stage) -> Sequence[Hook]:
        device = self.table.values.device
        return (Held({"memory.values": ~self.chosen.to(device)[:, None]}),)

    def end_stage(self, stage: Stage) -> None:
        if stage.domain.source is None:
            return
        if not stage.number:
            self._make_keys(stage)
        counts = self._count(stage)
        self.rows_met += len(counts)
        self.rows_reading += (counts > 0).sum(0)

    def _sample(self, stage: Stage) -> Batch:
        assert stage.domain.source is not None
        rows = np.arange(min(self.settings.rows, stage.domain.rows), dtype=np.int64)
        return stage.domain.source.take(rows).to(self.table.values.device)

    @torch.no_grad()
    def _make_keys(self, stage: Stage) -> None:
        """Hidden states at random places of the domain's rows."""
        inputs: list[Tensor] = []
        handle = self.mlp.register_forward_hook(lambda module, args, output: inputs.append(args[0].float()))
        try:
            self._forward(self._sample(stage))
        finally:
            handle.remove()
        states = torch.cat([x.flatten(0, 1) for x in inputs])
        generator = torch.Generator().manual_seed(self.setup.seed)
        places = torch.randint(len(states), (self.settings.slots,), generator=generator)
        self.table.mean.copy_(states.mean(0))
        self.table.keys.copy_(F.normalize(states[places.to(states.device)] - self.table.mean, dim=-1))

    @torch.no_grad()
    def _count(self, stage: Stage) -> Tensor:
        """(rows, slots): how often each of the domain's rows reads each slot."""
        self.table.read = []
        self._forward(self._sample(stage))
        slots, self.table.read = torch.cat([s.flatten(1) for s in self.table.read]).cpu(), None
        counts = torch.zeros(len(slots), self.settings.slots)
        return counts.scatter_add_(1, slots, torch.ones(slots.shape))

    def _forward(self, batch: Batch) -> None:
        for start in range(0, len(batch.input_ids), 16):
            part = batch.rows(start, start + 16)
            self.model.hidden(part.input_ids, positions=part.positions, segment_ids=part.segment_ids)

    def stored(self) -> dict[str, int]:
        table = sum(t.numel() * t.element_size() for t in (self.table.mean, self.table.keys, self.table.values))
        return {"table": table, "counts": 4 * self.settings.slots}

    def state_dict(self) -> dict[str, Any]:
        return {"table": self.table.state_dict(), "rows_met": self.rows_met, "rows_reading": self.rows_reading}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.table.load_state_dict(state["table"])
        self.rows_met, self.rows_reading = int(state["rows_met"]), state["rows_reading"]
