"""Guessing ahead: several tokens are guessed cheaply and the model checks all of them in one step.

The model draws its own token at every guessed place, with the chance that belongs to that place (seed and position), and
a guess stands where it is that very token. So answers are, token for token, what they would be without guesses, and thus
exact under greedy decoding and in distribution otherwise, whatever the guesses are. A draft model draws with the same
chances, so that two models that nearly agree nearly always draw the same. (Rejection sampling, Leviathan et al. 2023, is
exact in distribution too, but its answers would change with the batch.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from nanohydra.errors import UserError
from nanohydra.infer.cache import KVCache
from nanohydra.infer.request import Request
from nanohydra.infer.sampling import SamplingBatch, sample, uniform
from nanohydra.model.transformer import Transformer


class Guesser(Protocol):
    """What proposes tokens."""

    def guess(self, requests: Sequence[Request], most: Sequence[int]) -> list[list[int]]:
        """For each request up to most[i] tokens that may follow its ids."""

    def forget(self, request: Request) -> None:
        """Called when a request leaves the batch."""


class PromptLookup:
    """Guesses that what followed the last few tokens the last time will follow again: good where answers quote."""

    LENGTHS = (4, 2)
    """Tokens that must be equal, the first that is found counts."""

    def __init__(self) -> None:
        self._seen: dict[Request, dict[tuple[int, ...], int]] = {}
        self._read: dict[Request, int] = {}

    def guess(self, requests: Sequence[Request], most: Sequence[int]) -> list[list[int]]:
        return [self._guess(request, n) for request, n in zip(requests, most, strict=True)]

    def _guess(self, request: Request, most: int) -> list[int]:
        ids, seen = request.ids, self._seen.setdefault(request, {})
        for end in range(self._read.get(request, 1), len(ids)):
            for n in self.LENGTHS:
                if end >= n:
                    seen[tuple(ids[end - n : end])] = end
        self._read[request] = len(ids)
        at = (seen.get(tuple(ids[-n:])) for n in self.LENGTHS)
        start = next((place for place in at if place is not None), None)
        if start is None:
            return []
        return [ids[start + i % (len(ids) - start)] for i in range(most)]  # what ends the text may go round and round

    def forget(self, request: Request) -> None:
        self._seen.pop(request, None)
        self._read.pop(request, None)


class DraftModel:
    """Guesses with a smaller model of the same tokenizer, which keeps a KV cache of its own.

    slots, max_len: as the engine's. prefill_tokens: most tokens of a prompt that it reads for one guess; a request whose
    prompt it has not finished is not guessed yet.
    """

    def __init__(
        self, model: Transformer, vocabulary: int, slots: int, max_len: int, guesses: int, prefill_tokens: int
    ) -> None:
        if model.config.vocab_size < vocabulary:
            raise UserError(
                f"The draft model knows {model.config.vocab_size} tokens, the tokenizer {vocabulary}: "
                "use a draft of the same tokenizer."
            )
        self.model = model.eval()
        self.vocabulary = vocabulary
        self.prefill_tokens = prefill_tokens
        weight = model.model.embed_tokens.weight
        self.max_len = min(max_len, model.config.max_position_embeddings)
        dtype = torch.float32 if weight.device.type == "cpu" else weight.dtype
        self.cache = KVCache(model.config, slots, self.max_len, dtype=dtype, device=weight.device, rollback=guesses)
        self._slots: dict[Request, int] = {}
        self._guessed: dict[Request, tuple[int, list[int]]] = {}  # how many ids there were, and what was guessed then

    def guess(self, requests: Sequence[Request], most: Sequence[int]) -> list[list[int]]:
        drafts: dict[Request, list[int]] = {request: [] for request in requests}
        left = {r: min(n, self.max_len - len(r.ids)) for r, n in zip(requests, most, strict=True)}
        active = [request for request in requests if left[request] > 0]
        for request in active:
            self._take_back(request)
        tokens = self._behind(active)
        while tokens:
            read = list(tokens)
            drawn = self._draw(read, [tokens[r] for r in read], [drafts[r] for r in read])
            tokens = {}
            for request, token in zip(read, drawn, strict=True):
                if token is not None:
                    drafts[request].append(token)
                    if len(drafts[request]) < left[request]:
                        tokens[request] = [token]
        self._guessed.update({request: (len(request.ids), drafts[request]) for request in active})
        return [drafts[request] for request in requests]

    def forget(self, request: Request) -> None:
        self._guessed.pop(request, None)
        if request in self._slots:
            self.cache.free(self._slots.pop(request))

    def _take_back(self, request: Request) -> None:
        """Forgets the guesses that did not come true."""
        if request not in self._slots:
            self._slots[request] = self.cache.allocate()
        length, guessed = self._guessed.get(request, (0, []))
        came = request.ids[length : length + len(guessed)]
        same = next((i for i, (a, b) in enumerate(zip(guessed, came)) if a != b), min(len(guessed), len(came)))
        slot = self._slots[request]
        self.cache.truncate(slot, min(self.cache.length(slot), length + same))

    def _behind(self, requests: Sequence[Request]) -> dict[Request, list[int]]:
        """What the draft has yet to read of each request, cut so that it reads `prefill_tokens` at most, padding included."""
        held = {request: self.cache.length(self._slots[request]) for request in requests}
        tokens: dict[Request, list[int]] = {}
        for request in sorted(requests, key=lambda request: len(request.ids) - held[request]):
            most = max(1, self.prefill_tokens // (len(tokens) + 1))
            tokens[request] = request.ids[held[request] : held[request] + most]
        return tokens

    def _draw(self, requests: list[Request], tokens: list[list[int]], drafts: list[list[int]]) -> list[int | None]:
        """Reads the next tokens of each; draws one where all that is known has then been read."""
        rank = {slot: i for i, slot in enumerate(self.cache.active)}
        order = sorted(range(len(requests)), key=lambda i: rank[self._slots[requests[i]]])
        counts = [len(tokens[i]) for i in order]
        ids = [tokens[i] + [0] * (max(counts) - len(tokens[i])) for i in order]
        slots = [self._slots[requests[i]] for i in order]
        hidden = self.model.hidden(torch.tensor(ids, device=self.cache.device), cache=self.cache.rows(slots, counts))
        last = hidden[torch.arange(len(ids)), torch.tensor(counts) - 1]
        logits = self.model.logits(last)[:, : self.vocabulary]
        params = [requests[i].params for i in order]
        chances = [
            uniform(requests[i].seed, len(requests[i].ids) - requests[i].prompt_length + len(drafts[i])) for i in order
        ]
        drawn: list[int | None] = [None] * len(requests)
        for i, token in zip(order, sample(logits, SamplingBatch.of(params, self.cache.device), chances).tolist()):
            known = len(requests[i].ids) + len(drafts[i])
            drawn[i] = token if self.cache.length(self._slots[requests[i]]) == known else None
        return drawn
