"""Chance without state: random numbers and orders that are pure functions of a seed and a number.

A training run that is killed, resumed, or spread over another number of processes must meet the same rows in the same
order. So nothing here remembers where it was: row n of the run is computed from n. The numbers come from integer
arithmetic alone, so they stay the same in every version of numpy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Int64s = NDArray[np.int64]
Uint64s = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def random_bits(seed: int, numbers: Int64s) -> Uint64s:
    """64 random bits for each of `numbers`: splitmix64 (Steele et al. 2014) with the seed scrambled by itself first."""
    key = _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64) + _GOLDEN)
    return _mix(key + (numbers.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


class Shuffle:
    """An endless order over `size` items: each epoch of `size` places holds every item once, in an order of its own."""

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self.seed = seed
        # Only a cache, as steps mostly stay within an epoch: 8 bytes an item, made again whenever asked for.
        self._orders: dict[int, Int64s] = {}

    def items(self, places: Int64s) -> Int64s:
        """The items (0..size-1) at these places (0, 1, 2, ... for ever)."""
        epochs, within = np.divmod(places, self.size)
        result = np.empty_like(places)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            result[here] = self._order(epoch)[within[here]]
        return result

    def _order(self, epoch: int) -> Int64s:
        if epoch not in self._orders:
            epoch_seed = int(random_bits(self.seed, np.array([epoch]))[0])
            order = np.argsort(random_bits(epoch_seed, np.arange(self.size)), kind="stable")
            self._orders = dict(list(self._orders.items())[-1:]) | {epoch: order}  # two epochs may share a batch
        return self._orders[epoch]


def _mix(x: Uint64s) -> Uint64s:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
