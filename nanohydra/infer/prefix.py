"""Beginnings that many prompts share are read once: a store of keys and values in blocks of tokens.

A block's name is a hash of its own tokens and of the name of the block before it, so it stands for everything up to its
end; the first one's name depends on what else decides keys and values, the base, the adapter, and whose request it is (the
salt). Blocks are copied into a request's row of the KV cache and out of it, so no request holds one, and the least recently
used go first.

Sliding-window layers keep only the end of what they read, so models that have them use no store.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import OrderedDict

import torch

from nanohydra.infer.cache import KVCache
from nanohydra.infer.request import Request

BLOCK = 16
"""Tokens in a block."""


class PrefixStore:
    """Keeps up to `tokens` tokens for the requests of one KV cache.

    queries, hits: tokens of prompts that were looked for, and those that were found.
    """

    def __init__(self, cache: KVCache, tokens: int) -> None:
        self.cache = cache
        self.blocks = tokens // BLOCK if "sliding_attention" not in cache.config.layer_types else 0
        width = cache.config.key_value_size
        self._memory = [
            torch.empty(2, self.blocks, BLOCK, width, dtype=cache.dtype, device=cache.device)
            for _ in range(cache.config.num_hidden_layers if self.blocks else 0)
        ]
        self._places: OrderedDict[bytes, int] = OrderedDict()  # by name, the least recently used first
        self.queries = self.hits = 0

    def clear(self) -> None:
        """Forgets everything, as is needed where the model's weights have changed."""
        self._places.clear()

    def restore(self, request: Request) -> None:
        """Copies the longest stored beginning of a request's ids into its row, which is empty; its last id stays to be
        read, for its logits are needed."""
        if not self.blocks or request.salt is None:
            return
        assert request.slot is not None, "only running requests have a slot"
        found: list[bytes] = []
        for name in self._names(request, (len(request.ids) - 1) // BLOCK):
            if name not in self._places:
                break
            found.append(name)
        self.queries += len(request.ids)
        self.hits += len(found) * BLOCK
        if len(request.ids) == request.prompt_length:
            request.cached_tokens = len(found) * BLOCK
        if found:
            self._touch(found)
            places = torch.tensor([self._places[name] for name in found], device=self.cache.device)
            self.cache.put(request.slot, [part.index_select(1, places).flatten(1, 2) for part in self._memory])

    def save(self, request: Request) -> None:
        """Stores the whole blocks of what a request's row holds, as far as they are new and there is room."""
        if not self.blocks or request.salt is None or request.slot is None:
            return
        count = min(self.cache.length(request.slot) // BLOCK, self.blocks)
        names = self._names(request, count)
        new = [i for i, name in enumerate(names) if name not in self._places]
        self._touch([name for name in names if name in self._places])
        if not new:
            return
        for i in new:
            place = self._places.popitem(last=False)[1] if len(self._places) == self.blocks else len(self._places)
            self._places[names[i]] = place
        self._touch(names)
        places = torch.tensor([self._places[names[i]] for i in new], device=self.cache.device)
        held = self.cache.held(request.slot, new[0] * BLOCK, (new[-1] + 1) * BLOCK)
        which = torch.tensor([i - new[0] for i in new], device=self.cache.device)
        for part, layer in zip(self._memory, held, strict=True):
            part[:, places] = layer.view(2, -1, BLOCK, layer.shape[-1]).index_select(1, which)

    def reads_same(self, request: Request, other: Request) -> bool:
        """Whether `other` will read the block that `request` is to read next: then it is worth waiting for."""
        if not self.blocks or request.salt is None or other.salt is None:
            return False
        names = self._names(request, (len(request.ids) - 1) // BLOCK)
        missing = next((i for i, name in enumerate(names) if name not in self._places), len(names))
        return missing < len(names) and names[missing : missing + 1] == self._names(other, missing + 1)[missing:]

    def _names(self, request: Request, count: int) -> list[bytes]:
        """The names of the first `count` blocks of a request's ids (fewer where it has fewer)."""
        names = request.blocks
        for i in range(len(names), min(count, len(request.ids) // BLOCK)):
            before = names[-1] if names else request.salt or b""
            tokens = array("q", request.ids[i * BLOCK : (i + 1) * BLOCK]).tobytes()
            names.append(hashlib.blake2b(before + tokens, digest_size=16).digest())
        return names[:count]

    def _touch(self, names: list[bytes]) -> None:
        """Marks blocks as used just now; a beginning later than what follows it, so that it is not lost before."""
        for name in reversed(names):
            self._places.move_to_end(name)
