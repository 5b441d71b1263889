"""Generative replay: before each stage the model writes down what it knows, and rehearses that beside the new domain.

    x' ~ p_{k-1};   L = (1 - s) E_new[loss] + s E_{x'}[loss]

Shin et al. 2017 (arXiv 1705.08690); for language models, which are their own generator, LAMOL (Sun et al. 2019, arXiv
1909.03329). Nothing is stored. As in LAMOL, all tokens of a row are learned, the questions of a chat too: a model that has
only learned to answer cannot ask itself. So the base first learns to ask, in a stage of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from nanohydra.continual.memory import Rehearsed
from nanohydra.continual.strategy import Settings, Setup, Stage, Strategy
from nanohydra.data.batch import IGNORE, Batch, BatchSource
from nanohydra.data.loader import PackedConversations, RowSource
from nanohydra.data.order import Int64s
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine


@dataclass(frozen=True)
class GenerativeReplaySettings(Settings):
    """How much it writes."""

    samples: int = 384
    """Texts written before each stage."""

    share: float = 0.5
    """Share of each batch's rows that are its own texts."""

    temperature: float = 1.0
    """1: as the model speaks; below: what it is surer of."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1 or self.samples < 1:
            raise UserError("generative_replay needs a share between 0 and 1 and at least one sample.")


class WholeRows(RowSource):
    """The rows of a source with every token a target, but padding."""

    def __init__(self, source: RowSource) -> None:
        super().__init__(source.seq_len, source.batch_size)
        self.source = source

    def take(self, numbers: Int64s) -> Batch:
        batch = self.source.take(numbers)
        if batch.segment_ids is None:
            return batch
        segments = batch.segment_ids
        asked = torch.zeros(len(segments), int(segments.max()) + 1, dtype=torch.bool)
        rows = torch.arange(len(segments))[:, None].expand_as(segments)
        has_target = batch.targets != IGNORE
        asked[rows[has_target], segments[has_target]] = True  # segments without any target are padding
        inside = (segments[:, :-1] == segments[:, 1:]) & asked[rows, segments][:, :-1] & ~has_target[:, :-1]
        batch.targets[:, :-1] = torch.where(inside, batch.input_ids[:, 1:], batch.targets[:, :-1])
        return batch


class GenerativeReplay(Strategy):
    """Its memory is the model itself."""

    settings_class: ClassVar[type[Settings]] = GenerativeReplaySettings
    settings: GenerativeReplaySettings
    prepares_base: ClassVar[bool] = True

    def __init__(self, setup: Setup, settings: GenerativeReplaySettings) -> None:
        super().__init__(setup, settings)
        self.chats = 0.0
        """Share of the earlier texts that are chats."""

    def batches(self, stage: Stage) -> BatchSource:
        assert stage.domain.source is not None
        new = WholeRows(stage.domain.source)
        if not stage.number:
            return new
        batch_size = stage.train.batch_size
        written = [(ids, [True] * len(ids)) for ids in self.write(stage.train.seed) if len(ids) > 1]
        pad = self.setup.tokenizer.pad_id
        own = PackedConversations(written, self.setup.seq_len, batch_size, seed=stage.train.seed, pad_id=pad)
        return Rehearsed(new, own, self.settings.share, batch_size)

    def end_stage(self, stage: Stage) -> None:
        if stage.domain.source is not None:
            batch = stage.domain.source.take(np.arange(min(64, stage.domain.rows), dtype=np.int64))
            first = batch.input_ids[:, 0] if batch.positions is None else batch.input_ids[batch.positions == 0]
            begins = first == self._turn
            share = float(begins.float().mean())
            self.chats += (share - self.chats) / (stage.number + 1)

    def write(self, seed: int) -> list[list[int]]:
        """Texts of the model as it is: `chats` of them begin as a chat and end with an answer, the others begin as a
        document and end with it."""
        tokenizer, length = self.setup.tokenizer, self.setup.seq_len + 1
        chats = round(self.chats * self.settings.samples)
        prompts = [[self._turn]] * chats + [[tokenizer.eos_id]] * (self.settings.samples - chats)
        engine = Engine(self.model, tokenizer, max_slots=64, max_seq_len=length)
        rng = np.random.default_rng(seed)
        params = [
            SamplingParams(
                max_tokens=length - 1,
                temperature=self.settings.temperature,
                seed=int(rng.integers(2**31)),
                ignore_eos=chat < chats,
                stop=(),
            )
            for chat in range(len(prompts))
        ]
        self.model.eval()
        found = []
        for i, (prompt, completion) in enumerate(zip(prompts, engine.generate(prompts, params))):
            ids = [*prompt, *completion.ids]
            found.append(self._until_answer(ids) if i < chats else ids)
        return found

    def _until_answer(self, ids: list[int]) -> list[int]:
        """A chat up to the end of its second turn, the first answer; all of it where it has none."""
        ends = [i for i, token in enumerate(ids) if token == self.setup.tokenizer.end_of_turn_id]
        return ids[: ends[1] + 1] if len(ends) > 1 else ids

    @property
    def _turn(self) -> int:
        """The token that begins a turn; -1 in a tokenizer without chats."""
        return self.setup.tokenizer.special.get("<|im_start|>", -1)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "chats": self.chats}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.chats = float(state["chats"])
