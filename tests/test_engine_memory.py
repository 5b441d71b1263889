"""The engine's memory: whatever the budget and whatever is stored, answers are the same, and nothing is kept for nobody."""

from __future__ import annotations

import random

import pytest
from test_engine import OPTIONS, TOKENIZER, computed_anew, make, prompts
from test_engine_adapters import attach

from nanohydra.adapt.config import AdapterConfig
from nanohydra.errors import UserError
from nanohydra.infer.config import EngineConfig
from nanohydra.infer.engine import Engine
from nanohydra.infer.prefix import BLOCK
from nanohydra.infer.sampling import SamplingParams

MODEL = make()


def mixed(count: int, seed: int) -> list[SamplingParams]:
    chance = random.Random(seed)
    return [
        SamplingParams(chance.randint(1, 25), chance.choice([0, 1.0, 1.7]), seed=chance.randrange(99), ignore_eos=True)
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(8))
def test_answers_do_not_depend_on_memory(seed):
    """Preempted or not, with beginnings stored or not, guessed ahead or not."""
    chance = random.Random(seed)
    kv_tokens, prefix_tokens = chance.randint(90, 200), chance.choice([0, 2 * BLOCK, 40 * BLOCK])
    shared = prompts(1, seed, 40)[0]
    asked = [shared[: chance.randint(0, 40)] + p for p in prompts(8, seed, 20)]
    params = mixed(8, seed)
    expected = [Engine(MODEL, TOKENIZER).generate([p], s)[0] for p, s in zip(asked, params)]
    engine = Engine(
        MODEL,
        TOKENIZER,
        max_slots=5,
        kv_tokens=kv_tokens,
        prefix_tokens=prefix_tokens,
        prefill_tokens=16,
        max_seq_len=90,
        speculate=chance.choice([0, 3]),
    )
    answers = engine.generate(asked, params)
    for ours, theirs in zip(answers, expected):
        assert (ours.ids, ours.text) == (theirs.ids, theirs.text)
    assert engine.cache.active == []


def test_the_newest_waits_again_when_memory_runs_out():
    asked, greedy = [[5] * 10, [6] * 10, [7] * 10], SamplingParams(30, ignore_eos=True)
    engine = Engine(MODEL, TOKENIZER, max_slots=3, max_seq_len=60, kv_tokens=60)
    requests = [engine.submit(p, greedy) for p in asked]
    finished = []
    while not engine.idle:
        finished += [r for r in engine.step() if r.completion]
        held = [engine.cache.length(slot) for slot in engine.cache.active]
        assert len(held) * max(held, default=0) <= 60
        assert engine.stats()["kv_usage"] <= 1
    assert finished == requests
    assert engine.stats()["preemptions"] >= 2
    assert [r.completion.ids for r in requests] == [computed_anew(MODEL, p, 30) for p in asked]


def test_requests_are_admitted_by_the_budget_and_abort_makes_room_at_once():
    engine = Engine(MODEL, TOKENIZER, max_slots=8, max_seq_len=100, kv_tokens=100)
    long, short = (engine.submit([3] * n, SamplingParams(5, ignore_eos=True)) for n in (60, 3))
    engine.step()
    assert (engine.stats()["running"], engine.stats()["waiting"]) == (1, 1)
    engine.abort(long)
    assert engine.cache.active == []
    engine.step()
    assert (engine.stats()["running"], engine.stats()["waiting"]) == (1, 0)
    while not engine.idle:
        engine.step()
    assert short.completion.ids == computed_anew(MODEL, [3] * 3, 5)
    with pytest.raises(UserError, match="context holds 100"):
        engine.submit([1] * 100, SamplingParams())
    with pytest.raises(UserError, match="kv_tokens is 0: it must be at least 2"):
        EngineConfig(kv_tokens=0)


def test_no_prompt_stalls_the_others(monkeypatch):
    """Every step decodes all who write, reads a bounded number of tokens, and a short prompt passes a long one."""
    engine = Engine(MODEL, TOKENIZER, prefill_tokens=8, max_slots=4)
    work = []
    hidden = MODEL.hidden
    monkeypatch.setattr(MODEL, "hidden", lambda ids, **rest: work.append(tuple(ids.shape)) or hidden(ids, **rest))
    writes = engine.submit([4], SamplingParams(60, ignore_eos=True))
    engine.step()
    long = engine.submit([5] * 120, SamplingParams(5, ignore_eos=True))
    short = engine.submit([6] * 4, SamplingParams(5, ignore_eos=True))
    told = len(writes.ids)
    for _ in range(3):
        work.clear()
        engine.step()
        assert len(writes.ids) == (told := told + 1)
        assert work[0][1] == 1
        assert sum(rows * width for rows, width in work[1:]) <= 8
    assert len(short.ids) > 4
    many = [engine.submit([6] * 4, SamplingParams(1)) for _ in range(30)]  # nor do short ones keep the long one waiting
    while long.completion is None:
        engine.step()
    assert any(r.completion is None for r in many)


@pytest.mark.parametrize("options", [OPTIONS["llama"], OPTIONS["grouped"], OPTIONS["alibi"], OPTIONS["learned"]])
def test_a_shared_beginning_is_read_once(options, monkeypatch):
    model = make(**options)
    start = prompts(1, longest=1)[0] * 3 * BLOCK
    asked = [[*start, *end] for end in ([1, 2], [3], [4, 5, 6], [7])]
    greedy = SamplingParams(6, ignore_eos=True)
    expected = [computed_anew(model, p, 6) for p in asked]
    engine = Engine(model, TOKENIZER, prefix_tokens=20 * BLOCK)
    read = []
    hidden = model.hidden
    monkeypatch.setattr(model, "hidden", lambda ids, **rest: read.append(ids.numel()) or hidden(ids, **rest))
    answers = engine.generate(asked, greedy)
    assert [a.ids for a in answers] == expected
    assert [a.cached_tokens for a in answers] == [0] + [3 * BLOCK] * 3
    assert sum(read) < 2 * len(asked[0]) + 4 * 6
    stats = engine.stats()
    assert stats["prefix_hits"] == 9 * BLOCK
    assert stats["prefix_queries"] == sum(map(len, asked))
    follow_up = asked[0] + expected[0] + [9] * 20  # an answer is part of the next prompt
    again = engine.generate([follow_up], greedy)[0]
    assert again.ids == computed_anew(model, follow_up, 6)
    assert again.cached_tokens == (len(asked[0]) + 5) // BLOCK * BLOCK
    engine.prefixes.clear()
    assert engine.generate([asked[0]], greedy)[0].cached_tokens == 0


def test_the_least_recently_used_beginnings_go():
    engine = Engine(MODEL, TOKENIZER, prefix_tokens=4 * BLOCK)
    one, two, three = ([i] * (2 * BLOCK + 1) for i in (1, 2, 3))
    once = SamplingParams(1, ignore_eos=True)
    for prompt in (one, two, one, three):
        engine.generate([prompt], once)
    assert [engine.generate([p], once)[0].cached_tokens for p in (one, three, two)] == [2 * BLOCK, 2 * BLOCK, 0]
    long = [9] * 100  # longer than the store: its beginning is kept
    assert engine.generate([long] * 2, once)[1].cached_tokens == 4 * BLOCK


def test_windows_are_not_stored_and_answer_as_ever():
    model = make(**OPTIONS["window"])
    engine = Engine(model, TOKENIZER, prefix_tokens=20 * BLOCK)
    asked = [[3] * 50] * 2
    answers = engine.generate(asked, SamplingParams(6, ignore_eos=True))
    assert [a.ids for a in answers] == [computed_anew(model, asked[0], 6)] * 2
    assert engine.stats()["prefix_hits"] == 0


def test_adapters_share_beginnings_only_with_themselves(tmp_path):
    model = make().eval()
    adapters = attach(model, tmp_path)
    engine = Engine(model, TOKENIZER, adapters=adapters, prefix_tokens=30 * BLOCK)
    prompt, greedy = prompts(1, longest=1)[0] * 40, SamplingParams(6, ignore_eos=True)
    plain = Engine(model, TOKENIZER, adapters=adapters)
    for name in (None, "a", "b", "a", None):
        assert engine.generate([prompt], greedy, name)[0].ids == plain.generate([prompt], greedy, name)[0].ids
    assert engine.stats()["prefix_hits"] == 2 * (39 // BLOCK * BLOCK)
    adapters.remove("a")
    adapters.load(tmp_path / "c", "a")  # the name means another adapter now
    assert engine.generate([prompt], greedy, "a")[0].cached_tokens == 0
    adapters.create("new", AdapterConfig(rank=2))
    assert engine.generate([prompt] * 2, greedy, "new")[1].cached_tokens == 0


def test_stats_count():
    engine = Engine(MODEL, TOKENIZER, max_slots=2)
    engine.generate(prompts(3), SamplingParams(4, ignore_eos=True))
    stats = engine.stats()
    assert stats["prompt_tokens"] == sum(map(len, prompts(3)))
    assert stats["generated_tokens"] == 12
    assert (stats["running"], stats["waiting"], stats["kv_usage"], stats["preemptions"]) == (0, 0, 0, 0)
