"""Domains: what is learnt in one stage and what tells whether it is known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nanohydra.continual.config import ContinualRecipe, LabelSection, SessionSection
from nanohydra.continual.measures import Accuracy, Asked, Loss, Recall, Test
from nanohydra.data.corpora import rows
from nanohydra.data.loader import PackedConversations, RowSource, TokenStream
from nanohydra.data.tinyworld.config import ExamConfig
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.exam import exam
from nanohydra.data.tinyworld.world import People, World
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError
from nanohydra.jobs.config import DataSection, Recipe
from nanohydra.jobs.data import Learned, Prepared, learned, prepare, world_of

TEXT = "text.npz"
"""The file beside a base's weights that holds the text it was trained on."""

WITHOUT_PEOPLE = ("stories", "dialogues", "letters", "calculations", "small_talk")
"""Registers of tinyworld that tell nothing of a session's people: they are left out of its text."""


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


def make_domains(recipe: ContinualRecipe, tokenizer: Tokenizer, folder: Path | str, seed: int) -> list[Domain]:
    """The domains of the sequence; `folder` is the base's (or its name). Raises UserError for a domain without text, or
    with less than one batch of it."""
    made: list[Domain] = []
    for section in recipe.domains:
        with _naming(section.name):
            if section.text:
                made.append(_text(recipe, section.name, section.text, folder, seed))
            elif section.session:
                made.append(_session(recipe, section.name, section.session, tokenizer, seed))
            elif section.labels:
                made.append(_labels(recipe, section.name, section.labels, tokenizer, seed))
        made[-1].steps = section.steps
    return made


def base_domain(recipe: ContinualRecipe, folder: Path | str, tokenizer: Tokenizer, seed: int) -> Domain:
    """What the base knows: its recipe's text, as `save_text` left it, or that of base.text; else nothing to be seen."""
    base = recipe.base
    with _naming(base.name):
        if base.text:
            return _text(recipe, base.name, base.text, folder, seed)
        if base.recipe is None:
            return Domain(base.name, None, 0, ())
        prepared = load_text(Path(folder), tokenizer)
        tests: list[Test] = []
        if base.recipe.data.corpus == "tinyworld" and base.questions:
            tests.append(_recall(base.recipe, base.questions, tokenizer, seed))
        return _domain(recipe, base.name, prepared, base.recipe.data, seed, tests)


# ---------------------------------------------------------------- the base's text


def save_text(folder: Path, prepared: Prepared) -> None:
    """Keeps the base's text for the strategies' jobs, so that none has to generate and tokenise it again."""
    arrays: dict[str, Any] = {}
    for name, part in (("train", prepared.train), ("validation", prepared.validation)):
        if isinstance(part, Tokens):
            arrays[f"{name}.ids"] = part.slice(0, len(part)).astype(np.int32)
        else:
            arrays[f"{name}.ids"] = np.concatenate([np.asarray(ids, np.int32) for ids, _ in part])
            arrays[f"{name}.trained"] = np.concatenate([np.asarray(trained, bool) for _, trained in part])
            arrays[f"{name}.lengths"] = np.array([len(ids) for ids, _ in part])
    with (folder / TEXT).open("wb") as f:
        np.savez(f, **arrays)


def load_text(folder: Path, tokenizer: Tokenizer) -> Prepared:
    """What `save_text` kept."""
    with np.load(folder / TEXT, allow_pickle=False) as arrays:
        parts: list[Tokens | list[Learned]] = []
        for name in ("train", "validation"):
            ids = arrays[f"{name}.ids"]
            if f"{name}.lengths" not in arrays:
                parts.append(Tokens([ids]))
                continue
            cuts = np.cumsum(arrays[f"{name}.lengths"])[:-1]
            pieces = zip(np.split(ids, cuts), np.split(arrays[f"{name}.trained"], cuts))
            parts.append([(piece.tolist(), trained.tolist()) for piece, trained in pieces])
    return Prepared(tokenizer, parts[0], parts[1], 0)


# ---------------------------------------------------------------- kinds of domains


def _text(recipe: ContinualRecipe, name: str, data: DataSection, folder: Path | str, seed: int) -> Domain:
    return _domain(recipe, name, prepare(replace(data, tokenizer=str(folder)), seed), data, seed, [])


def _session(recipe: ContinualRecipe, name: str, section: SessionSection, tokenizer: Tokenizer, seed: int) -> Domain:
    assert recipe.base.recipe is not None
    data = recipe.base.recipe.data
    world = world_of(data, seed)
    people = world.session(section.number, section.people)
    shares: dict[str, float] = dict.fromkeys(WITHOUT_PEOPLE, 0.0)
    config = replace(data.tinyworld, **shares)  # type: ignore[arg-type]
    texts = list(documents(world, config, seed + 1, people=people, tokens=section.tokens))
    cut = max(1, len(texts) // 10)
    train, held_out = (
        [piece for d in part for piece in learned(tokenizer, d, recipe.seq_len)] for part in (texts[cut:], texts[:cut])
    )
    tests: list[Test] = []
    if section.questions:
        tests.append(_recall(recipe.base.recipe, section.questions, tokenizer, seed, people, world))
    return _domain(recipe, name, Prepared(tokenizer, train, held_out, 0), data, seed, tests)


def _recall(
    recipe: Recipe,
    count: int,
    tokenizer: Tokenizer,
    seed: int,
    people: People | None = None,
    world: World | None = None,
) -> Recall:
    world = world or world_of(recipe.data, seed)
    drawn = exam(world, ExamConfig(items=count), seed + 1, people, recipe.data.tinyworld)
    return Recall([item for item in drawn if item.kind == "recall_unseen_wordings"], tokenizer)


def _labels(recipe: ContinualRecipe, name: str, section: LabelSection, tokenizer: Tokenizer, seed: int) -> Domain:
    """Rows drawn at random; the test's come from the test split where there is one, else from what training leaves."""
    rng = np.random.default_rng(seed)
    given = _pairs(section, "train")
    given = [given[i] for i in rng.permutation(len(given))]
    try:
        rest = _pairs(section, "test")
        rest = [rest[i] for i in rng.permutation(len(rest))]
    except UserError:  # the set has no test split
        rest = given[section.examples :]
    train, test = given[: section.examples], rest[: section.tests]
    words = sorted({label for _, label in given})
    if not train or not test or len(words) < 2:
        raise UserError(f"{section.corpus} has too few rows: rows to learn, rows to test and two labels are needed.")
    labels = {word: (*tokenizer.encode(f" {word}"), tokenizer.eos_id) for word in words}
    room = recipe.seq_len + 1 - max(map(len, labels.values()))

    def prompt(text: str) -> list[int]:
        return tokenizer.encode(text)[-room:]  # the end of a prompt asks for the label

    conversations = []
    for text, word in train:
        asked, label = prompt(text), labels[word]
        conversations.append(([*asked, *label], [False] * len(asked) + [True] * len(label)))
    batch_size = recipe.train.batch_size
    source = PackedConversations(conversations, recipe.seq_len, batch_size, seed=seed, pad_id=tokenizer.pad_id)
    _check(source.row_count, recipe)
    accuracy = Accuracy([prompt(text) for text, _ in test], list(labels.values()), [words.index(w) for _, w in test])
    return Domain(name, source, source.row_count, [accuracy])


def _pairs(section: LabelSection, split: str) -> list[tuple[str, str]]:
    """(prompt, label) of every row of a split."""
    pairs = []
    for where, row in rows(section.corpus, split):
        if not isinstance(row.get("sentence"), str) or not isinstance(row.get("label"), str):
            raise UserError(f"{where}: a row of a classification needs the fields sentence and label.")
        pairs.append((f"{row['sentence'][: section.characters].strip()}\nLabel:", row["label"]))
    return pairs


def _domain(
    recipe: ContinualRecipe, name: str, prepared: Prepared, data: DataSection, seed: int, tests: Sequence[Test]
) -> Domain:
    """A domain of text, measured by its loss and by `tests`."""
    if not len(prepared.train) or not len(prepared.validation):
        raise UserError("it is empty: there is no text to learn from, or none to measure by. Check its corpus.")
    data = replace(data, seq_len=recipe.seq_len)
    source = prepared.rows(data, recipe.train.batch_size, seed)
    count = source.windows if isinstance(source, TokenStream) else source.row_count  # type: ignore[attr-defined]
    _check(count, recipe)
    return Domain(name, source, count, [Loss(prepared.validation_rows(data, recipe.eval_rows)), *tests])


def _check(count: int, recipe: ContinualRecipe) -> None:
    """A domain shorter than a batch would repeat rows within it: refused rather than done in silence."""
    if count < recipe.train.batch_size:
        raise UserError(
            f"it has {count} rows of {recipe.seq_len} tokens, a batch needs {recipe.train.batch_size}. Give it more text, "
            "or lower train.batch_size or seq_len."
        )


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Errors say which domain they are about."""
    try:
        yield
    except UserError as e:
        raise UserError(f"The domain {name} cannot be used: {e}") from e
