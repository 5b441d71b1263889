"""The KV cache of a batch of sequences that come and go, and grow at their own pace.

What an engine does with it:

    cache = KVCache(config, slots=8, max_len=1024)
    a = cache.allocate()                                   # a slot for a new sequence
    model.hidden(prompt, cache=cache.rows([a]))            # prefill, whole or in chunks; (1, T) ids
    b, c = cache.allocate(), cache.allocate()
    model.hidden(ids, cache=cache.rows([b, c], [7, 4]))    # two rows at once, (2, 7) ids, the second padded at its end
    model.hidden(last, cache=cache.rows(cache.active))     # one decode step of all sequences, (B, 1) ids
    cache.length(a); cache.truncate(a, n); cache.free(a)

Every row may have its own length and its own number of new tokens (up to the T of that forward pass). Padding is never
seen and never stored, and hidden states at padded places mean nothing. Order the rows as in `cache.active` where you
can: then nothing is copied. Any other order or subset gives the same result, at the price of a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig


class KVCache:
    """Keys and values of up to `slots` sequences of up to `max_len` tokens.

    A full-attention layer holds (slots, max_len, KV heads x head_dim) twice. A sliding-attention layer holds only its
    window: a ring of `sliding_window + rollback` places, where the token of place p lies at p modulo the ring's size.

    tokens: the memory of a full-attention layer in tokens, None for slots x max_len. Where it is less, it is divided evenly
    among as many rows as hold the longest sequence: rows are moved closer together for one more and farther apart for a
    longer one, and `room` tells how many there can be.

    dtype: of the stored keys and values, in which attention then works. None: bf16, but fp32 on a CPU, where torch attends from
    one query 5 to 20 times as fast in fp32 as in bf16. rollback: how many tokens `truncate` can always take back (for speculative
    decoding; models without windows can go back to any length). Raises UserError when max_len is beyond the model's context.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        max_len: int | None = None,
        *,
        tokens: int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
        rollback: int = 0,
    ) -> None:
        self.max_len = config.max_position_embeddings if max_len is None else max_len
        if self.max_len > config.max_position_embeddings:
            context = config.max_position_embeddings
            raise UserError(f"A cache of {self.max_len} tokens is longer than the model's context, {context}.")
        self.config = config
        self.slots = slots
        self.device = torch.device(device)
        self.dtype = dtype or (torch.float32 if self.device.type == "cpu" else torch.bfloat16)
        self.tokens = slots * self.max_len if tokens is None else min(tokens, slots * self.max_len)
        if self.tokens < self.max_len:
            raise UserError(f"A cache of {self.tokens} tokens cannot hold one sequence of {self.max_len}.")
        self.sizes: dict[str, int] = {"full_attention": self.tokens // slots}
        if config.sliding_window is not None:
            self.sizes["sliding_attention"] = min(config.sliding_window + rollback, self.max_len)
        memory = {"full_attention": self.tokens, "sliding_attention": slots * self.sizes.get("sliding_attention", 0)}
        self._memory = [
            torch.zeros(2, memory[kind], config.key_value_size, dtype=self.dtype, device=self.device)
            for kind in config.layer_types
        ]
        self.buffers = [
            _rows_of(part, slots, self.sizes[kind]) for part, kind in zip(self._memory, config.layer_types, strict=True)
        ]
        """For each layer (keys and values, rows, places, KV heads x head_dim)."""
        self._order: list[int] = []  # row -> slot; the rows in use are always the first ones
        self._length: dict[int, int] = {}
        self._longest: dict[int, int] = {}  # the most tokens a slot ever held: how far its rings have turned

    @property
    def active(self) -> list[int]:
        """The slots in use, in the order in which a forward pass over all of them needs no copy."""
        return list(self._order)

    @property
    def bytes(self) -> int:
        """Memory of all buffers."""
        return sum(part.nbytes for part in self._memory)

    def room(self, length: int) -> int:
        """How many sequences can be held while the longest has `length` tokens."""
        return min(self.slots, self.tokens // max(1, length))

    def stretch(self, length: int) -> None:
        """Makes rows long enough for `length` tokens. Raises ValueError where too many are in use for that."""
        if length > self.sizes["full_attention"]:
            if self.room(length) < len(self._order):
                raise ValueError(
                    f"The cache has no room for {len(self._order)} sequences of {length} tokens: free some."
                )
            self._divide(self.room(length))

    def allocate(self) -> int:
        """A free slot, now in use and of length 0. Raises ValueError when all are in use."""
        count = len(self._order) + 1
        if count > self.room(max(self._length.values(), default=0)):
            raise ValueError(f"All {count - 1} slots of the cache are in use.")
        if count * self.sizes["full_attention"] > self.tokens:
            self._divide(count)
        slot = next(i for i in range(self.slots) if i not in self._length)
        self._order.append(slot)
        self._length[slot] = self._longest[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Gives a slot back. The last row moves into the gap, so that the rows in use stay together."""
        row, last = self._order.index(slot), len(self._order) - 1
        if row != last:
            for buffer in self.buffers:
                used = min(self._longest[self._order[last]], buffer.shape[2])
                buffer[:, row, :used] = buffer[:, last, :used]
            self._order[row] = self._order[last]
        self._order.pop()
        del self._length[slot], self._longest[slot]

    def length(self, slot: int) -> int:
        """Number of tokens that a slot holds."""
        return self._length[slot]

    def advance(self, slot: int, count: int) -> None:
        """Counts tokens that a forward pass has stored in a slot."""
        self._length[slot] += count
        self._longest[slot] = max(self._longest[slot], self._length[slot])

    def truncate(self, slot: int, length: int) -> None:
        """Forgets a slot's tokens from place `length` on. Raises ValueError if a ring has lost what is then needed."""
        if not 0 <= length <= self._length[slot]:
            raise ValueError(f"Slot {slot} holds {self._length[slot]} tokens: it cannot be cut to {length}.")
        window, ring = self.config.sliding_window, self.sizes.get("sliding_attention")
        longest = self._longest[slot]
        # The next token, at place `length`, sees from length - window + 1 on; the ring holds from longest - ring on.
        if window and ring and 0 < length < longest and longest - ring > max(0, length - window + 1):
            raise ValueError(
                f"Slot {slot} cannot be cut from {longest} to {length} tokens: a sliding window of {window} keeps only "
                f"the last {ring}. Make the cache with a larger rollback."
            )
        self._length[slot] = length

    def held(self, slot: int, start: int, end: int) -> list[Tensor]:
        """Keys and values (2, end - start, KV heads x head_dim) of a slot's places, for each layer (views; models whose
        layers all see everything)."""
        row = self._order.index(slot)
        return [buffer[:, row, start:end] for buffer in self.buffers]

    def put(self, slot: int, held: Sequence[Tensor]) -> None:
        """Begins an empty slot with what another sequence held at its first places (see `held`)."""
        length = held[0].shape[1]
        self.stretch(length)
        row = self._order.index(slot)
        for buffer, part in zip(self.buffers, held, strict=True):
            buffer[:, row, :length] = part
        self._length[slot] = self._longest[slot] = length

    def _divide(self, count: int) -> None:
        """Lays out the memory of full-attention layers as `count` rows, as long as can be."""
        self.sizes["full_attention"] = size = min(self.max_len, self.tokens // count)
        used, longest = len(self._order), max(self._length.values(), default=0)
        for layer, kind in enumerate(self.config.layer_types):
            if kind == "full_attention":
                held = self.buffers[layer][:, :used, :longest].clone()
                self.buffers[layer] = _rows_of(self._memory[layer], count, size)
                self.buffers[layer][:, :used, :longest] = held

    def rows(self, slots: Sequence[int], counts: Sequence[int] | None = None) -> CachePlan:
        """The plan of one forward pass: row i of the input goes to slots[i], and its first counts[i] tokens are real.

        counts: None when all are; else its largest must be the pass's T. A plan serves one pass, begun before the cache
        is changed. Raises ValueError for a slot given twice; the pass raises UserError when a row outgrows max_len.
        """
        if len(set(slots)) != len(slots):
            raise ValueError("The rows of one forward pass must be different slots.")
        return CachePlan(self, list(slots), None if counts is None else list(counts))


def _rows_of(memory: Tensor, rows: int, size: int) -> Tensor:
    """A layer's memory (2, tokens, width) seen as (2, rows, size, width)."""
    return memory[:, : rows * size].view(2, rows, size, memory.shape[-1])


@dataclass
class _Ring:
    """What one forward pass reads and writes in the layers of one type."""

    size: int
    target: Tensor  # (N,) where to write, in a buffer seen as (rows x places, width)
    source: Tensor | None  # (N,) what to write, in the new tokens seen as (B x T, width); None: all
    used: int  # how many places of the rows to read
    keys: Tensor | None  # (B or 1, S), see model.attention.CachePlan.keys
    sees_all: bool
    joins: bool  # whether the new keys follow the old ones, instead of being read back from the buffer


class CachePlan:
    """One forward pass over rows of a KVCache (see `model.attention.CachePlan`); `begin` works everything out, once."""

    def __init__(self, cache: KVCache, slots: list[int], counts: list[int] | None) -> None:
        self.cache = cache
        self.slots = slots
        self.counts = counts
        self.dtype = cache.dtype
        self.rings: dict[str, _Ring] = {}

    def begin(self, length: int) -> Tensor:
        cache = self.cache
        self.rows = [cache._order.index(slot) for slot in self.slots]
        self.starts = [cache._length[slot] for slot in self.slots]
        self.length = length
        counts = self.counts = self.counts or [length] * len(self.slots)
        if max(counts) != length or len(counts) != len(self.slots) or min(counts) < 0:
            raise ValueError(f"counts {counts} do not fit {len(self.slots)} rows of {length} tokens.")
        for start, count in zip(self.starts, counts, strict=True):
            if start + count > cache.max_len:
                raise UserError(
                    f"The sequence has {start + count} tokens, the cache holds {cache.max_len}: shorten it."
                )
        cache.stretch(max(map(sum, zip(self.starts, counts))))
        first = self.rows[0]
        self.together = self.rows == list(range(first, first + len(self.rows)))
        places = torch.tensor(self.starts).unsqueeze(1) + torch.arange(length)
        self.rings = {kind: self._ring(kind, places) for kind in set(cache.config.layer_types)}
        if not self.together:
            self.index = torch.tensor(self.rows, device=cache.device)
        return places.clamp(max=cache.max_len - 1).to(cache.device)  # padding may reach beyond the model's tables

    def _ring(self, kind: str, places: Tensor) -> _Ring:
        cache, length, counts = self.cache, self.length, self.counts
        assert counts is not None
        size = cache.sizes[kind]
        target = torch.tensor(self.rows).unsqueeze(1) * size + places % size
        source = None
        if min(counts) < length or length > size:
            # Padding is not stored, and of more tokens than the ring holds only the last ones.
            step = torch.arange(length)
            count = torch.tensor(counts).unsqueeze(1)
            source = ((step < count) & (step >= count - size)).flatten().nonzero().squeeze(1)
            target = target.flatten()[source]
        longest = max(self.starts)
        joins = kind == "sliding_attention" and length > 1
        used = min(longest, size) if joins else min(longest + length, size)
        keys = None
        if longest > 0:
            index = torch.arange(used)
            if kind == "full_attention":
                keys = index.unsqueeze(0)
            else:
                # The newest token of the ring is at place `last`; each index holds the latest place congruent to it.
                last = torch.tensor(self.starts).unsqueeze(1) - (1 if joins else 0)
                keys = last - (last - index) % size
                keys = torch.cat((keys, places), 1) if joins else keys
        window = cache.config.sliding_window if kind == "sliding_attention" else None
        sees_all = length == 1 and min(self.starts) + 1 >= used and (window is None or used <= window)
        on = cache.device
        return _Ring(
            size=size,
            target=target.flatten().to(on),
            source=None if source is None else source.to(on),
            used=used,
            keys=None if keys is None else keys.to(on),
            sees_all=sees_all,
            joins=joins,
        )

    def keys(self, layer_type: str) -> Tensor | None:
        return self.rings[layer_type].keys

    def sees_all(self, layer_type: str) -> bool:
        return self.rings[layer_type].sees_all

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        ring = self.rings[self.cache.config.layer_types[layer]]
        buffer = self.cache.buffers[layer]
        old = self._read(buffer, ring, k) if ring.joins and ring.keys is not None else None
        if old is not None:  # before the new ones overwrite them
            old = torch.cat((old[0], k.to(buffer.dtype)), 1), torch.cat((old[1], v.to(buffer.dtype)), 1)
        for part, new in zip(buffer, (k, v), strict=True):
            rows = new.flatten(2).flatten(0, 1).to(buffer.dtype)
            part.flatten(0, 1).index_copy_(0, ring.target, rows if ring.source is None else rows[ring.source])
        if old is not None:
            return old
        return (k, v) if ring.keys is None else self._read(buffer, ring, k)

    def _read(self, buffer: Tensor, ring: _Ring, like: Tensor) -> tuple[Tensor, Tensor]:
        if self.together:
            held = buffer[:, self.rows[0] : self.rows[0] + len(self.rows), : ring.used]
        else:
            held = buffer[:, :, : ring.used].index_select(1, self.index)
        k, v = held.view(*held.shape[:-1], *like.shape[2:])
        return k, v

    def commit(self) -> None:
        assert self.counts is not None
        for slot, count in zip(self.slots, self.counts, strict=True):
            self.cache.advance(slot, count)
