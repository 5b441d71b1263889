"""Everything at once: users with different adapters, shared beginnings, settings and forms, in too little memory, while some
leave at random. Each answer is the one that the request gets when it is alone."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from test_engine import TOKENIZER, V, make
from test_engine_adapters import attach

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.infer.engine import Engine
from nanohydra.infer.sampling import SamplingParams
from nanohydra.infer.streaming import Delta

USERS = [None, "a", "b", "c", "a"]
SCHEMA = json.dumps({"type": "array", "items": {"enum": [1, "two", None]}, "minItems": 1, "maxItems": 3})


def some_params(chance: random.Random, number: int) -> SamplingParams:
    return SamplingParams(
        max_tokens=chance.randint(1, 24),
        temperature=chance.choice([0, 0, 0.8, 1.5]),
        top_k=chance.choice([0, 0, 5]),
        top_p=chance.choice([1.0, 1.0, 0.9]),
        min_p=chance.choice([0.0, 0.05]),
        repetition_penalty=chance.choice([1.0, 1.0, 1.3]),
        seed=number,
        stop=chance.choice([(), (), ("e", "12")]),
        ignore_eos=chance.random() < 0.5,
        logprobs=chance.choice([None, None, 2]),
        json_schema=chance.choice([None, None, None, SCHEMA]),
    )


def run(count: int, seed: int, folder: Path) -> None:
    pytest.importorskip("llguidance")
    chance = random.Random(seed)
    model = make(seed, num_key_value_heads=2).eval()
    adapters = attach(model, folder)
    starts = [[chance.randrange(V) for _ in range(chance.randint(0, 50))] for _ in range(6)]
    asked = []
    for number in range(count):
        user = chance.randrange(len(USERS))
        prompt = starts[chance.choice([user, 5])] + [chance.randrange(V) for _ in range(chance.randint(1, 30))]
        asked.append((prompt, some_params(chance, number), USERS[user]))
    engine = Engine(
        model,
        TOKENIZER,
        (CALCULATOR,),
        adapters=adapters,
        max_slots=10,
        max_seq_len=110,
        prefill_tokens=40,
        kv_tokens=400,
        prefix_tokens=640,
        speculate=3,
    )
    waiting, requests, deltas, dropped = list(asked), [], [], set()
    while waiting or not engine.idle:
        come = chance.choice([0, 1, 2, 8]) if engine.stats()["waiting"] < 15 else 0
        for _ in range(min(len(waiting), come)):
            requests.append(engine.submit(*waiting.pop(0)))
            deltas.append([])
        engine.step()
        for number, request in enumerate(requests):
            deltas[number] += request.take()
            if request.completion is None and chance.random() < 0.005:
                engine.abort(request)
                dropped.add(number)
    assert engine.cache.active == []
    stats = engine.stats()
    assert stats["preemptions"] > 0 < stats["prefix_hits"]
    assert stats["guessed_tokens"] > stats["right_guesses"] > 0
    assert 0 < len(dropped) < count / 2
    alone = Engine(model, TOKENIZER, (CALCULATOR,), adapters=adapters, max_slots=1, max_seq_len=110)
    for number, (request, (prompt, params, adapter)) in enumerate(zip(requests, asked, strict=True)):
        own = alone.generate([prompt], params, adapter)[0]
        answer = request.completion
        told: list[Delta] = deltas[number] + request.take()
        assert "".join(delta.text for delta in told) == answer.text
        assert [id for delta in told for id in delta.ids] == answer.ids
        if number in dropped:
            assert answer.finish_reason == "abort"
            assert own.ids[: len(answer.ids)] == answer.ids
            continue
        assert (answer.ids, answer.text, answer.finish_reason) == (own.ids, own.text, own.finish_reason)
        assert [p and p.id for p in answer.logprobs] == [p and p.id for p in own.logprobs]
        assert [p and p.logprob for p in answer.logprobs] == pytest.approx(
            [p and p.logprob for p in own.logprobs], abs=1e-4
        )


def test_200_mixed_requests_equal_their_one_by_one_answers(tmp_path):
    run(200, 1, tmp_path)


@pytest.mark.slow
def test_1000_mixed_requests_equal_their_one_by_one_answers(tmp_path):
    run(1000, 2, tmp_path)
