"""A long stream of tokens, in memory or mapped from files, with the boundaries of its documents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

TokenPart = NDArray[np.unsignedinteger] | NDArray[np.signedinteger]


class Tokens:
    """Several arrays of token ids, read as one after the other."""

    def __init__(self, parts: Sequence[TokenPart], document_starts: NDArray[np.int64] | None = None) -> None:
        """`document_starts`: where each document begins in the whole stream, ascending; None where not known."""
        self._parts = [part for part in parts if len(part)]
        ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)
        self._begins = np.concatenate([[0], ends]).astype(np.int64)
        self.document_starts = document_starts

    @classmethod
    def from_documents(cls, documents: Iterable[Sequence[int]], eos_id: int | None = None) -> Tokens:
        """All documents in memory, each followed by `eos_id` unless that is None."""
        end = [] if eos_id is None else [eos_id]
        arrays = [np.asarray([*ids, *end], dtype=np.int32) for ids in documents]
        lengths = np.array([0, *(len(a) for a in arrays)], dtype=np.int64)
        stream = np.concatenate(arrays) if arrays else np.zeros(0, dtype=np.int32)
        return cls([stream], np.cumsum(lengths)[:-1])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def gather(self, starts: NDArray[np.int64], length: int) -> NDArray[np.int64]:
        """(len(starts), length) int64: the `length` tokens from each start on. All must lie inside the stream."""
        result = np.empty((len(starts), length), dtype=np.int64)
        for row, start in enumerate(starts.tolist()):
            part = int(np.searchsorted(self._begins, start, side="right")) - 1 if len(self._parts) > 1 else 0
            filled = 0
            while filled < length:  # a window may run over into the next part
                local = start + filled - int(self._begins[part])
                piece = self._parts[part][local : local + length - filled]
                result[row, filled : filled + len(piece)] = piece
                filled += len(piece)
                part += 1
        return result

    def slice(self, start: int, stop: int) -> NDArray[np.int64]:
        """The tokens from `start` up to `stop`, copied."""
        return self.gather(np.array([start]), stop - start).ravel()
