"""How it is told whether a domain is known: loss, recall, accuracy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
import torch.nn.functional as F

from nanohydra.data.batch import Batch
from nanohydra.data.chat import render_chat
from nanohydra.data.tinyworld.exam import Item
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.evals.exam import take_exam
from nanohydra.infer.engine import Engine
from nanohydra.model.transformer import Transformer
from nanohydra.train.objectives import next_token

LOWER = frozenset({"loss"})
"""The measures that are better when lower. The loss is in nats a token: its exponential is the perplexity."""


class Asked(Protocol):
    """The model under test, as a strategy lets it answer."""

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Transformer]]:
        """Which prompts (their numbers) to give to which model, each of them once. A model is as promised only until
        the next one is asked for."""
        ...


class Test(Protocol):
    """One measurement of a domain."""

    name: str
    """loss, recall or accuracy."""

    def measure(self, asked: Asked) -> float:
        """The value."""
        ...


@dataclass
class Loss:
    """Nats a token on held-out rows; each is routed by its first quarter, as if the rest were still to come."""

    held_out: Batch
    batch_rows: int = 16
    name: str = field(default="loss", init=False)

    def measure(self, asked: Asked) -> float:
        quarter = max(1, self.held_out.input_ids.shape[1] // 4)
        total = count = 0.0
        for numbers, model in asked(self.held_out.input_ids[:, :quarter].tolist()):
            device = next(model.parameters()).device
            for start in range(0, len(numbers), self.batch_rows):
                loss, targets, _ = next_token(
                    model, pick(self.held_out, numbers[start : start + self.batch_rows]).to(device)
                )
                total, count = total + float(loss), count + float(targets)
        return total / count


@dataclass
class Recall:
    """Share of questions about facts, in wordings never trained on, that are answered rightly."""

    items: Sequence[Item]
    tokenizer: Tokenizer
    name: str = field(default="recall", init=False)

    def measure(self, asked: Asked) -> float:
        prompts = [render_chat(self.tokenizer, i.messages, add_generation_prompt=True)[0] for i in self.items]
        room = max(map(len, prompts)) + 32
        right = 0
        for numbers, model in asked(prompts):
            # One step for all: prompts differ by a few tokens only.
            engine = Engine(model, self.tokenizer, max_slots=64, max_seq_len=room, prefill_tokens=64 * room)
            right += sum(graded.right for graded in take_exam(engine, [self.items[i] for i in numbers], max_tokens=32))
        return right / len(prompts)


@dataclass
class Accuracy:
    """Share of sentences whose right label is the likeliest of all labels.

    The likelihood of a label is that of its tokens and of the end that follows them. One row serves all labels that
    begin alike: (prompt, first tokens of a label) tells the next token's chances after every shorter beginning too.
    """

    prompts: Sequence[list[int]]
    labels: Sequence[tuple[int, ...]]
    """Each label's tokens, the end included."""
    truth: Sequence[int]
    batch_rows: int = 16
    name: str = field(default="accuracy", init=False)

    def measure(self, asked: Asked) -> float:
        right = 0
        for numbers, model in asked(self.prompts):
            for start in range(0, len(numbers), self.batch_rows):
                some = numbers[start : start + self.batch_rows]
                scores = self._scores(model, [self.prompts[i] for i in some])
                right += sum(int(row.argmax()) == self.truth[i] for i, row in zip(some, scores))
        return right / len(self.prompts)

    def _scores(self, model: Transformer, prompts: Sequence[list[int]]) -> torch.Tensor:
        """(prompts, labels) log-likelihoods."""
        scores = torch.zeros(len(prompts), len(self.labels))
        done: set[tuple[int, ...]] = set()
        for beginning in longest_beginnings(self.labels):
            rows_ = [[*prompt, *beginning] for prompt in prompts]
            width = max(map(len, rows_))
            ids = torch.tensor([row + [0] * (width - len(row)) for row in rows_]).to(next(model.parameters()).device)
            hidden = model.hidden(ids)
            for n in range(len(beginning) + 1):
                if beginning[:n] in done:
                    continue
                done.add(beginning[:n])
                places = [len(prompt) + n - 1 for prompt in prompts]
                chances = F.log_softmax(model.logits(hidden[range(len(rows_)), places]).float(), -1).cpu()
                for i, label in enumerate(self.labels):
                    if label[:n] == beginning[:n] and len(label) > n:
                        scores[:, i] += chances[:, label[n]]
        return scores


def longest_beginnings(labels: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The labels without their last token, those left out that begin another one."""
    heads = {label[:-1] for label in labels}
    return sorted(h for h in heads if not any(o != h and o[: len(h)] == h for o in heads))


def pick(batch: Batch, numbers: Sequence[int]) -> Batch:
    """Some rows of a batch."""
    index = list(numbers)
    parts = (batch.input_ids, batch.targets, batch.segment_ids, batch.positions)
    return Batch(*(None if part is None else part[index] for part in parts))  # type: ignore[arg-type]
