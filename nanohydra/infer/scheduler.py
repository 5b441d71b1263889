"""Which requests run, and what each step works on.

Requests are admitted in the order they came, while the KV cache has room for one more. When the running ones outgrow it,
the newest goes back to the head of the queue and is read anew later; its answer goes on as if nothing had been, since a
token's chance depends on the request's seed and the token's position alone. The oldest is never sent back, so all finish.

A step decodes every request that waits for one token, then reads at most `prefill_tokens` of prompts (padding included),
by turns of the request that came first and of the shortest: neither is a short prompt stalled by a long one, nor the long
one for ever by short ones.
"""

from __future__ import annotations

from collections import deque

from nanohydra.infer.cache import KVCache
from nanohydra.infer.prefix import PrefixStore
from nanohydra.infer.request import Request


class Scheduler:
    """The queue and the running batch. headroom: tokens that a running request may add to the cache in one step."""

    def __init__(self, cache: KVCache, store: PrefixStore, prefill_tokens: int, headroom: int = 1) -> None:
        self.cache = cache
        self.store = store
        self.prefill_tokens = prefill_tokens
        self.headroom = headroom
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        """The oldest first."""
        self.preemptions = 0
        self._shortest_first = False

    def fill(self) -> list[Request]:
        """Sends requests back while the others would outgrow the cache, and returns these; then admits those for which
        there is room."""
        sent: list[Request] = []
        longest = self._longest(self.running)
        while len(self.running) > self.cache.room(longest):
            self.waiting.appendleft(newest := self.running[-1])
            self.store.save(newest)
            self.release(newest)
            sent.append(newest)
            longest = self._longest(self.running)
        while self.waiting and len(self.running) < self.cache.slots:
            longest = max(longest, self._longest([self.waiting[0]]))
            if len(self.running) >= self.cache.room(longest):
                break
            request = self.waiting.popleft()
            request.slot = self.cache.allocate()
            self.running.append(request)
        self.preemptions += len(sent)
        return sent

    def release(self, request: Request) -> None:
        """Takes a running request out of the batch; its row is free at once."""
        assert request.slot is not None, "only running requests have a slot"
        self.running.remove(request)
        self.cache.free(request.slot)
        request.slot = None

    def remove(self, request: Request) -> None:
        """Takes a request out of the queue or the batch."""
        if request.slot is None:
            self.waiting.remove(request)
        else:
            self.release(request)

    def work(self) -> tuple[list[Request], list[Request]]:
        """The running requests that have one token to be read, and those that have more."""
        ready: list[Request] = []
        longer: list[Request] = []
        for request in self.running:
            (ready if self.pending(request) == 1 else longer).append(request)
        return ready, longer

    def pending(self, request: Request) -> int:
        """How many of a running request's ids are not in the cache yet; at least 1."""
        assert request.slot is not None, "only running requests have a slot"
        return len(request.ids) - self.cache.length(request.slot)

    def chunk(self, longer: list[Request]) -> dict[Request, int]:
        """What to read now of requests that have more than one token pending: how many tokens of which."""
        able = self._begin(longer)
        order = sorted(able, key=self.pending) if self._shortest_first else able
        self._shortest_first = not self._shortest_first
        width = min(self.pending(order[0]), self.prefill_tokens)
        alike = [r for r in order if 2 * min(self.pending(r), width) >= width]
        return {r: min(self.pending(r), width) for r in alike[: max(1, self.prefill_tokens // width)]}

    def _begin(self, longer: list[Request]) -> list[Request]:
        """Those that can be read now, the others being about to find their beginning read by an earlier one."""
        able: list[Request] = []
        for request in longer:
            if self.pending(request) == len(request.ids):
                if any(self.store.reads_same(request, earlier) for earlier in able):
                    continue
                self.store.restore(request)
            able.append(request)
        return able

    def _longest(self, requests: list[Request]) -> int:
        most = max((len(request.ids) for request in requests), default=0)
        return min(most + self.headroom, self.cache.max_len)
