"""Draws the next tokens of requests: what each asks for (penalty, form, chance, log-probabilities) meets its logits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nanohydra.infer.logprobs import logprobs_of
from nanohydra.infer.request import Request
from nanohydra.infer.sampling import SamplingBatch, sample, uniform
from nanohydra.infer.streaming import Logprob


class Drawer:
    """Keeps the settings of the last batch as columns, for they are mostly those of the next one."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._requests: list[Request] = []
        self._batch = SamplingBatch.of([], device)
        self._formed: list[int] = []
        self._told = False

    def draw(
        self, requests: list[Request], logits: Tensor, before: Sequence[Sequence[int]] | None = None
    ) -> tuple[list[int], list[Logprob | None]]:
        """A token for each row of logits (R, V), and its log-probabilities where they are asked for.

        before: guessed tokens that come between a row's ids and the token to draw (None: nothing was guessed).
        """
        if self._requests != requests:
            self._requests = requests
            self._batch = SamplingBatch.of([r.params for r in requests], self.device)
            self._formed = [i for i, r in enumerate(requests) if r.grammar is not None]
            self._told = any(r.params.logprobs is not None for r in requests)
        ahead = [0] * len(requests) if before is None else [len(tokens) for tokens in before]
        seen = self._seen(requests, logits.shape[-1], before) if self._batch.any_penalty else None
        chances = [
            0.0 if r.params.greedy else uniform(r.seed, len(r.ids) - r.prompt_length + n)
            for r, n in zip(requests, ahead, strict=True)
        ]
        allowed = self._allowed(requests, logits) if self._formed else logits
        tokens: list[int] = sample(allowed, self._batch, chances, seen).tolist()
        if not self._told:
            return tokens, [None] * len(tokens)
        return tokens, logprobs_of(logits, tokens, [r.params.logprobs for r in requests])

    def _seen(self, requests: list[Request], vocabulary: int, before: Sequence[Sequence[int]] | None) -> Tensor:
        """Which tokens are in each row's text, (R, V) bool; none where its request has no penalty."""
        nothing = torch.zeros(vocabulary, dtype=torch.bool, device=self.device)
        seen = torch.stack([nothing if r.seen is None else r.seen for r in requests])
        for row, tokens in zip(seen, before or ()):
            row[list(tokens)] = True
        return seen

    def _allowed(self, requests: list[Request], logits: Tensor) -> Tensor:
        """The logits with those of tokens that do not fit a row's form at -inf; as they are where none fits, for no token will
        be accepted then."""
        logits = logits.clone()
        for i in self._formed:
            grammar = requests[i].grammar
            assert grammar is not None, "rows in _formed have a grammar"
            allowed = grammar.allowed()
            if allowed.any():
                logits[i].masked_fill_(~allowed.to(self.device), -torch.inf)
        return logits
