"""Guessing ahead changes when tokens come, never which: exact under greedy, in distribution otherwise."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from scipy.stats import chisquare
from test_engine import OPTIONS, TOKENIZER, V, computed_anew, make, prompts, scripted

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.errors import UserError
from nanohydra.infer.engine import Engine
from nanohydra.infer.request import Request
from nanohydra.infer.sampling import SamplingParams
from nanohydra.infer.speculate import PromptLookup
from nanohydra.infer.streaming import Transcript
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer

GREEDY = SamplingParams(20, ignore_eos=True)


def noisy(model: Transformer, size: float) -> Transformer:
    """A draft that often, but not always, agrees with the model."""
    draft = copy.deepcopy(model)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(size * torch.randn_like(parameter))
    return draft


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("drafted", [False, True])
def test_greedy_answers_are_the_same(options, drafted):
    model = make(**options)
    draft = noisy(model, 0.02) if drafted else None
    asked = [prompts(1, seed)[0] * 2 for seed in range(5)]
    expected = [computed_anew(model, p, 20) for p in asked]
    for settings in ({"max_slots": 1, "prefill_tokens": 7}, {"max_slots": 5, "speculate_slots": 5}, {"max_slots": 3}):
        engine = Engine(model, TOKENIZER, draft=draft, speculate=4, **settings)
        assert [a.ids for a in engine.generate(asked, GREEDY)] == expected
        assert engine.stats()["right_guesses"] <= engine.stats()["guessed_tokens"]
        assert engine.cache.active == []
    if drafted:
        assert engine.stats()["right_guesses"] > 0.1 * engine.stats()["guessed_tokens"]


@pytest.mark.parametrize("seed", range(4))
def test_drawn_answers_are_the_same(seed):
    """Also with other settings in the batch, with penalties, in little memory, and when some leave early."""
    model, chance = make(), random.Random(seed)
    asked = [prompts(1, seed + i, 12)[0] * 2 for i in range(6)]
    params = [
        SamplingParams(
            chance.randint(3, 25),
            chance.choice([0, 0.7, 1.0]),
            top_k=chance.choice([0, 3]),
            top_p=chance.choice([1, 0.8]),
            repetition_penalty=chance.choice([1, 1.2]),
            seed=chance.randrange(99),
            stop=chance.choice([(), ("e",), ("q", "th")]),
        )
        for _ in asked
    ]
    alone = [Engine(model, TOKENIZER).generate([p], s)[0] for p, s in zip(asked, params)]
    for draft in (None, model, noisy(model, 0.05)):
        settings = {"max_slots": 4, "max_seq_len": 80, "kv_tokens": 150, "speculate": 3, "speculate_slots": 4}
        engine = Engine(model, TOKENIZER, draft=draft, **settings)
        dropped = engine.submit(asked[0], GREEDY)
        engine.step()
        engine.abort(dropped)
        for ours, theirs in zip(engine.generate(asked, params), alone):
            assert (ours.ids, ours.text, ours.finish_reason) == (theirs.ids, theirs.text, theirs.finish_reason)


def test_a_perfect_draft_is_right_in_every_guess_and_saves_steps(monkeypatch):
    model, steps = make(), []
    hidden = model.hidden
    engine = Engine(model, TOKENIZER, draft=copy.deepcopy(model), speculate=4)
    monkeypatch.setattr(model, "hidden", lambda ids, **rest: steps.append(ids.shape) or hidden(ids, **rest))
    params = SamplingParams(26, temperature=1.0, seed=3, ignore_eos=True)
    answer = engine.generate([[5, 6, 7]], params)[0]
    assert answer.ids == Engine(make(), TOKENIZER).generate([[5, 6, 7]], params)[0].ids
    assert engine.stats()["right_guesses"] == engine.stats()["guessed_tokens"] == 20
    assert len(steps) == 6


def test_text_that_repeats_is_guessed_from_itself():
    model = scripted("A B C D E F G A")
    engine = Engine(model, TOKENIZER, speculate=6)
    answer = engine.generate([TOKENIZER.encode("A")], SamplingParams(60))[0]
    assert answer.text == ("BCDEFGA" * 9)[:60]
    assert engine.stats()["right_guesses"] > 35
    full = Engine(model, TOKENIZER, speculate=6, speculate_slots=1, max_slots=2)
    full.generate([TOKENIZER.encode("A")] * 2, SamplingParams(60))
    assert full.stats()["guessed_tokens"] == 0  # too many write at once


def test_lookup_finds_what_followed_the_last_time():
    lookup = PromptLookup()
    request = Request([1, 2, 3, 4, 5, 9, 2, 3], SamplingParams(), 99, Transcript(TOKENIZER))
    assert lookup.guess([request], [3]) == [[4, 5, 9]]
    request.ids += [4, 5]
    assert lookup.guess([request], [4]) == [[9, 2, 3, 4]]
    request.ids += [7]
    assert lookup.guess([request], [4]) == [[]]
    request.ids += [7, 7]
    assert lookup.guess([request], [3]) == [[7, 7, 7]]
    lookup.forget(request)
    assert not lookup._seen


def test_a_tool_answers_among_guesses():
    model = scripted("A <|calc|> 1 2 + 3 0 <|result|>", "<|end_calc|> A")
    plain = Engine(model, TOKENIZER, tools=(CALCULATOR,))
    expected = plain.generate([TOKENIZER.encode("A")], SamplingParams(45))[0]
    for draft in (None, model):
        engine = Engine(model, TOKENIZER, tools=(CALCULATOR,), speculate=5, draft=draft)
        answer = engine.generate([TOKENIZER.encode("A")], SamplingParams(45))[0]
        assert (answer.ids, answer.parts) == (expected.ids, expected.parts)
        assert engine.stats()["right_guesses"] > 5


@pytest.mark.parametrize("drafted", [False, True])
def test_the_distribution_is_the_models(drafted):
    """Chi-square over all triples that a model of four tokens may write, against their exact probabilities. In the prompt
    every pair of them comes once, so that any two tokens have been followed by something."""
    config = ModelConfig(vocab_size=V, hidden_size=32, num_hidden_layers=1, num_attention_heads=4)
    torch.manual_seed(0)
    model = Transformer(config).eval()
    few = [40, 41, 42, 43]
    with torch.no_grad():
        model.lm_head.weight.mul_(4)
    draft = noisy(model, 0.3) if drafted else None
    prompt = [few[int(digit)] for digit in "00110220331213230"]
    params = {"max_tokens": 3, "temperature": 1.3, "ignore_eos": True}
    others = torch.full((V,), -1e9).scatter(0, torch.tensor(few), 0)
    for each in [model] if draft is None else [model, draft]:
        each.lm_head.register_forward_hook(lambda module, args, logits: logits + others)
    engine = Engine(model, TOKENIZER, draft=draft, speculate=3, speculate_slots=64, max_slots=64, max_seq_len=32)
    answers = engine.generate([prompt] * 4000, [SamplingParams(seed=i, **params) for i in range(4000)])
    counts = torch.zeros(4, 4, 4)
    for answer in answers:
        counts[tuple(few.index(id) for id in answer.ids)] += 1
    expected = torch.zeros(4, 4, 4)
    with torch.inference_mode():
        for i in range(64):
            path = [few[i // 16], few[i // 4 % 4], few[i % 4]]
            scores = (model(torch.tensor([prompt + path]))[0, len(prompt) - 1 : -1] / 1.3).softmax(-1)
            expected[i // 16, i // 4 % 4, i % 4] = scores[range(3), path].prod()
    assert engine.stats()["right_guesses"] > 500
    assert chisquare(counts.flatten(), 4000 * expected.flatten() / expected.sum()).pvalue > 0.001


def test_a_draft_of_another_tokenizer_is_refused():
    small = Transformer(ModelConfig(vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=4))
    with pytest.raises(UserError, match="draft of the same tokenizer"):
        Engine(make(), TOKENIZER, draft=small, speculate=2)


def test_a_draft_with_a_shorter_context_guesses_while_it_can():
    model = make()
    torch.manual_seed(0)
    draft = Transformer(ModelConfig.from_dict({**model.config.to_dict(), "max_position_embeddings": 20})).eval()
    draft.load_state_dict(model.state_dict())
    engine = Engine(model, TOKENIZER, draft=draft, speculate=3)
    assert engine.generate([[5, 6]], GREEDY)[0].ids == computed_anew(model, [5, 6], 20)
    asked = [5, 6] * 15
    assert engine.generate([asked], GREEDY)[0].ids == computed_anew(model, asked, 20)
