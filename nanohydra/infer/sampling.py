"""From logits to next tokens, for all rows of a batch at once, each row with its own settings.

Every filter is a threshold on a row's logits (ties stay in), applied in the order of transformers' processors:
repetition penalty, temperature, top-k, top-p (over what top-k left), min-p. A row's chance is one uniform number that
depends on (seed, index of the token) alone, so a request draws the same whatever else is in the batch, and again when
it is computed anew. The token is found by inverting the cumulative distribution.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from nanohydra.infer.config import SamplingParams

__all__ = ["SamplingBatch", "SamplingParams", "filter_logits", "sample", "uniform"]

_FIRST_GUESS = 256  # how many candidates are sorted before more is paid for top-p
_BINS, _NATS = 4096, 30  # of the histogram that is paid then
_WIDE = 8192  # rows as long as this are worked on one by one on a CPU, so that each stays in its cache


@dataclass
class SamplingBatch:
    """The settings of R rows as columns of shape (R, 1), built once each time the batch changes."""

    greedy: Tensor
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    repetition_penalty: Tensor
    all_greedy: bool
    any_greedy: bool
    most_k: int
    any_p: bool
    any_penalty: bool
    params: tuple[SamplingParams, ...]

    @classmethod
    def of(cls, params: Sequence[SamplingParams], device: torch.device | str = "cpu") -> SamplingBatch:
        """The columns for these rows. A top_k of 0 becomes the largest integer; a temperature of 0 becomes 1."""

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None]

        return cls(
            greedy=column([p.greedy for p in params]),
            temperature=column([1.0 if p.greedy else p.temperature for p in params]),
            top_k=column([p.top_k or torch.iinfo(torch.int64).max for p in params]),
            top_p=column([p.top_p for p in params]),
            min_p=column([p.min_p for p in params]),
            repetition_penalty=column([p.repetition_penalty for p in params]),
            all_greedy=all(p.greedy for p in params),
            any_greedy=any(p.greedy for p in params),
            most_k=max((p.top_k for p in params), default=0),
            any_p=any(p.top_p < 1 and not p.greedy for p in params),
            any_penalty=any(p.repetition_penalty != 1 for p in params),
            params=tuple(params),
        )

    @cached_property
    def rows(self) -> list[SamplingBatch]:
        """Each row's own batch."""
        return [self.of([p], self.greedy.device) for p in self.params]


def uniform(seed: int, index: int) -> float:
    """A number in [0, 1) that depends on (seed, index) alone: SplitMix64's mixer (Steele et al. 2014), twice."""
    mask = 2**64 - 1
    state = seed & mask
    for word in (index, 0):
        state = (state + (word + 1) * 0x9E3779B97F4A7C15) & mask
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
        state ^= state >> 31
    return float(state >> 12) / float(2**52)


def filter_logits(logits: Tensor, batch: SamplingBatch, seen: Tensor | None = None) -> Tensor:
    """Logits (R, V) after every row's processors, float32; what a row may not draw is -inf.

    `seen` (R, V) bool marks the tokens already in a row's text, for the repetition penalty.
    """
    logits = logits.float()
    if batch.any_penalty and seen is not None:
        penalty = batch.repetition_penalty
        logits = torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
    logits = logits / batch.temperature
    if batch.most_k:
        ranked = logits.topk(min(batch.most_k, logits.shape[-1])).values
        kth = ranked.gather(-1, batch.top_k.clamp(max=ranked.shape[-1]) - 1)
        logits = logits.masked_fill((logits < kth) & (batch.top_k <= batch.most_k), -torch.inf)
    top = logits.amax(-1, keepdim=True)
    threshold = top + batch.min_p.log()  # p < min_p * p_max is a bound on the logit itself
    if batch.any_p:
        threshold = torch.maximum(threshold, _nucleus(logits, top, batch.top_p))
    return logits.masked_fill(logits < threshold, -torch.inf)


def _nucleus(logits: Tensor, top: Tensor, top_p: Tensor) -> Tensor:
    """The least logit (R, 1) of each row's nucleus: tokens are taken while the mass before them is under top_p."""
    weights = (logits - top).exp()
    wanted = top_p * weights.sum(-1, keepdim=True)
    ranked = logits.topk(min(_FIRST_GUESS, logits.shape[-1])).values
    mass = (ranked - top).exp().cumsum(-1)
    if not bool(((mass[:, -1:] >= wanted) | (top_p == 1)).all()):
        # A histogram tells in which bin the nucleus ends; only what lies there is sorted.
        bins = ((top - logits) * (_BINS / _NATS)).clamp_(max=_BINS - 1).long()
        each = torch.zeros(len(logits), _BINS, device=logits.device).scatter_add_(1, bins, weights)
        upto = each.cumsum(-1)
        last = (upto < wanted).sum(-1, keepdim=True).clamp(max=_BINS - 1)
        inside = bins == last
        ranked = logits.masked_fill(~inside, -torch.inf).topk(int(inside.sum(-1).max())).values
        mass = (ranked - top).exp().cumsum(-1) + (upto - each).gather(-1, last)
    kept = 1 + (mass[:, :-1] < wanted).sum(-1, keepdim=True)
    return torch.where(top_p < 1, ranked.gather(-1, kept - 1), -torch.inf)


def sample(logits: Tensor, batch: SamplingBatch, uniforms: Sequence[float], seen: Tensor | None = None) -> Tensor:
    """Next token ids (R,) from logits (R, V); `uniforms` holds each row's chance in [0, 1)."""
    if batch.all_greedy and not batch.any_penalty:
        return logits.argmax(-1)
    if len(logits) > 1 and logits.shape[-1] >= _WIDE and logits.device.type == "cpu":
        marks = [None] * len(logits) if seen is None else [*seen[:, None]]
        each = zip(logits[:, None], batch.rows, uniforms, marks, strict=True)
        return torch.cat([sample(row, own, [chance], mark) for row, own, chance, mark in each])
    logits = filter_logits(logits, batch, seen)
    if batch.all_greedy:
        return logits.argmax(-1)
    mass = logits.softmax(-1).cumsum(-1, dtype=torch.float64)
    chance = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * mass[:, -1:]
    drawn = torch.searchsorted(mass, chance, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    return torch.where(batch.greedy[:, 0], logits.argmax(-1), drawn) if batch.any_greedy else drawn
