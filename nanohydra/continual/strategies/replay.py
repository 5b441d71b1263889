"""Rehearsal of stored rows: a share of every batch comes from a buffer of earlier domains with a budget in bytes.

    L = (1 - s) E_new[loss] + s E_memory[loss]

Robins 1995, "Catastrophic forgetting, rehearsal and pseudorehearsal"; reservoir sampling as in Chaudhry et al., "On tiny
episodic memories in continual learning" (arXiv 1902.10486). The batch stays as large as without replay, so a step
costs the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nanohydra.continual.memory import Memory, Policy, Rehearsed
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.data.batch import BatchSource
from nanohydra.errors import UserError


@dataclass(frozen=True)
class ReplaySettings(Settings):
    """The buffer and how much of it each batch has."""

    share: float = 0.5
    """Share of each batch's rows that come from the buffer."""

    bytes: int = 500_000
    """Most bytes of stored rows, over all domains."""

    policy: Policy = "balanced"
    """balanced: equal room for every domain. reservoir: a uniform sample of all rows met, whatever their domain."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise UserError(f"share is the part of a batch that is replayed, between 0 and 1, not {self.share}.")


class Replay(Strategy):
    """Fills the buffer at the end of each stage."""

    settings_class: ClassVar[type[Settings]] = ReplaySettings
    settings: ReplaySettings

    def __init__(self, setup: Setup, settings: ReplaySettings) -> None:
        super().__init__(setup, settings)
        vocabulary, rows = setup.model.config.vocab_size, setup.train.batch_size
        self.memory = Memory(settings.bytes, settings.policy, vocabulary, rows, setup.seq_len, setup.seed)

    def batches(self, stage: Stage) -> BatchSource:
        new = super().batches(stage)
        if not len(self.memory):  # nothing was met before: a base that brings no text
            return new
        assert stage.domain.source is not None
        return Rehearsed(stage.domain.source, self.memory, self.settings.share, stage.train.batch_size)

    def end_stage(self, stage: Stage) -> None:
        if stage.domain.source is not None:
            self.memory.add(stage.domain.name, stage.domain.source, stage.domain.rows)

    def stored(self) -> dict[str, int]:
        return {**super().stored(), "buffer": self.memory.nbytes}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
