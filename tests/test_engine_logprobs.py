"""What the engine tells of each token: ids and log-probabilities of the model itself, whole across deltas."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from test_engine import TOKENIZER, V, make, prompts, scripted

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.errors import UserError
from nanohydra.infer.engine import Engine
from nanohydra.infer.sampling import SamplingParams


def own(model, prompt: list[int], ids: list[int]) -> torch.Tensor:
    """The model's log-probabilities before each of `ids`, (len(ids), V)."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1, :V]
    return logits.log_softmax(-1)


@pytest.mark.parametrize("speculate", [0, 4])
def test_logprobs_are_the_models_own(speculate):
    model, asked = make(), prompts(4)
    each = [
        SamplingParams(9, temperature=1.7, top_k=5, repetition_penalty=1.3, seed=1, logprobs=3, ignore_eos=True),
        SamplingParams(9, ignore_eos=True),
        SamplingParams(12, temperature=0.5, seed=2, logprobs=0, ignore_eos=True),
        SamplingParams(6, logprobs=20, regex="[a-z ]+", ignore_eos=True),
    ]
    answers = Engine(model, TOKENIZER, max_slots=4, speculate=speculate).generate(asked, each)
    for prompt, params, answer in zip(asked, each, answers):
        if params.logprobs is None:
            assert answer.logprobs == []
            continue
        expected = own(model, prompt, answer.ids)
        assert [told.id for told in answer.logprobs] == answer.ids
        for told, scores in zip(answer.logprobs, expected, strict=True):
            assert told.logprob == pytest.approx(float(scores[told.id]), abs=1e-4)
            best = scores.topk(params.logprobs)
            assert [id for id, _ in told.top] == best.indices.tolist()
            assert [value for _, value in told.top] == pytest.approx(best.values.tolist(), abs=1e-4)


def test_deltas_tell_every_token_once():
    engine = Engine(make(), TOKENIZER)
    params = SamplingParams(40, temperature=1.0, seed=4, stop=("zzz", "\u00e9"), logprobs=1, ignore_eos=True)
    deltas = list(engine.stream([9, 8, 7], params))
    completion = deltas[-1].completion
    assert list(chain.from_iterable(d.ids for d in deltas)) == completion.ids
    assert list(chain.from_iterable(d.logprobs for d in deltas)) == completion.logprobs
    for delta in deltas[:-1]:
        assert delta.ids
        assert [told.id for told in delta.logprobs] == delta.ids
    plain = list(engine.stream([9, 8, 7], SamplingParams(40, temperature=1.0, seed=4, ignore_eos=True)))
    assert list(chain.from_iterable(d.ids for d in plain)) == completion.ids
    assert not any(d.logprobs for d in plain)


def test_what_a_tool_writes_has_no_probability():
    model = scripted("A <|calc|> 1 2 + 3 0 <|result|>", "<|end_calc|> . <|im_end|>")
    engine = Engine(model, TOKENIZER, tools=(CALCULATOR,))
    deltas = list(engine.stream(TOKENIZER.encode("A"), SamplingParams(50, logprobs=0)))
    answer = deltas[-1].completion
    assert list(chain.from_iterable(d.ids for d in deltas)) == answer.ids
    forced = [id for id, told in zip(answer.ids, answer.logprobs, strict=True) if told is None]
    assert TOKENIZER.decode(forced) == "42<|end_calc|>"


def test_no_more_than_twenty():
    with pytest.raises(UserError, match="logprobs is 21: it must be between 0 and 20"):
        SamplingParams(logprobs=21)
