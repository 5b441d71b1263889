"""One prompt on its way to a completion."""

from __future__ import annotations

import secrets
import time

from torch import Tensor

from nanohydra.infer.config import SamplingParams
from nanohydra.infer.grammar import Grammar
from nanohydra.infer.streaming import Completion, Delta, FinishReason, Logprob, Timing, Transcript


class Request:
    """What the engine knows of one prompt. Made by `Engine.submit`.

    Everything that decides the answer is in here, so a request may be taken out of the batch at any time and go on later.
    """

    def __init__(
        self,
        prompt: list[int],
        params: SamplingParams,
        limit: int,
        transcript: Transcript,
        adapter: str | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        self.params = params
        self.ids = list(prompt)
        """Prompt and answer so far."""
        self.prompt_length = len(prompt)
        self.limit = limit
        """Most ids in all."""
        self.transcript = transcript
        self.adapter = adapter
        self.grammar = grammar
        self.seed = secrets.randbits(63) if params.seed is None else params.seed
        self.slot: int | None = None
        """Its row of the cache while it runs."""
        self.salt: bytes | None = None
        """What its keys and values depend on beside the ids: base, adapter, owner (None: they are not to be shared)."""
        self.blocks: list[bytes] = []
        """The names of its blocks in the prefix cache, as far as they have been needed."""
        self.cached_tokens = 0
        self.seen: Tensor | None = None  # (V,) bool, only where the repetition penalty needs it
        self.guesses = 1
        """How many tokens to guess ahead next time."""
        self.logprobs: list[Logprob | None] = []
        self.completion: Completion | None = None
        """The finished answer; None while it is running or waiting."""
        self._times = [time.perf_counter()]  # submitted, first token

    def take(self) -> list[Delta]:
        """What is new since the last call; the last delta carries the completion."""
        return self.transcript.take()

    def accept(self, id: int, ends: set[int], logprob: Logprob | None = None) -> FinishReason | None:
        """Takes a drawn token, and the ids that a tool forces after it. Returns why the answer is over, if it is."""
        if len(self._times) == 1:
            self._times.append(time.perf_counter())
        over = id in ends and not (self.params.ignore_eos and self.grammar is None)
        if self.grammar is not None and not self.grammar.accept(id, over):
            return "error"
        self._append([id], [logprob])
        if not over:
            forced = self.transcript.push(id)[: self.limit - len(self.ids)]
            if forced:
                self._append(forced, [None] * len(forced))
        if over or self.transcript.stopped or (self.grammar is not None and self.grammar.complete):
            return "stop"
        return "length" if len(self.ids) >= self.limit else None

    def _append(self, ids: list[int], logprobs: list[Logprob | None]) -> None:
        self.ids += ids
        told = logprobs if self.params.logprobs is not None else []
        self.logprobs += told
        self.transcript.record(ids, told)
        if self.seen is not None:
            self.seen[[id for id in ids if id < len(self.seen)]] = True

    def finish(self, reason: FinishReason) -> None:
        """Closes the answer."""
        self.transcript.flush()
        now, ids = time.perf_counter(), self.ids[self.prompt_length :]
        start, first = self._times[0], self._times[1] if len(self._times) > 1 else now
        rate = (len(ids) - 1) / max(now - first, 1e-9) if len(ids) > 1 else 0.0
        timing = Timing(first - start, now - start, rate)
        parts = self.transcript.parts
        self.completion = Completion(ids, parts, reason, timing, self.logprobs, self.cached_tokens)
        self.transcript.finish(self.completion)
