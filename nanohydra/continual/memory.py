"""What is kept of earlier domains to rehearse: rows of tokens within a byte budget, drawn evenly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nanohydra.data.batch import IGNORE, Batch, BatchSource
from nanohydra.data.loader import RowSource
from nanohydra.data.order import Int64s, Shuffle
from nanohydra.errors import UserError

Policy = Literal["reservoir", "balanced"]
PARTS = ("ids", "targets", "begins")


@dataclass
class Rows:
    """Rows as they are stored: two numbers a token, of 2 bytes each (4 where the vocabulary needs them), and a bit."""

    ids: NDArray[Any]  # (n, T)
    targets: NDArray[Any]  # (n, T); the type's largest value for no target
    begins: NDArray[np.uint8]  # (n, ceil(T / 8)): a bit a token, whether a segment begins there

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return self.ids.nbytes + self.targets.nbytes + self.begins.nbytes

    def pick(self, index: Any) -> Rows:
        """Some of the rows, copied."""
        return Rows(self.ids[index].copy(), self.targets[index].copy(), self.begins[index].copy())


def token_type(vocab_size: int) -> type[np.uint16] | type[np.int32]:
    """The smallest type for token ids and one more value."""
    return np.uint16 if vocab_size < 2**16 else np.int32


def store(batch: Batch, vocab_size: int) -> Rows:
    """The rows of a batch."""
    kind = token_type(vocab_size)
    inputs, targets = batch.input_ids.numpy(), batch.targets.numpy()
    begins = np.zeros(inputs.shape, bool)
    if batch.segment_ids is not None:
        begins[:, 1:] = np.diff(batch.segment_ids.numpy(), axis=1) != 0
    targets = np.where(targets == IGNORE, np.iinfo(kind).max, targets)
    return Rows(inputs.astype(kind), targets.astype(kind), np.packbits(begins, 1))


def restore(rows: Rows) -> Batch:
    """The batch that `store` was given, but for the positions of padding."""
    length = rows.ids.shape[1]
    none = rows.targets == np.iinfo(rows.targets.dtype).max
    begins = np.unpackbits(rows.begins, 1, count=length).astype(bool)
    targets = np.where(none, IGNORE, rows.targets.astype(np.int64))
    batch = Batch(torch.from_numpy(rows.ids.astype(np.int64)), torch.from_numpy(targets))
    if begins.any():
        columns = np.arange(length)
        batch.segment_ids = torch.from_numpy(np.cumsum(begins, 1, dtype=np.int64))
        batch.positions = torch.from_numpy(columns - np.maximum.accumulate(np.where(begins, columns, 0), 1))
    return batch


class Memory(RowSource):
    """Rows of earlier domains, never more than `budget` bytes.

    reservoir: a uniform sample of all rows met so far, whatever their domain (Vitter 1985, algorithm R). balanced: equal
    room for every domain, each with a uniform sample of its own rows.
    """

    def __init__(self, budget: int, policy: Policy, vocab_size: int, batch_size: int, seq_len: int, seed: int) -> None:
        super().__init__(seq_len, batch_size)
        self.capacity = budget // (2 * seq_len * np.dtype(token_type(vocab_size)).itemsize + -(-seq_len // 8))
        if self.capacity < 1:
            raise UserError(f"A replay buffer of {budget} bytes holds no row of {seq_len} tokens: raise bytes.")
        self.policy = policy
        self.vocab_size = vocab_size
        self.seed = seed
        self.seen = 0
        """Rows met so far."""
        self.kept: dict[str, Rows] = {}
        """By domain; those of a balanced memory are in random order."""

    def __len__(self) -> int:
        return sum(map(len, self.kept.values()))

    @property
    def nbytes(self) -> int:
        """Bytes stored."""
        return sum(rows.nbytes for rows in self.kept.values())

    def add(self, domain: str, source: RowSource, rows: int) -> None:
        """Meets the `rows` rows of one epoch of a domain."""
        rng = np.random.default_rng([self.seed, self.seen])
        if self.policy == "balanced":
            room = self.capacity // (len(self.kept) + 1)
            if room < 1:
                raise UserError("The replay buffer has less than a row for each domain: raise its bytes.")
            self.kept = {name: old.pick(slice(room)) for name, old in self.kept.items()}
            chosen = rng.permutation(rows)[:room]
        else:
            chosen = self._reservoir(rows, rng)
        self.seen += rows
        if len(chosen):
            self.kept[domain] = store(source.take(chosen.astype(np.int64)), self.vocab_size)

    def _reservoir(self, rows: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Drops the stored rows that the new ones take the place of; returns the numbers of the new ones that stay."""
        owners = np.full(self.capacity, -1, np.int64)  # of each place: the new row that took it, -1 for what was there
        free = max(0, self.capacity - self.seen)
        first = min(rows, free)
        owners[self.seen : self.seen + first] = np.arange(first)
        for row in range(first, rows):
            place = int(rng.integers(self.seen + row + 1))
            if place < self.capacity:
                owners[place] = row
        start = 0
        for name, old in list(self.kept.items()):
            stays = owners[start : start + len(old)] < 0
            start += len(old)
            self.kept[name] = old.pick(stays)
        return np.unique(owners[owners >= 0])

    def take(self, numbers: Int64s) -> Batch:
        """Stored rows in a shuffled order without end."""
        order = Shuffle(len(self), self.seed).items(numbers)
        whole = list(self.kept.values())
        return restore(Rows(*(np.concatenate([getattr(rows, part) for rows in whole]) for part in PARTS)).pick(order))

    def state_dict(self) -> dict[str, Any]:
        """The stored rows as tensors."""
        kept = {
            name: {part: torch.from_numpy(_signed(getattr(rows, part))) for part in PARTS}
            for name, rows in self.kept.items()
        }
        return {"seen": self.seen, "kept": kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.seen = int(state["seen"])
        kind = token_type(self.vocab_size)
        self.kept = {
            name: Rows(parts["ids"].numpy().view(kind), parts["targets"].numpy().view(kind), parts["begins"].numpy())
            for name, parts in state["kept"].items()
        }


def _signed(array: NDArray[Any]) -> NDArray[Any]:
    """uint16 as int16, which every version of torch stores; the bytes stay."""
    return array.view(np.int16) if array.dtype == np.uint16 else array


@dataclass
class RehearsedBatch(Batch):
    """A batch that knows which of its rows are from earlier domains."""

    replayed: Tensor | None = None
    """(B,) bool."""

    def rows(self, start: int, stop: int) -> RehearsedBatch:
        assert self.replayed is not None
        return RehearsedBatch(**vars(super().rows(start, stop)), replayed=self.replayed[start:stop])

    def to(self, device: torch.device | str) -> RehearsedBatch:
        assert self.replayed is not None
        return RehearsedBatch(**vars(super().to(device)), replayed=self.replayed.to(device))


class Rehearsed:
    """Batches of new rows with a share of old ones among them; the batch stays as large as it was."""

    def __init__(self, new: RowSource, old: RowSource, share: float, batch_size: int) -> None:
        self.new, self.old = new, old
        self.old_rows = min(batch_size - 1, max(1, round(share * batch_size)))
        self.new_rows = batch_size - self.old_rows

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> RehearsedBatch:
        """The new rows first, then the old ones."""
        new = self.new.take(np.arange(step * self.new_rows, (step + 1) * self.new_rows, dtype=np.int64))
        old = self.old.take(np.arange(step * self.old_rows, (step + 1) * self.old_rows, dtype=np.int64))
        whole = join(new, old)
        marked = RehearsedBatch(**vars(whole), replayed=torch.arange(len(whole.input_ids)) >= self.new_rows)
        share = len(whole.input_ids) // world_size
        return marked.rows(rank * share, (rank + 1) * share)


def join(a: Batch, b: Batch) -> Batch:
    """The rows of two batches of one length, one after the other."""
    joined = Batch(torch.cat([a.input_ids, b.input_ids]), torch.cat([a.targets, b.targets]))
    if any(part is not None for part in (a.segment_ids, b.segment_ids, a.positions, b.positions)):
        whole = [
            (torch.zeros_like(x.input_ids), torch.arange(x.input_ids.shape[1]).expand_as(x.input_ids)) for x in (a, b)
        ]
        joined.segment_ids = torch.cat(
            [s if x.segment_ids is None else x.segment_ids for x, (s, _) in zip((a, b), whole)]
        )
        joined.positions = torch.cat([p if x.positions is None else x.positions for x, (_, p) in zip((a, b), whole)])
    return joined


_: type[BatchSource] = Rehearsed  # keeps the promise of every source of batches
