"""Replay's memory: even chances, budgets kept, rows as they were."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from continual_toy import LENGTH, VOCAB, Counting
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.continual.memory import Memory, Rehearsed, RehearsedBatch, join, restore, store
from nanohydra.data.batch import Batch
from nanohydra.data.loader import PackedConversations, RowSource
from nanohydra.data.order import Int64s

ROW = 2 * 2 * LENGTH + 2  # bytes of a stored row: ids and targets of 2 bytes, and 12 bits


class Labelled(RowSource):
    """Row n says n + first in every place."""

    def __init__(self, first: int) -> None:
        super().__init__(LENGTH, 4)
        self.first = first

    def take(self, numbers: Int64s) -> Batch:
        rows = torch.from_numpy(numbers)[:, None].expand(-1, LENGTH) + self.first
        return Batch(rows, rows)


def labels(memory: Memory) -> list[int]:
    return sorted(int(row[0]) for rows in memory.kept.values() for row in rows.ids)


def filled(policy: Any, capacity: int, sizes: list[int], seed: int) -> Memory:
    memory = Memory(capacity * ROW, policy, 5000, 4, LENGTH, seed)
    first = 0
    for i, size in enumerate(sizes):
        memory.add(f"d{i}", Labelled(first), size)
        first += size
    return memory


def test_a_reservoir_keeps_every_row_with_the_same_chance() -> None:
    sizes, capacity, draws = [30, 10, 20], 12, 600
    counts = np.zeros(sum(sizes))
    for seed in range(draws):
        kept = labels(filled("reservoir", capacity, sizes, seed))
        assert len(kept) == len(set(kept)) == capacity
        counts[kept] += 1
    expected = draws * capacity / sum(sizes)
    # Five standard deviations of a binomial count; 60 rows.
    assert np.abs(counts - expected).max() < 5 * (expected * (1 - capacity / sum(sizes))) ** 0.5


def test_a_balanced_memory_has_equal_room_for_every_domain_with_even_chances() -> None:
    sizes, draws = [30, 10, 20], 400
    counts = np.zeros(sum(sizes))
    for seed in range(draws):
        memory = filled("balanced", 12, sizes, seed)
        assert [len(rows) for rows in memory.kept.values()] == [4, 4, 4]
        counts[labels(memory)] += 1
    for start, size in ((0, 30), (30, 10), (40, 20)):
        expected = draws * 4 / size
        part = counts[start : start + size]
        assert np.abs(part - expected).max() < 5 * (expected * (1 - 4 / size)) ** 0.5


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from(["reservoir", "balanced"]), st.integers(4, 20), st.lists(st.integers(1, 30), min_size=1, max_size=3)
)
def test_a_memory_never_outgrows_its_bytes_and_comes_back_whole(policy: str, capacity: int, sizes: list[int]) -> None:
    memory = filled(policy, capacity, sizes, 0)
    assert memory.nbytes <= capacity * ROW
    assert memory.nbytes == len(memory) * ROW
    again = Memory(capacity * ROW, policy, 5000, 4, LENGTH, 0)  # type: ignore[arg-type]
    again.load_state_dict(memory.state_dict())
    assert labels(again) == labels(memory)
    numbers = np.arange(7)
    assert torch.equal(again.take(numbers).input_ids, memory.take(numbers).input_ids)
    memory.add("next", Labelled(1000), 9)
    again.add("next", Labelled(1000), 9)
    assert labels(again) == labels(memory)


@pytest.mark.parametrize("vocabulary", [100, 70_000])
def test_stored_rows_are_what_they_were(vocabulary: int) -> None:
    conversations = [
        ([5, 6, 7, 8, 9], [False, False, True, False, True]),
        ([1, 2, 3], [False, False, True]),
        ([4, 5], [False, True]),
    ]
    packed = PackedConversations(conversations, LENGTH, 2, pad_id=0)
    for batch in (packed.take(np.array([0])), Counting(3).take(np.arange(5))):
        again = restore(store(batch, vocabulary))
        assert torch.equal(again.input_ids, batch.input_ids)
        assert torch.equal(again.targets, batch.targets)
        if batch.segment_ids is None:
            assert again.segment_ids is None
            assert again.positions is None
        else:
            assert again.segment_ids is not None
            assert again.positions is not None
            assert batch.positions is not None
            assert torch.equal(again.segment_ids, batch.segment_ids)
            asked = batch.segment_ids < int(batch.segment_ids.max())  # not the padding
            assert torch.equal(again.positions[asked], batch.positions[asked])


def test_a_rehearsed_batch_has_its_share_of_old_rows_and_is_no_larger() -> None:
    source = Rehearsed(Counting(3), Counting(1), 0.25, 8)
    batch = source.batch(0)
    steps = (batch.input_ids[:, 1] - batch.input_ids[:, 0]) % VOCAB
    assert batch.replayed is not None
    assert steps.tolist() == [3] * 6 + [1] * 2
    assert batch.replayed.tolist() == [False] * 6 + [True] * 2
    part = batch.rows(4, 8).to("cpu")
    assert isinstance(part, RehearsedBatch)
    assert part.replayed is not None
    assert part.replayed.tolist() == [False, False, True, True]
    halves = [source.batch(3, rank, 2).input_ids for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), source.batch(3).input_ids)
    assert not torch.equal(source.batch(0).input_ids, source.batch(1).input_ids)


def test_joined_batches_keep_what_only_one_of_them_has() -> None:
    plain = Counting(3).take(np.arange(2))
    packed = PackedConversations([([5, 6, 7], [False, True, True])], LENGTH, 1).take(np.array([0]))
    both = join(plain, packed)
    assert both.segment_ids is not None
    assert both.positions is not None
    assert packed.segment_ids is not None
    assert both.segment_ids[:2].eq(0).all()
    assert both.positions[0].tolist() == list(range(LENGTH))
    assert torch.equal(both.segment_ids[2:], packed.segment_ids)
    assert join(plain, plain).segment_ids is None
