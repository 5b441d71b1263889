"""What a continual-learning experiment is told: a base, a sequence of domains, strategies. No torch here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from nanohydra.adapt.config import AdapterConfig
from nanohydra.errors import UserError
from nanohydra.jobs.config import DataSection, Recipe
from nanohydra.strict import build
from nanohydra.train.config import TrainConfig

NAME = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class SessionSection:
    """New people of the base's tinyworld: their texts to learn from, questions in unseen wordings to be asked."""

    number: int = 0
    """Which of the world's later sessions."""

    people: int = 8
    """How many new people it has."""

    tokens: int = 40_000
    """About how many tokens of text about them are generated."""

    questions: int = 60
    """How many questions of the exam are asked of them, fewer where they have not as many facts."""


@dataclass(frozen=True)
class LabelSection:
    """A classification: rows of a sentence and a label, which is scored by the likelihood of the label's words."""

    corpus: str
    """A dataset with the fields sentence and label, such as cl-benchmark/agnews."""

    examples: int = 500
    """Rows to learn from."""

    tests: int = 100
    """Rows to be measured by."""

    characters: int = 400
    """A longer sentence is cut there."""


@dataclass(frozen=True)
class DomainSection:
    """One domain of the sequence; exactly one of text, session and labels says what it is."""

    name: str
    """What it is called: letters, digits, _ and -."""

    text: DataSection | None = None
    """Running text, measured by its loss. Its tokenizer and seq_len are those of the experiment."""

    session: SessionSection | None = None
    """A later session of the base's tinyworld, measured by recall and loss."""

    labels: LabelSection | None = None
    """A classification, measured by accuracy."""

    steps: int | None = None
    """Optimizer steps of this stage, where they differ from the recipe's."""

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UserError(f'domains: "{self.name}" names an adapter and a file: use letters, digits, _ and -.')
        if sum(part is not None for part in (self.text, self.session, self.labels)) != 1:
            raise UserError(f"domains: {self.name} needs exactly one of text, session and labels.")


@dataclass(frozen=True)
class BaseSection:
    """What the sequence starts from: a training that is run once for each seed, or weights that exist."""

    name: str = "base"
    """What its own domain, the first to be forgotten, is called."""

    recipe: Recipe | None = None
    """A training recipe. Its text is the first domain; where that is tinyworld, the exam on its people too."""

    path: str | None = None
    """A base that exists: a name under the bases folder, or a model folder."""

    text: DataSection | None = None
    """With path: text that stands for what it knew before, to watch (and, for some strategies, to rehearse)."""

    questions: int = 100
    """tinyworld: how many questions of the exam are asked about the base's people."""

    def __post_init__(self) -> None:
        if (self.recipe is None) == (self.path is None):
            raise UserError("base needs either recipe (a training) or path (weights that exist).")
        if self.recipe is not None and self.text is not None:
            raise UserError("base.text belongs to base.path: a recipe brings its own text.")
        if not NAME.fullmatch(self.name):
            raise UserError(f'base.name "{self.name}": use letters, digits, _ and -.')


@dataclass(frozen=True, kw_only=True)
class ContinualRecipe:
    """A sequence of domains, learnt by every strategy from the same base with the same seeds."""

    name: str
    """What the experiment is called."""

    question: str = ""
    """What it is to find out, in one sentence."""

    base: BaseSection
    """What it starts from."""

    domains: tuple[DomainSection, ...]
    """The domains in the order in which they are learnt."""

    strategies: dict[str, dict[str, Any]]
    """For each row of the table its settings: {} for the strategy of that name with its defaults, or {strategy: name,
    ...}; the key train holds changes to the stage's training."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds: each has its own base (where that is trained), data order and initial adapters."""

    train: TrainConfig
    """How one stage is trained."""

    adapter: AdapterConfig = field(default_factory=lambda: AdapterConfig(rank=16))
    """The adapters of the strategies that use them."""

    seq_len: int = 128
    """Tokens of a training row."""

    eval_rows: int = 64
    """Rows of held-out text that a loss is measured on."""

    eval_dtype: Literal["fp32", "bf16"] = "fp32"
    """Number format of measuring."""

    metric: str = "recall"
    """What the verdicts are about: recall, loss or accuracy, averaged over all domains at the end."""

    baseline: str = "naive"
    """The row that others are compared with."""

    compared: tuple[str, ...] = ()
    """Rows that were meant, before the runs, to be better than the baseline. Empty: all; but the more comparisons, the
    more seeds each needs."""

    def __post_init__(self) -> None:
        if not self.domains or not self.strategies or not self.seeds:
            raise UserError("The recipe needs at least one domain, one strategy and one seed.")
        names = [self.base.name, *(domain.name for domain in self.domains)]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise UserError(f'Two domains are called "{double}": give each its own name.')
        if len({*self.seeds}) < len(self.seeds):
            raise UserError("seeds names a seed twice: a run repeated is not more evidence.")
        for name in self.strategies:
            if not NAME.fullmatch(name):
                raise UserError(f'strategies: "{name}" names a folder: use letters, digits, _ and -.')
        if self.base.recipe is not None and self.base.recipe.data.seq_len != self.seq_len:
            raise UserError("seq_len and base.recipe.data.seq_len must be equal: rows of both are mixed.")
        for section in self.domains:
            if section.session and (self.base.recipe is None or self.base.recipe.data.corpus != "tinyworld"):
                raise UserError(f"domains: {section.name} is a session of tinyworld: base.recipe must train on it.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ContinualRecipe:
        """Builds a recipe from nested data. Raises UserError for an unknown key, with the nearest known one."""
        return build(cls, values, see="recipes/continual/tinyworld-sessions.yaml")
