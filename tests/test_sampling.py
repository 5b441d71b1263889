"""The sampler against transformers' processors, and its own promises: support, mass, a row apart from its batch."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nanohydra.errors import UserError
from nanohydra.infer.sampling import SamplingBatch, SamplingParams, filter_logits, sample, uniform

PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.3, 1.0, 1.7]),
    top_k=st.sampled_from([0, 1, 5, 300, 1000]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 1.3, 0.8]),
)


def reference(logits: torch.Tensor, params: SamplingParams, ids: torch.Tensor) -> torch.Tensor:
    processors = LogitsProcessorList()
    if params.repetition_penalty != 1:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    processors.append(TemperatureLogitsWarper(params.temperature))
    if params.top_k:
        processors.append(TopKLogitsWarper(params.top_k))
    if params.top_p < 1:
        processors.append(TopPLogitsWarper(params.top_p))
    if params.min_p:
        processors.append(MinPLogitsWarper(params.min_p))
    return processors(ids[None], logits[None].clone())[0]


@settings(deadline=None)
@given(st.lists(PARAMS, min_size=1, max_size=4), st.integers(0, 10**6), st.sampled_from([7, 500, 9000]))
def test_equals_transformers_processors(params, seed, vocabulary):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(len(params), vocabulary, generator=generator)
    ids = torch.randint(vocabulary, (len(params), 6), generator=generator)
    seen = torch.zeros(len(params), vocabulary, dtype=torch.bool).scatter_(1, ids, True)
    ours = filter_logits(logits, SamplingBatch.of(params), seen)
    for row, p in enumerate(params):
        torch.testing.assert_close(ours[row], reference(logits[row], p, ids[row]))


@settings(deadline=None)
@given(st.lists(PARAMS, min_size=2, max_size=5), st.integers(0, 10**6), st.sampled_from([400, 9000]))
def test_a_row_draws_the_same_alone_and_in_a_batch(params, seed, vocabulary):
    logits = 3 * torch.randn(len(params), vocabulary, generator=torch.Generator().manual_seed(seed))
    chances = [uniform(seed, i) for i in range(len(params))]
    together = sample(logits, SamplingBatch.of(params), chances)
    for row, p in enumerate(params):
        assert sample(logits[row : row + 1], SamplingBatch.of([p]), chances[row : row + 1]) == together[row]


@settings(deadline=None)
@given(st.floats(0.01, 0.99), st.integers(0, 10**6), st.floats(0.1, 8))
def test_top_p_keeps_the_smallest_set_with_that_mass(top_p, seed, spread):
    logits = spread * torch.randn(1, 600, generator=torch.Generator().manual_seed(seed))
    kept = filter_logits(logits, SamplingBatch.of([SamplingParams(temperature=1.0, top_p=top_p)])) > -torch.inf
    probabilities = logits.softmax(-1)[kept].sort().values
    assert probabilities.sum() >= top_p - 1e-5
    assert probabilities[1:].sum() < top_p + 1e-5


@settings(deadline=None)
@given(st.integers(1, 50), st.integers(0, 10**6))
def test_draws_come_from_the_top_k(top_k, seed):
    logits = torch.randn(1, 200, generator=torch.Generator().manual_seed(seed)).expand(64, -1)
    batch = SamplingBatch.of([SamplingParams(temperature=5.0, top_k=top_k)] * 64)
    drawn = sample(logits, batch, [uniform(seed, i) for i in range(64)])
    assert set(drawn.tolist()) <= set(logits[0].topk(top_k).indices.tolist())


def test_frequencies_follow_the_softmax():
    n, logits = 20_000, torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    batch = SamplingBatch.of([SamplingParams(temperature=1.0)] * n)
    drawn = sample(logits.expand(n, -1), batch, [uniform(5, i) for i in range(n)])
    share = drawn.bincount(minlength=4) / n
    torch.testing.assert_close(share, logits.softmax(-1), atol=0.015, rtol=0)
    assert share[3] == 0


def test_greedy_rows_and_random_rows_mix():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    params = [SamplingParams(), SamplingParams(temperature=100.0), SamplingParams(top_k=3, top_p=0.1)]
    drawn = sample(logits, SamplingBatch.of(params), [0.9, 0.9, 0.9])
    assert drawn[[0, 2]].equal(logits.argmax(-1)[[0, 2]])


def test_the_ends_of_the_chance_draw_allowed_tokens():
    logits = torch.tensor([[-torch.inf, 1.0, 0.0, -torch.inf]]).expand(2, -1)
    drawn = sample(logits, SamplingBatch.of([SamplingParams(temperature=1.0)] * 2), [0.0, 1 - 2**-52])
    assert drawn.tolist() == [1, 2]


@settings(deadline=None)
@given(st.integers(-(2**70), 2**70), st.integers(0, 2**40))
def test_uniform_is_in_range_and_pure(seed, index):
    assert 0 <= uniform(seed, index) == uniform(seed, index) < 1


def test_uniform_looks_uniform_along_both_axes():
    for numbers in ([uniform(s, 0) for s in range(4000)], [uniform(0, i) for i in range(4000)]):
        values = torch.tensor(numbers)
        assert abs(values.mean() - 0.5) < 4 / math.sqrt(12 * 4000)
        counts = (values * 20).long().bincount(minlength=20).float()
        assert ((counts - 200) ** 2 / 200).sum() < 50  # chi-squared, 19 degrees of freedom: p about 1e-4
        assert abs(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]) < 0.06


@pytest.mark.parametrize(
    "bad",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": math.nan},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": 2},
        {"top_k": -1},
        {"repetition_penalty": 0},
        {"repetition_penalty": 5e-324},
        {"stop": ("",)},
    ],
)
def test_bad_settings_get_one_line(bad):
    with pytest.raises(UserError, match=r"it must be|leave it out"):
        SamplingParams(**bad)


def test_a_temperature_too_small_for_float32_is_greedy():
    assert SamplingParams(temperature=5e-324).greedy
    assert not SamplingParams(temperature=0.01).greedy
