"""The order of batches is a pure function of (seed, step, rank); rows waste nothing and conversations do not mix."""

from __future__ import annotations

import copy
import pickle
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.data.batch import IGNORE, Batch
from nanohydra.data.loader import Mixed, PackedConversations, RowSource, TokenStream
from nanohydra.data.order import Shuffle, random_bits
from nanohydra.data.packing import best_fit
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError

Conversation = tuple[list[int], list[bool]]


def numbered(length: int, documents: int = 7) -> Tokens:
    """A stream in which each token is its own place, so that every row tells where it came from."""
    starts = np.unique(np.linspace(0, length, documents, endpoint=False).astype(np.int64))
    return Tokens(np.array_split(np.arange(length, dtype=np.uint32), 3), starts)


def chats(count: int, seed: int = 0, longest: int = 60) -> list[Conversation]:
    rng = np.random.default_rng(seed)
    result = []
    for i in range(count):
        length = int(rng.integers(2, longest))
        result.append(([1000 * (i + 1) + k for k in range(length)], [k >= length // 2 for k in range(length)]))
    return result


def small_mixture(seed: int = 0) -> Mixed:
    stream = TokenStream(numbered(1000), 64, 8, seed=seed, separate_documents=True)
    packed = PackedConversations(chats(50), 64, 8, seed=seed)
    return Mixed([stream, packed], [3, 1], 8)


SOURCES: dict[str, Callable[[int], RowSource]] = {
    "shuffled": lambda seed: TokenStream(numbered(1000), 16, 8, seed=seed),
    "random": lambda seed: TokenStream(numbered(1000), 16, 8, seed=seed, order="random"),
    "sequential": lambda seed: TokenStream(numbered(1000), 16, 8, seed=seed, order="sequential"),
    "documents": lambda seed: TokenStream(numbered(1000), 16, 8, seed=seed, separate_documents=True),
    "conversations": lambda seed: PackedConversations(chats(80), 64, 8, seed=seed),
    "mixed": small_mixture,
}


@pytest.fixture(params=list(SOURCES))
def make(request: pytest.FixtureRequest) -> Callable[[int], RowSource]:
    return SOURCES[request.param]


def same(a: Batch, b: Batch) -> bool:
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(Batch)]
    return all(x is y or torch.equal(x, y) for x, y in pairs)


def joined(batches: list[Batch]) -> Batch:
    columns = [[getattr(b, f.name) for b in batches] for f in fields(Batch)]
    return Batch(*(None if column[0] is None else torch.cat(column) for column in columns))


def test_the_union_of_the_ranks_is_the_same_at_any_world_size(make: Callable[[int], RowSource]) -> None:
    source = make(3)
    for step in (0, 1, 17, 1000):
        whole = source.batch(step)
        for world_size in (1, 2, 4, 8):
            assert same(joined([source.batch(step, rank, world_size) for rank in range(world_size)]), whole)


def test_a_batch_does_not_depend_on_what_was_asked_before(make: Callable[[int], RowSource]) -> None:
    steps = [5, 0, 99, 5, 31, 0]
    used = make(3)
    for step in steps:
        assert same(used.batch(step), make(3).batch(step))
    assert same(pickle.loads(pickle.dumps(used)).batch(7), copy.deepcopy(used).batch(7))


def test_the_seed_matters(make: Callable[[int], RowSource]) -> None:
    if make is SOURCES["sequential"]:
        assert same(make(0).batch(0), make(1).batch(0))
    else:
        assert not same(make(0).batch(0), make(1).batch(0))


def test_batches_are_well_formed(make: Callable[[int], RowSource]) -> None:
    source = make(0)
    batch = source.batch(2)
    for f in fields(Batch):
        tensor = getattr(batch, f.name)
        if tensor is not None:
            assert tensor.shape == (8, source.seq_len)
            assert tensor.dtype == torch.int64
            assert tensor.is_contiguous()
    assert same(joined([batch.rows(0, 3), batch.rows(3, 8)]), batch)
    assert same(batch.to("cpu"), batch)


def test_a_batch_that_cannot_be_shared_is_refused(make: Callable[[int], RowSource]) -> None:
    with pytest.raises(UserError, match="multiple of 3"):
        make(0).batch(0, 0, 3)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.integers(0, 2**70), st.integers(0, 10**12))
def test_every_epoch_holds_every_item_once(size: int, seed: int, epoch: int) -> None:
    shuffle = Shuffle(size, seed)
    places = np.arange(epoch * size, (epoch + 1) * size)
    assert sorted(shuffle.items(places).tolist()) == list(range(size))
    assert shuffle.items(places[::-1]).tolist() == shuffle.items(places).tolist()[::-1]


def test_epochs_differ_and_orders_are_uniform() -> None:
    orders = Counter(
        tuple(Shuffle(4, seed).items(np.arange(epoch * 4, epoch * 4 + 4))) for seed in range(60) for epoch in range(40)
    )
    assert len(orders) == 24
    expected = 2400 / 24
    chi_square = sum((count - expected) ** 2 / expected for count in orders.values())
    assert chi_square < 50  # 23 degrees of freedom: exceeded with probability 0.001


def test_random_bits_are_fixed_for_ever() -> None:
    # A resumed run must meet the same rows under any version of numpy: these numbers must never change.
    bits = random_bits(42, np.array([0, 1, 2**40]))
    assert bits.tolist() == [6332618229526065668, 17630415256238047317, 7067088624304863322]


def test_windows_cover_the_stream_once_an_epoch_and_waste_nothing() -> None:
    length, seq_len, batch_size = 100_003, 32, 8
    source = TokenStream(numbered(length), seq_len, batch_size)
    steps = -(-source.windows // batch_size)
    rows = torch.cat([source.batch(step).input_ids for step in range(steps)])[: source.windows]
    assert sorted(rows.flatten().tolist()) == list(range(source.windows * seq_len))
    assert 1 - source.windows * seq_len / length < 0.01
    batch = source.batch(steps + 5)  # in the next epoch
    assert torch.equal(batch.targets, batch.input_ids + 1)


def test_sequential_order_is_the_stream() -> None:
    source = TokenStream(numbered(1000), 10, 5, order="sequential")
    assert torch.equal(source.batch(3).input_ids.flatten(), torch.arange(150, 200))


def test_random_windows_reach_both_ends() -> None:
    source = TokenStream(numbered(20), 16, 200, order="random")
    assert set(source.batch(0).input_ids[:, 0].tolist()) == {0, 1, 2, 3}
    assert source.batch(0).targets.max() == 19


@settings(max_examples=50, deadline=None)
@given(st.integers(20, 120), st.integers(1, 30), st.integers(0, 50))
def test_documents_are_separate_segments(length: int, documents: int, step: int) -> None:
    tokens = numbered(length, min(documents, length))
    assert tokens.document_starts is not None
    batch = TokenStream(tokens, 16, 4, separate_documents=True).batch(step)
    assert batch.segment_ids is not None
    assert batch.positions is not None
    document = np.searchsorted(tokens.document_starts, batch.input_ids.numpy(), side="right")
    same_document = document[:, :, None] == document[:, None, :]
    same_segment = (batch.segment_ids[:, :, None] == batch.segment_ids[:, None, :]).numpy()
    assert (same_document == same_segment).all()
    for row in range(4):
        for segment in batch.segment_ids[row].unique():
            positions = batch.positions[row][batch.segment_ids[row] == segment]
            assert positions.tolist() == list(range(len(positions)))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 50), max_size=60))
def test_best_fit_is_a_packing(lengths: list[int]) -> None:
    rows = best_fit(lengths, 50)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    assert all(sum(lengths[item] for item in row) <= 50 for row in rows)
    assert len(rows) <= 11 / 9 * np.ceil(sum(lengths) / 50) + 4 + sum(length > 25 for length in lengths)


def unpack(batch: Batch) -> list[Conversation]:
    """The conversations that the rows of a batch hold, without their last tokens' targets."""
    assert batch.segment_ids is not None
    assert batch.positions is not None
    found = []
    for ids, targets, segments, positions in zip(batch.input_ids, batch.targets, batch.segment_ids, batch.positions):
        for segment in segments.unique():
            inside = segments == segment
            if (targets[inside] == IGNORE).all():
                continue  # padding
            assert positions[inside].tolist() == list(range(int(inside.sum())))
            labels = targets[inside].tolist()
            known = ids[inside].tolist()
            last = labels[-1]
            found.append(([*known, last], [False, *(label != IGNORE for label in labels)]))
            assert all(label in (IGNORE, token) for label, token in zip(labels, [*known[1:], last]))
    return found


def test_packed_rows_hold_every_conversation_whole() -> None:
    conversations = chats(200)
    source = PackedConversations(conversations, 64, 10, pad_id=7)
    steps = -(-source.row_count // 10)
    rows = joined([source.batch(step) for step in range(steps)]).rows(0, source.row_count)
    expected = [(ids, [False, *trained[1:]]) for ids, trained in conversations]
    assert sorted(unpack(rows)) == sorted(expected)
    assert (source.cut, source.dropped) == (0, 0)
    filled = sum(len(ids) - 1 for ids, _ in conversations)
    assert source.waste == pytest.approx(1 - filled / (source.row_count * 64))
    assert int((rows.input_ids == 7).sum()) == source.row_count * 64 - filled


def test_padding_is_a_segment_without_targets() -> None:
    batch = PackedConversations([([5, 6, 8], [False, True, True])], 5, 1, pad_id=9).batch(0)
    assert batch.input_ids.tolist() == [[5, 6, 9, 9, 9]]
    assert batch.targets.tolist() == [[6, 8, IGNORE, IGNORE, IGNORE]]
    assert batch.segment_ids is not None
    assert batch.positions is not None
    assert batch.segment_ids.tolist() == [[0, 0, 1, 1, 1]]
    assert batch.positions.tolist() == [[0, 1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("median", "spread", "seq_len"), [(75, 0.6, 256), (150, 0.8, 512), (200, 1.0, 1024), (30, 0.5, 256)]
)
def test_packing_wastes_under_one_percent(median: int, spread: float, seq_len: int) -> None:
    # Lengths of real conversations are about log-normal.
    lengths = np.clip(np.random.default_rng(1).lognormal(np.log(median), spread, 3000), 8, seq_len).astype(int)
    source = PackedConversations([([1] * n, [True] * n) for n in lengths.tolist()], seq_len, 8)
    assert source.waste < 0.01


def test_long_conversations_are_cut_with_a_warning() -> None:
    long = ([*range(100)], [False] * 20 + [True] * 80)
    useless = ([*range(100)], [False] * 90 + [True] * 10)  # its answer lies beyond the cut
    with pytest.warns(UserWarning, match="2 of 3 conversations are longer than 64 tokens"):
        source = PackedConversations([long, useless, ([1, 2], [False, True])], 64, 1)
    assert (source.cut, source.dropped) == (2, 1)
    kept = sorted(unpack(source.batch(0)) + unpack(source.batch(1)))
    assert kept == [([*range(65)], [False] * 20 + [True] * 45), ([1, 2], [False, True])]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5).filter(any), st.integers(1, 400))
def test_a_mixture_gives_each_source_its_share_and_loses_no_row(weights: list[int], count: int) -> None:
    streams = [TokenStream(numbered(5000), 10, 1, seed=i, order="sequential") for i in range(len(weights))]
    mixture = Mixed(streams, weights, 1)
    assigned = mixture._assign(np.arange(count))
    assert sorted(np.concatenate([where for where, _ in assigned]).tolist()) == list(range(count))
    for weight, (where, own) in zip(weights, assigned):
        assert own.tolist() == list(range(len(where))), "a source's rows come in its own order, none left out"
        assert abs(len(where) - count * weight / sum(weights)) <= len(weights)


def test_a_mixture_takes_rows_from_its_sources() -> None:
    parts = [TokenStream(numbered(1000), 10, 1, order="sequential"), PackedConversations(chats(5, longest=10), 10, 1)]
    mixture = Mixed(parts, [0.5, 0.5], 4)
    rows = joined([mixture.batch(step) for step in range(3)])
    assert rows.segment_ids is not None
    for (where, own), source in zip(mixture._assign(np.arange(12)), parts):
        mine = source.take(own)
        for f in fields(Batch):
            values = getattr(mine, f.name)
            if values is None:  # one segment a row
                values = torch.zeros(6, 10) if f.name == "segment_ids" else torch.arange(10).repeat(6, 1)
            assert torch.equal(getattr(rows, f.name)[where], values.long())


def test_bad_input_gets_one_line() -> None:
    with pytest.raises(UserError, match="Use more text or a smaller seq_len"):
        TokenStream(numbered(16), 16, 1)
    with pytest.raises(UserError, match="at least 1"):
        TokenStream(numbered(16), 0, 1)
    with pytest.raises(UserError, match="no document boundaries"):
        TokenStream(Tokens([np.arange(99)]), 16, 1, separate_documents=True)
    with pytest.raises(UserError, match="No conversation has a token to learn"):
        PackedConversations([([1, 2], [False, False])], 8, 1)
    stream, other = (TokenStream(numbered(99), n, 1) for n in (8, 9))
    with pytest.raises(UserError, match="one weight for each source"):
        Mixed([stream], [1, 2], 1)
    with pytest.raises(UserError, match="same seq_len"):
        Mixed([stream, other], [1, 2], 1)


def test_a_batch_costs_little() -> None:
    source = TokenStream(numbered(3_000_000, 10_000), 256, 32, separate_documents=True)
    source.batch(0)
    times = []
    for step in range(50):
        start = time.perf_counter()
        source.batch(step)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3  # the best of many, as other work may share the machine
