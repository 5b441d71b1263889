"""Batches of rows in an order that is a pure function of (seed, step, rank): resuming is exact at any world size."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch

from nanohydra.data.batch import IGNORE, Batch
from nanohydra.data.order import Int64s, Shuffle, random_bits
from nanohydra.data.packing import best_fit
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError

Order = Literal["shuffled", "random", "sequential"]


class RowSource(ABC):
    """A `BatchSource` with rows numbered 0, 1, 2, ... for ever; each step's batch is the next `batch_size` of them."""

    def __init__(self, seq_len: int, batch_size: int) -> None:
        if seq_len < 1 or batch_size < 1:
            raise UserError(f"seq_len and batch_size must be at least 1, not {seq_len} and {batch_size}.")
        self.seq_len = seq_len
        """Tokens in a row (T)."""
        self.batch_size = batch_size
        """Rows in the batch of all ranks together."""

    @abstractmethod
    def take(self, numbers: Int64s) -> Batch:
        """The rows with these numbers, in this order."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows of `rank` at `step` (see `BatchSource`). Raises UserError where the ranks cannot share evenly."""
        if self.batch_size % world_size:
            raise UserError(
                f"A batch of {self.batch_size} rows cannot be shared evenly by {world_size} processes. "
                f"Use a batch size that is a multiple of {world_size}."
            )
        rows = self.batch_size // world_size
        first = step * self.batch_size + rank * rows
        return self.take(np.arange(first, first + rows, dtype=np.int64))


class TokenStream(RowSource):
    """Windows of seq_len + 1 tokens over one long stream.

    "shuffled": the stream is cut into windows once, so that no token but the last few (fewer than seq_len) is wasted;
    every epoch meets each window once, in a new order. "random": windows begin anywhere, drawn with replacement, as is
    usual for small character corpora. "sequential": the windows in their order, for evaluation.

    With `separate_documents`, tokens attend only within their document and positions restart with each.
    """

    def __init__(
        self,
        tokens: Tokens,
        seq_len: int,
        batch_size: int,
        *,
        seed: int = 0,
        order: Order = "shuffled",
        separate_documents: bool = False,
    ) -> None:
        super().__init__(seq_len, batch_size)
        if len(tokens) < seq_len + 1:
            raise UserError(
                f"The data hold {len(tokens)} tokens, a row needs {seq_len + 1}. Use more text or a smaller seq_len."
            )
        if separate_documents and tokens.document_starts is None:
            raise UserError("These tokens have no document boundaries, so separate_documents cannot be used.")
        self.tokens = tokens
        self.seed = seed
        self.order = order
        self.separate_documents = separate_documents
        self.windows = (len(tokens) - 1) // seq_len
        """Windows in one epoch."""
        self._shuffle = Shuffle(self.windows, seed)

    def take(self, numbers: Int64s) -> Batch:
        starts = self._starts(numbers)
        window = self.tokens.gather(starts, self.seq_len + 1)
        batch = Batch(_tensor(window[:, :-1]), _tensor(window[:, 1:]))
        if self.separate_documents:
            begins = self._document_begins(starts)
            columns = np.arange(self.seq_len)
            batch.segment_ids = _tensor(np.cumsum(begins, axis=1))
            batch.positions = _tensor(columns - np.maximum.accumulate(np.where(begins, columns, 0), axis=1))
        return batch

    def _starts(self, numbers: Int64s) -> Int64s:
        """The first token of each row."""
        if self.order == "random":
            last = np.uint64(len(self.tokens) - self.seq_len)
            return (random_bits(self.seed, numbers) % last).astype(np.int64)
        if self.order == "sequential":
            return numbers % self.windows * self.seq_len
        return self._shuffle.items(numbers) * self.seq_len

    def _document_begins(self, starts: Int64s) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
        """(B, T): True where a document begins inside a row, other than at its first token."""
        boundaries = self.tokens.document_starts
        assert boundaries is not None
        first = np.searchsorted(boundaries, starts, side="right")
        count = np.searchsorted(boundaries, starts + self.seq_len, side="left") - first
        rows = np.repeat(np.arange(len(starts)), count)
        nth = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        begins = np.zeros((len(starts), self.seq_len), dtype=np.bool_)
        begins[rows, boundaries[first[rows] + nth] - starts[rows]] = True
        return begins


class PackedConversations(RowSource):
    """Whole conversations packed into rows; each is a segment of its own with positions from 0, so none sees another.

    Only tokens marked as trained are targets. A conversation of n tokens fills n - 1 places, as its last token has
    nothing to predict. One that is longer than a row is cut (`cut` counts them), and one without any target left is
    dropped (`dropped`).
    """

    def __init__(
        self,
        conversations: Sequence[tuple[Sequence[int], Sequence[bool]]],
        seq_len: int,
        batch_size: int,
        *,
        seed: int = 0,
        pad_id: int = 0,
    ) -> None:
        super().__init__(seq_len, batch_size)
        self.cut = sum(len(ids) > seq_len + 1 for ids, _ in conversations)
        pairs = [(ids[: seq_len + 1], trained[: seq_len + 1]) for ids, trained in conversations]
        kept = [(ids, trained) for ids, trained in pairs if any(trained[1:])]
        self.dropped = len(pairs) - len(kept)
        if not kept:
            raise UserError("No conversation has a token to learn. Check that each has an assistant's answer.")
        if self.cut:
            warnings.warn(
                f"{self.cut} of {len(pairs)} conversations are longer than {seq_len} tokens and were cut; "
                f"{self.dropped} were left out for want of an answer.",
                stacklevel=2,
            )
        packed = best_fit([len(ids) - 1 for ids, _ in kept], seq_len)
        shape = (len(packed), seq_len)
        self._inputs = np.full(shape, pad_id, dtype=np.int32)
        self._targets = np.full(shape, IGNORE, dtype=np.int32)
        self._segments = np.zeros(shape, dtype=np.int32)
        self._positions = np.zeros(shape, dtype=np.int32)
        for row, items in enumerate(packed):
            at = 0
            for segment, item in enumerate(items):
                ids, trained = (np.asarray(values) for values in kept[item])
                place = slice(at, at + len(ids) - 1)
                self._inputs[row, place] = ids[:-1]
                self._targets[row, place] = np.where(trained[1:], ids[1:], IGNORE)
                self._segments[row, place] = segment
                self._positions[row, place] = np.arange(len(ids) - 1)
                at += len(ids) - 1
            self._segments[row, at:] = len(items)  # the padding attends to itself alone
        self.row_count = len(packed)
        """Rows in one epoch."""
        self.waste = 1 - sum(len(ids) - 1 for ids, _ in kept) / (len(packed) * seq_len)
        """The share of places that hold padding."""
        self._shuffle = Shuffle(self.row_count, seed)

    def take(self, numbers: Int64s) -> Batch:
        rows = self._shuffle.items(numbers)
        return Batch(*(_tensor(a[rows]) for a in (self._inputs, self._targets, self._segments, self._positions)))


class Mixed(RowSource):
    """Rows of several sources, interleaved evenly in proportion to their weights.

    Of any n first rows, each source has given its share of n, up to rounding. That makes the source of row n, and how
    many rows that source gave before, a formula of n alone.
    """

    def __init__(self, sources: Sequence[RowSource], weights: Sequence[float], batch_size: int) -> None:
        if not sources or len(sources) != len(weights) or min(weights) < 0 or sum(weights) <= 0:
            raise UserError("A mixture needs one weight for each source, none below zero and one above.")
        if len({source.seq_len for source in sources}) > 1:
            raise UserError("The sources of a mixture must have the same seq_len.")
        super().__init__(sources[0].seq_len, batch_size)
        self.sources = list(sources)
        self.weights = list(weights)

    def take(self, numbers: Int64s) -> Batch:
        shape = (len(numbers), self.seq_len)
        whole = Batch(torch.empty(shape, dtype=torch.int64), torch.empty(shape, dtype=torch.int64))
        pieces = [
            (where, source.take(own)) for source, (where, own) in zip(self.sources, self._assign(numbers)) if len(where)
        ]
        if any(piece.segment_ids is not None or piece.positions is not None for _, piece in pieces):
            whole.segment_ids = torch.zeros(shape, dtype=torch.int64)
            whole.positions = torch.arange(self.seq_len).repeat(len(numbers), 1)
        for where, piece in pieces:
            for name in ("input_ids", "targets", "segment_ids", "positions"):
                values = getattr(piece, name)
                if values is not None:
                    getattr(whole, name)[torch.from_numpy(where)] = values
        return whole

    def _assign(self, numbers: Int64s) -> list[tuple[Int64s, Int64s]]:
        """For each source: which of the rows are its own, and their numbers within the source.

        Source 0 takes row n where floor((n + 1) share) exceeds floor(n share); the rows that it leaves are numbered
        anew and dealt to the others in the same way.
        """
        result = []
        where, left = np.arange(len(numbers)), numbers
        remaining = float(sum(self.weights))
        for weight in self.weights:
            share = min(1.0, weight / remaining) if remaining > 0 else 0.0
            before = np.floor(left * share).astype(np.int64)
            mine = np.floor((left + 1) * share).astype(np.int64) > before
            result.append((where[mine], before[mine]))
            where, left = where[~mine], (left - before)[~mine]
            remaining -= weight
        return result


def _tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
