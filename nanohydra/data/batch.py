"""What the trainer eats: a batch of token rows, and the promise that every source of batches keeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

IGNORE = -100  # the target of a position without loss, as in torch.nn.functional.cross_entropy
SHARED = -1  # the segment of a row's beginning that all its segments see, such as one system message for many chats


@dataclass
class Batch:
    """Rows of tokens with their targets. All tensors are (B, T) int64."""

    input_ids: Tensor
    """The tokens that the model reads."""
    targets: Tensor
    """The token to predict at each position, already shifted; `IGNORE` where there is no loss."""
    segment_ids: Tensor | None = None
    """A token attends only to tokens of the same segment, and to `SHARED` ones. None: each row is one segment."""
    positions: Tensor | None = None
    """The position of each token within its segment. None: 0..T-1 in each row."""

    def rows(self, start: int, stop: int) -> Batch:
        """The rows from `start` up to `stop` (views, not copies)."""
        return self._map(lambda tensor: tensor[start:stop])

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def _map(self, f: Callable[[Tensor], Tensor]) -> Batch:
        return Batch(
            f(self.input_ids),
            f(self.targets),
            None if self.segment_ids is None else f(self.segment_ids),
            None if self.positions is None else f(self.positions),
        )


class BatchSource(Protocol):
    """An endless supply of batches in a fixed order."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        """The rows of `rank` at `step`: a pure function of (seed, step, rank, world_size).

        The rows of ranks 0..world_size-1, put together in order, are the same for every world size.
        """
        ...
