"""Decode steps on a GPU, recorded once and replayed.

A step of one token a row is hundreds of small kernels, and starting them one by one takes longer than running them; a CUDA
graph starts all at once. What is recorded has fixed shapes and addresses, so rows and lengths are rounded up to the next
power of two, and whatever changes from step to step (ids and places) is read from tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nanohydra.infer.cache import KVCache
from nanohydra.model.transformer import Transformer

SHORTEST = 128
"""Least number of places that a recorded step reads."""


class StaticPlan:
    """One token for each of the first `rows` rows of a cache, reading up to `longest` places (a `model.attention.CachePlan`).

    `places` (rows, 1) int64 says where each goes. Rows that are not meant to move get the place after their last token, where
    what is stored is not seen and overwritten by their own next token.
    """

    def __init__(self, cache: KVCache, rows: int, longest: int) -> None:
        self.cache = cache
        self.dtype = cache.dtype
        self.rows = rows
        self.places = torch.zeros(rows, 1, dtype=torch.int64, device=cache.device)
        self.row = torch.arange(rows, device=cache.device).unsqueeze(1)
        self.used = {kind: min(longest, size) for kind, size in cache.sizes.items()}
        self.targets: dict[str, Tensor] = {}

    def begin(self, length: int) -> Tensor:
        sizes = self.cache.sizes.items()
        self.targets = {kind: (self.row * size + self.places % size).flatten() for kind, size in sizes}
        return self.places

    def keys(self, layer_type: str) -> Tensor:
        index = torch.arange(self.used[layer_type], device=self.cache.device).unsqueeze(0)
        if layer_type == "full_attention":
            return index
        return self.places - (self.places - index) % self.cache.sizes[layer_type]  # see CachePlan in infer.cache

    def sees_all(self, layer_type: str) -> bool:
        return False

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        kind, buffer = self.cache.config.layer_types[layer], self.cache.buffers[layer]
        for part, new in zip(buffer, (k, v), strict=True):
            part.flatten(0, 1).index_copy_(0, self.targets[kind], new.flatten(2).flatten(0, 1).to(buffer.dtype))
        held = buffer[:, : self.rows, : self.used[kind]]
        old_k, old_v = held.view(*held.shape[:-1], *k.shape[2:])
        return old_k, old_v

    def commit(self) -> None:
        """Lengths are the host's to count: see `DecodeGraphs.hidden`."""


class DecodeGraphs:
    """The recorded steps of one model and its cache. The model's weights must stay where they are.

    record: as it is, or compute each step anew through the same plans (what the tests on a CPU do).
    """

    def __init__(self, model: Transformer, cache: KVCache, record: bool = True) -> None:
        self.model = model
        self.cache = cache
        self.record = record
        self._steps: dict[tuple[int, int, int], tuple[StaticPlan, Tensor, Callable[[], Tensor]]] = {}

    def hidden(self, slots: Sequence[int], ids: Sequence[int]) -> Tensor:
        """Last hidden states (B, 1, D) of one more token in each of these slots, as `Transformer.hidden` gives them; they
        are overwritten by the next call."""
        cache, active = self.cache, self.cache.active
        longest = max(cache.length(slot) for slot in active) + 1  # also of those that do not move, see StaticPlan
        cache.stretch(longest)
        rows = [active.index(slot) for slot in slots]
        count = _rounded(max(rows) + 1, 1, min(buffer.shape[1] for buffer in cache.buffers))
        longest = _rounded(longest, SHORTEST, cache.sizes["full_attention"])
        key = (count, longest, cache.sizes["full_attention"])
        if key not in self._steps:
            plan = StaticPlan(cache, count, longest)
            tokens = torch.zeros(count, 1, dtype=torch.int64, device=cache.device)
            self._fill(plan, tokens, rows, ids)  # recording runs the step, which must do no harm
            self._steps[key] = plan, tokens, self._recorded(plan, tokens)
        plan, tokens, run = self._steps[key]
        self._fill(plan, tokens, rows, ids)
        hidden = run()
        for slot in slots:
            cache.advance(slot, 1)
        return hidden[rows] if rows != list(range(len(rows))) else hidden[: len(rows)]

    def _fill(self, plan: StaticPlan, tokens: Tensor, rows: Sequence[int], ids: Sequence[int]) -> None:
        """Writes the ids of the rows that move, and everybody's places."""
        lengths = [self.cache.length(slot) for slot in self.cache.active[: plan.rows]]
        plan.places.copy_(torch.tensor(lengths + [0] * (plan.rows - len(lengths))).unsqueeze(1))
        given = [0] * plan.rows
        for row, id in zip(rows, ids, strict=True):
            given[row] = id
        tokens.copy_(torch.tensor(given).unsqueeze(1))

    def _recorded(self, plan: StaticPlan, tokens: Tensor) -> Callable[[], Tensor]:
        def step() -> Tensor:
            return self.model.hidden(tokens, cache=plan)

        if not self.record:
            return step
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # kernels are chosen and memory is found before recording
            step()
            step()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            output = step()

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay


def _rounded(number: int, least: int, most: int) -> int:
    """The next power of two, within bounds."""
    return min(max(least, 1 << (number - 1).bit_length()), most)
