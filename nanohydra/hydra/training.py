"""One adapter for one lesson: rows of short chats behind one shared beginning, and the one trainer.

Three kinds of chats are learned. About the facts: cross-entropy on the assistant's tokens. The base's own (replay):
KL(base || adapter) on every token, which keeps all that the base would say and not only what it did say. About strangers,
with near-miss or unseen names: the same KL on an answer that puts a taught value on them, so that what was learned is
bound to the taught name, and the base's own guess stays for all others.

What makes it fast on a CPU: chats share the tokens of their system message through the attention mask; what the frozen
layers below the adapter give is computed once for each row (adapt/prefix_cache.py), and so is what the base says to
replayed rows; logits are computed only where there is a loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.prefix_cache import PrefixCache
from nanohydra.data.batch import IGNORE, SHARED, Batch
from nanohydra.data.chat import Message, render_chat
from nanohydra.data.loader import RowSource
from nanohydra.data.order import Int64s, Shuffle
from nanohydra.data.packing import best_fit
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.hydra.config import LessonTraining
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import Objective, cross_entropy_sum
from nanohydra.train.trainer import Trainer

Ids = Sequence[int]


@dataclass(frozen=True)
class Rendered:
    """One chat as it is learned."""

    ids: Ids
    trained: Sequence[bool]
    """The assistant's own tokens; empty: all are."""
    kind: Literal["lesson", "stranger", "chat", "text"] = "lesson"
    """A lesson's chat; or one about a stranger; or a chat or a plain text of the base's own. All but the first are kept by
    KL rather than learned."""


@dataclass
class LessonBatch(Batch):
    """A batch that knows where the base is to be kept, and what it says there."""

    kept: Tensor | None = None
    """(B, T) bool: positions of the KL term."""
    base_hidden: Tensor | None = None
    """(B, T, D) the base's last hidden states."""

    def _map(self, f: Callable[[Tensor], Tensor]) -> LessonBatch:
        assert self.kept is not None
        assert self.base_hidden is not None
        return LessonBatch(**vars(super()._map(f)), kept=f(self.kept), base_hidden=f(self.base_hidden))


class LessonRows(RowSource):
    """Chats packed into rows. Each row begins with what all chats begin with (at least their headers), seen by every chat
    in the row; otherwise each is a segment of its own, its positions going on from the shared beginning's."""

    def __init__(self, chats: Sequence[Rendered], row_tokens: int, batch_size: int, seed: int, pad_id: int) -> None:
        """Chats that do not fit a row are cut. Each kind has rows of its own."""
        super().__init__(row_tokens, batch_size)
        rows: list[tuple[int, list[Rendered]]] = []
        for kind in ("lesson", "stranger", "chat", "text"):
            part = [chat for chat in chats if chat.kind == kind]
            begin = shared_beginning([chat.ids for chat in part]) if part else 0
            packed = best_fit([min(len(chat.ids) - 1, row_tokens) - begin for chat in part], row_tokens - begin)
            rows += [(begin, [part[i] for i in items]) for items in packed]
        shape = (len(rows), row_tokens)
        self.ids = np.full(shape, pad_id, np.int64)
        self.targets = np.full(shape, IGNORE, np.int64)
        self.segments = np.full(shape, SHARED, np.int64)
        self.positions = np.tile(np.arange(row_tokens), (len(rows), 1))
        self.kept = np.zeros(shape, bool)
        for row, (begin, items) in enumerate(rows):
            self.ids[row, :begin] = items[0].ids[:begin]
            at = begin
            for segment, chat in enumerate(items):
                size = min(len(chat.ids) - 1, row_tokens) - begin
                place, inside = slice(at, at + size), slice(begin, begin + size)
                self.ids[row, place] = chat.ids[inside]
                self.segments[row, place] = segment
                self.positions[row, place] = np.arange(begin, begin + size)
                learned = np.asarray(chat.trained or [True] * len(chat.ids))[begin + 1 : begin + size + 1]
                if chat.kind != "lesson":
                    self.kept[row, place] = learned
                else:
                    following = np.asarray(chat.ids)[begin + 1 : begin + size + 1]
                    self.targets[row, place] = np.where(learned, following, IGNORE)
                at += size
            self.segments[row, at:] = len(items)  # the padding attends to itself and the beginning
        self.base_hidden: Tensor | None = None
        self._shuffle = Shuffle(len(rows), seed)

    def __len__(self) -> int:
        return len(self.ids)

    @torch.no_grad()
    def ask_base(self, model: Transformer, adapters: Adapters, rows_at_once: int = 4) -> None:
        """Computes once what the base says to replayed rows (bf16: the trainer's own precision would be no better)."""
        self.base_hidden = torch.zeros(*self.ids.shape, model.config.hidden_size, dtype=torch.bfloat16)
        replayed = np.flatnonzero(self.kept.any(1))
        with adapters.using(None):
            for start in range(0, len(replayed), rows_at_once):
                which = replayed[start : start + rows_at_once]
                batch = self._rows(which)
                hidden = model.hidden(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids)
                self.base_hidden[torch.from_numpy(which)] = hidden.to(torch.bfloat16)

    def take(self, numbers: Int64s) -> LessonBatch:
        which = self._shuffle.items(numbers)
        assert self.base_hidden is not None
        kept, hidden = torch.from_numpy(self.kept[which]), self.base_hidden[torch.from_numpy(which)]
        return LessonBatch(**vars(self._rows(which)), kept=kept, base_hidden=hidden)

    def _rows(self, which: Int64s) -> Batch:
        arrays = (self.ids, self.targets, self.segments, self.positions)
        return Batch(*(torch.from_numpy(array[which]) for array in arrays))


def shared_beginning(chats: Sequence[Ids]) -> int:
    """How many tokens all chats begin with; at least two of each are left."""
    shortest = min(map(len, chats))
    columns = (len({chat[i] for chat in chats}) == 1 for i in range(shortest - 2))
    return next((i for i, same in enumerate(columns) if not same), max(0, shortest - 2))


def keep_and_learn(adapters: Adapters, kl_weight: float) -> Objective:
    """Cross-entropy on the targets plus `kl_weight` x KL(base || adapter) on the kept positions; both are sums, over the
    number of both. Metrics are means over all: `ce`, `kl`."""

    def objective(model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        assert isinstance(batch, LessonBatch)
        assert batch.kept is not None
        assert batch.base_hidden is not None
        hidden = model.hidden(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids).flatten(0, 1)
        targets, kept = batch.targets.flatten(), batch.kept.flatten().nonzero().squeeze(1)
        learned = (targets != IGNORE).nonzero().squeeze(1)
        ce = kl = hidden.new_zeros((), dtype=torch.float32)
        if len(learned):
            ce = cross_entropy_sum(model.logits(hidden[learned]), targets[learned])
        if len(kept) and kl_weight:
            with torch.no_grad(), adapters.using(None):
                base = F.log_softmax(model.logits(batch.base_hidden.flatten(0, 1)[kept].to(hidden.dtype)).float(), -1)
            now = F.log_softmax(model.logits(hidden[kept]).float(), -1)
            kl = F.kl_div(now, base, reduction="sum", log_target=True)
        count = torch.tensor(len(learned) + len(kept), device=hidden.device)
        each = count.clamp(min=1)
        return ce + kl_weight * kl, count, {"ce": ce.detach() / each, "kl": kl.detach() / each}

    return objective


class Pace(Hook):
    """Keeps a training within its time: while the steps left would take longer, there are fewer of them, and the schedule,
    which follows the steps, cools down all the same. They come back where later steps are faster, as they are once the
    frozen layers' outputs are kept. On a machine that is fast enough it changes nothing."""

    def __init__(self, ends: float, tell: Callable[[int, int, float], None]) -> None:
        """ends: when training must be over, on time.monotonic's clock. tell(step, of, loss) may raise to stop."""
        self.ends, self.tell = ends, tell
        self.times: list[float] = []
        self.wanted: int | None = None

    def after_step(self, trainer: Trainer) -> None:
        self.times.append(time.monotonic())
        steps = trainer.config.steps
        assert steps is not None
        self.wanted = self.wanted or steps
        self.tell(trainer.step, steps, trainer.loss)
        if len(self.times) > 3:  # the first steps are slower
            recent = self.times[-12:]
            each = (recent[-1] - recent[0]) / (len(recent) - 1)
            able = trainer.step + int((self.ends - self.times[-1]) / each)
            able = max(trainer.step, min(able, self.wanted))
            if able != steps:
                trainer.config = replace(trainer.config, steps=able)


@dataclass(frozen=True)
class Trained:
    """What a training came to."""

    steps: int
    loss: float
    seconds: float


def adapter_config(settings: LessonTraining, layers: int) -> AdapterConfig:
    """LoRA on every linear layer of the top share of the layers; at least one layer, if there are two, stays below it."""
    assert settings.top_share is not None
    top = min(max(1, round(settings.top_share * layers)), max(1, layers - 1))
    return AdapterConfig(rank=settings.rank, alpha=settings.alpha, top_layers=top)


def render(
    tokenizer: Tokenizer, chats: Sequence[Sequence[Message]], kind: Literal["lesson", "stranger"] = "lesson"
) -> list[Rendered]:
    """Chats as ids."""
    return [Rendered(*render_chat(tokenizer, chat), kind) for chat in chats]


def train(
    model: Transformer,
    adapters: Adapters,
    name: str,
    rows: LessonRows,
    settings: LessonTraining,
    seed: int,
    ends: float,
    tell: Callable[[int, int, float], None],
) -> Trained:
    """Trains the attached adapter `name` on rows; ends: when to be done, on time.monotonic's clock."""
    assert settings.steps is not None
    assert settings.lr is not None
    began = time.monotonic()
    if rows.base_hidden is None:
        rows.ask_base(model, adapters)
    config = TrainConfig(
        steps=settings.steps,
        batch_size=rows.batch_size,
        lr=settings.lr,
        weight_decay=0.0,
        betas=(0.9, 0.98),
        warmup=0.05,
        compile="never",
        seed=seed,
    )
    adapters.select(name)
    objective = keep_and_learn(adapters, settings.kl_weight or 0.0)
    if model.config.num_hidden_layers > 1:
        objective = PrefixCache(objective, adapters, name)
    try:
        trainer = Trainer(model, objective, rows, config, hooks=[Pace(ends, tell)], quiet=True)
        result = trainer.fit()
    finally:
        adapters.select(None)
        model.eval()
    return Trained(result.step, result.loss, time.monotonic() - began)
