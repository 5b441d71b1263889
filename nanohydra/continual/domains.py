"""Domains: what is learnt in one stage and what tells whether it is known."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from nanohydra.continual.config import ContinualRecipe, DomainSection, LabelSection, SessionSection
from nanohydra.data.batch import Batch
from nanohydra.data.chat import render_chat
from nanohydra.data.corpora import rows
from nanohydra.data.loader import PackedConversations, RowSource, TokenStream
from nanohydra.data.tinyworld.config import ExamConfig
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.exam import Item, exam
from nanohydra.data.tinyworld.world import People, World
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError
from nanohydra.evals.exam import take_exam
from nanohydra.infer.engine import Engine
from nanohydra.jobs.config import DataSection, Recipe
from nanohydra.jobs.data import prepare, world_of
from nanohydra.lab.config import Metric
from nanohydra.model.transformer import Transformer
from nanohydra.train.objectives import next_token

METRICS = {m.name: m for m in (Metric("loss", "lower"), Metric("recall", "higher"), Metric("accuracy", "higher"))}
"""What domains are measured by. The loss is in nats a token: its exponential is the perplexity."""

SESSION_SHARES = {"stories": 0.0, "dialogues": 0.0, "letters": 0.0, "calculations": 0.0, "small_talk": 0.0}
"""Registers of tinyworld that tell nothing of a session's people: they are left out of its text."""


class Asked(Protocol):
    """The model under test, as a strategy lets it answer."""

    def __call__(self, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], Transformer]]:
        """Which prompts (their numbers) to give to which model, each of them once. A model is as promised only until
        the next one is asked for."""
        ...


class Test(Protocol):
    """One measurement of a domain."""

    name: str
    """A key of METRICS."""

    def measure(self, asked: Asked) -> float:
        """The value."""
        ...


@dataclass
class Domain:
    """Something to learn and how to see whether it is known."""

    name: str
    source: RowSource | None
    """Rows to train on; None for one that is only watched."""
    rows: int
    """Rows of one epoch."""
    tests: Sequence[Test]
    steps: int | None = None
    """Optimizer steps of its stage, where they differ from the recipe's."""

    def evaluate(self, asked: Asked) -> dict[str, float]:
        """Every test's value, by its name."""
        with torch.no_grad():
            return {test.name: test.measure(asked) for test in self.tests}


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
                loss, targets, _ = next_token(model, pick(self.held_out, numbers[start : start + self.batch_rows]).to(device))
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


# ---------------------------------------------------------------- from the recipe


def make_domains(recipe: ContinualRecipe, tokenizer: Tokenizer, folder: Path | str, seed: int) -> list[Domain]:
    """The domains of the sequence; `folder` is the base's (or its name). Raises UserError for a domain without text, or
    with less than one batch of it."""
    made: list[Domain] = []
    for section in recipe.domains:
        if section.text:
            made.append(_text(recipe, section.name, section.text, folder, seed))
        elif section.session:
            made.append(_session(recipe, section.name, section.session, tokenizer, seed))
        elif section.labels:
            made.append(_labels(recipe, section.name, section.labels, tokenizer, seed))
        made[-1].steps = section.steps
        _check(made[-1], recipe)
    return made


def base_domain(recipe: ContinualRecipe, folder: Path | str, tokenizer: Tokenizer, seed: int) -> Domain | None:
    """The domain of what the base knows: its recipe's text as `save_base_tokens` left it, or that of base.text."""
    base = recipe.base
    if base.recipe is None:
        return _text(recipe, base.name, base.text, folder, seed) if base.text else None
    parts = [Tokens([np.load(Path(folder) / f"{name}.npy", allow_pickle=False)]) for name in ("train", "validation")]
    tests: list[Test] = [Loss(_held_out(parts[1], recipe, base.name))]
    if base.recipe.data.corpus == "tinyworld" and base.questions:
        tests.append(_recall(base.recipe, base.questions, tokenizer, seed, None))
    domain = _stream(recipe, base.name, parts[0], tests, seed)
    _check(domain, recipe)
    return domain


def save_base_tokens(folder: Path, train: Tokens, validation: Tokens) -> None:
    """Keeps the base's text for the strategies' jobs, so that none has to generate and tokenise it again."""
    for name, tokens in (("train", train), ("validation", validation)):
        whole = tokens.slice(0, len(tokens))
        small = np.min_scalar_type(int(whole.max(initial=0)))
        with (folder / f"{name}.npy").open("wb") as f:
            np.save(f, whole.astype(small), allow_pickle=False)


def _text(recipe: ContinualRecipe, name: str, data: DataSection, folder: Path | str, seed: int) -> Domain:
    prepared = prepare(replace(data, tokenizer=str(folder), seq_len=recipe.seq_len), seed)
    return _stream(recipe, name, prepared.train, [Loss(_held_out(prepared.validation, recipe, name))], seed)


def _session(recipe: ContinualRecipe, name: str, section: SessionSection, tokenizer: Tokenizer, seed: int) -> Domain:
    assert recipe.base.recipe is not None
    data = recipe.base.recipe.data
    world = world_of(data, seed)
    people = world.session(section.number, section.people)
    config = replace(data.tinyworld, **SESSION_SHARES)
    texts = [
        tokenizer.encode(d.text) if d.text else render_chat(tokenizer, d.messages)[0]
        for d in documents(world, config, seed + 1, people=people, tokens=section.tokens)
    ]
    cut = max(1, len(texts) // 10)
    train, held_out = (Tokens.from_documents(part, tokenizer.eos_id) for part in (texts[cut:], texts[:cut]))
    tests: list[Test] = [Loss(_held_out(held_out, recipe, name))]
    if section.questions:
        tests.append(_recall(recipe.base.recipe, section.questions, tokenizer, seed, people, world))
    return _stream(recipe, name, train, tests, seed)


def _recall(
    recipe: Recipe, count: int, tokenizer: Tokenizer, seed: int, people: People | None, world: World | None = None
) -> Recall:
    drawn = exam(
        world or world_of(recipe.data, seed), ExamConfig(items=count), seed + 1, people, recipe.data.tinyworld
    )
    return Recall([item for item in drawn if item.kind == "recall_unseen_wordings"], tokenizer)


def _labels(recipe: ContinualRecipe, name: str, section: LabelSection, tokenizer: Tokenizer, seed: int) -> Domain:
    """Rows drawn at random, the same number for training and test whatever the set's order; the test rows come from the
    test split where there is one, else from what the training leaves."""
    rng = np.random.default_rng(seed)
    pairs = {"train": _pairs(section, "train")}
    try:
        pairs["test"] = _pairs(section, "test")
    except UserError:
        pairs["test"] = []
    order = rng.permutation(len(pairs["train"]))
    train = [pairs["train"][i] for i in order[: section.examples]]
    rest = pairs["test"] or [pairs["train"][i] for i in order[section.examples :]]
    test = [rest[i] for i in rng.permutation(len(rest))[: section.tests]]
    words = sorted({label for _, label in pairs["train"]})
    if not train or not test or len(words) < 2:
        raise UserError(f"The domain {name} has too few rows or labels: {section.corpus} needs both kinds of rows.")
    labels = [(*tokenizer.encode(f" {word}"), tokenizer.eos_id) for word in words]
    prompts = {text: tokenizer.encode(text) for text, _ in (*train, *test)}
    longest = recipe.seq_len + 1 - max(map(len, labels))
    source = PackedConversations(
        [
            (ids := [*prompts[text][-longest:], *(label := labels[words.index(word)])], [False] * (len(ids) - len(label)) + [True] * len(label))
            for text, word in train
        ],
        recipe.seq_len,
        recipe.train.batch_size,
        seed=seed,
        pad_id=tokenizer.pad_id,
    )
    accuracy = Accuracy([prompts[text][-longest:] for text, _ in test], labels, [words.index(w) for _, w in test])
    return Domain(name, source, source.row_count, [accuracy])


def _pairs(section: LabelSection, split: str) -> list[tuple[str, str]]:
    """(prompt, label) of every row of a split."""
    pairs = []
    for where, row in rows(section.corpus, split):
        if not isinstance(row.get("sentence"), str) or not isinstance(row.get("label"), str):
            raise UserError(f"{where}: a row of a classification needs the fields sentence and label.")
        pairs.append((f"{row['sentence'][: section.characters].strip()}\nLabel:", row["label"]))
    return pairs


def _stream(recipe: ContinualRecipe, name: str, tokens: Tokens, tests: Sequence[Test], seed: int) -> Domain:
    if len(tokens) == 0:
        raise UserError(f"The domain {name} is empty: it has no text to learn from. Check its corpus.")
    if len(tokens) < recipe.seq_len + 1:
        raise UserError(f"The domain {name} has {len(tokens)} tokens, one row needs {recipe.seq_len + 1}: give it more text.")
    source = TokenStream(tokens, recipe.seq_len, recipe.train.batch_size, seed=seed)
    return Domain(name, source, source.windows, tests)


def _held_out(tokens: Tokens, recipe: ContinualRecipe, name: str) -> Batch:
    if len(tokens) < recipe.seq_len + 1:
        raise UserError(
            f"The domain {name} has {len(tokens)} tokens to be measured by, one row needs {recipe.seq_len + 1}: give it more text."
        )
    stream = TokenStream(tokens, recipe.seq_len, 1, order="sequential")
    return stream.take(np.arange(min(recipe.eval_rows, stream.windows)))


def _check(domain: Domain, recipe: ContinualRecipe) -> None:
    """A domain shorter than a batch would repeat rows within it: refused rather than done in silence."""
    if domain.source is not None and domain.rows < recipe.train.batch_size:
        raise UserError(
            f"The domain {domain.name} has {domain.rows} rows of {recipe.seq_len} tokens, a batch needs "
            f"{recipe.train.batch_size}: give it more text, or lower train.batch_size or seq_len."
        )
