"""Names as training data: letters to ids, names to (what came before, what comes next) pairs.

A name is read as ``.emma.``: one boundary mark, the letters, one boundary mark. The mark tells the model where a name
begins and lets it say where one ends; it has id 0, so that rows padded with zeros look like the time before a name
began.
"""

from __future__ import annotations

import json
import lzma
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nanohydra.errors import UserError

BOUNDARY = "."
IGNORED = -100  # the target of a padded position: cross_entropy's default ignore_index


@dataclass(frozen=True)
class Vocabulary:
    """The letters of a list of names; ids 1..n in alphabetical order, 0 for the boundary."""

    letters: str

    @classmethod
    def of(cls, names: Sequence[str]) -> Vocabulary:
        """The vocabulary of all letters in `names`. UserError where a name is empty or holds the boundary mark."""
        if not names:
            raise UserError("There are no names to learn from. Give a list or file with at least one name.")
        if any(not name or BOUNDARY in name for name in names):
            raise UserError(f'A name is empty or holds "{BOUNDARY}", the boundary mark. Remove such names.')
        return cls("".join(sorted(set("".join(names)))))

    def __len__(self) -> int:
        return len(self.letters) + 1

    def encode(self, name: str) -> list[int]:
        """The ids of a name's letters, without boundaries."""
        try:
            return [self.letters.index(letter) + 1 for letter in name]
        except ValueError:
            unknown = sorted(set(name) - set(self.letters))
            raise UserError(f"Unknown letters {unknown} in {name!r}. The model knows: {self.letters}") from None

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; the boundary is shown as its mark."""
        return "".join((BOUNDARY + self.letters)[i] for i in ids)


@dataclass(frozen=True)
class Examples:
    """What a model reads and what it must predict.

    inputs: (N, C) int64. targets: (N,) int64 for models that read a window of C letters and predict one letter, or
    (N, C) int64 for models that predict a letter at each position, -100 where the row is only padding.
    """

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def at(self, rows: Tensor) -> Examples:
        """The examples at `rows` ((M,) int64)."""
        return Examples(self.inputs[rows], self.targets[rows])


def windows(names: Sequence[str], vocabulary: Vocabulary, context: int) -> Examples:
    """One example per letter and one per end: the `context` ids before it, and its own id.

    For context 3, "emma" gives ``... -> e``, ``..e -> m``, ``.em -> m``, ``emm -> a``, ``mma -> .``.
    """
    inputs, targets = [], []
    for name in names:
        ids = [0] * context + vocabulary.encode(name) + [0]
        for end in range(context, len(ids)):
            inputs.append(ids[end - context : end])
            targets.append(ids[end])
    return Examples(torch.tensor(inputs), torch.tensor(targets))


def sequences(names: Sequence[str], vocabulary: Vocabulary) -> Examples:
    """One example per name: inputs ``.emma``, targets ``emma.``, padded on the right to the longest name."""
    longest = max(map(len, names)) + 1
    inputs = torch.zeros(len(names), longest, dtype=torch.int64)
    targets = torch.full((len(names), longest), IGNORED)
    for row, name in enumerate(names):
        ids = torch.tensor([0, *vocabulary.encode(name), 0])
        inputs[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
    return Examples(inputs, targets)


def examples(names: Sequence[str], vocabulary: Vocabulary, context: int | None) -> Examples:
    """Windows for a model with a bounded `context`, whole sequences for one without (None)."""
    return sequences(names, vocabulary) if context is None else windows(names, vocabulary, context)


@dataclass(frozen=True)
class Split:
    """Names to learn from and names held out; `unseen` are the held-out names that do not also occur in `train`.

    The published list repeats some names (given to girls and to boys), so a split by line leaves a few held-out names
    that were also learned from. The known figures are on `held_out`; `unseen` is the stricter question.
    """

    train: list[str]
    held_out: list[str]
    unseen: list[str]


def split(names: Sequence[str], held_out: float = 0.1, seed: int = 42) -> Split:
    """A seeded shuffle, then the last share `held_out` of the lines kept apart (at least one name on each side)."""
    if len(names) < 2:
        raise UserError(f"{len(names)} name(s) cannot be split into training and held-out names. Give at least two.")
    shuffled = list(names)
    random.Random(seed).shuffle(shuffled)
    cut = min(max(round(len(names) * (1 - held_out)), 1), len(names) - 1)
    train, rest = shuffled[:cut], shuffled[cut:]
    learned = set(train)
    return Split(train, rest, [name for name in rest if name not in learned])


def read_names(path: Path) -> list[str]:
    """Names from a text file (one a line) or rows of JSON with the field ``name`` (.jsonl, or .jsonl.xz as in a
    mirror)."""
    path = Path(path)
    try:
        with lzma.open(path, "rt", encoding="utf8") if path.suffix == ".xz" else path.open(encoding="utf8") as file:
            lines = [line.strip() for line in file if line.strip()]
        if ".jsonl" in path.suffixes:
            return [json.loads(line)["name"] for line in lines]
    except FileNotFoundError:
        raise UserError(
            f"There is no file {path}. Give a file with one name a line, or a .jsonl.xz of a mirror."
        ) from None
    except (lzma.LZMAError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as e:
        raise UserError(
            f'{path} is not a list of names ({e}). Expected one name a line, or JSON rows with "name".'
        ) from e
    return lines
