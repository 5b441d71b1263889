"""Users with adapters of their own, at once: each answer is what its user would have got alone."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_server import served
from serve_tiny import tiny_adapter, tiny_base

from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.jobs.bases import open_engine
from nanohydra.serve.config import ServeConfig

USERS = 5
WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "lazy", "dog")
# Little memory, so that requests are sent back and read again, and beginnings are shared.
ENGINE = EngineConfig(max_slots=6, max_seq_len=160, kv_tokens=600, prefix_tokens=512, prefill_tokens=48)


def asked(count: int) -> list[tuple[int, dict[str, Any]]]:
    """User and body of each request; prompts have few beginnings, which users share."""
    chooser = random.Random(0)
    beginnings = [" ".join(chooser.choices(WORDS, k=24)) for _ in range(3)]
    drawn = []
    for i in range(count):
        prompt = f"{chooser.choice(beginnings)} {' '.join(chooser.choices(WORDS, k=chooser.randint(1, 6)))}"
        sampling = {"temperature": 1.0, "top_p": 0.9, "seed": i} if i % 2 else {"temperature": 0.0}
        drawn.append((chooser.randrange(USERS), {"prompt": prompt, "max_tokens": chooser.randint(1, 12), **sampling}))
    return drawn


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_mixed_requests_equal_one_by_one(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path))
    base = tiny_base(tmp_path / "bases" / "tiny")
    folders = [None, *(tiny_adapter(base, tmp_path / "adapters" / f"a{n}", n) for n in range(1, USERS))]
    requests = asked(count)

    engine = open_engine(str(base), config=EngineConfig(max_slots=1, max_seq_len=160), adapters=True)
    assert engine.adapters is not None
    attached = [None if folder is None else engine.adapters.load(folder) for folder in folders]
    expected = []
    for user, body in requests:
        params = SamplingParams(**{name: value for name, value in body.items() if name != "prompt"})
        expected.append(engine.generate([engine.tokenizer.encode(body["prompt"])], params, attached[user])[0].text)
    assert len(set(expected)) > count / 3

    config = ServeConfig(
        base="tiny", token="a token of the owner", engine=ENGINE, web=False, max_waiting=count, max_open_per_user=40
    )
    with served(config) as running:
        store = running.services.store
        tokens = []
        for n in range(USERS):
            user_id = store.create_user(f"user {n}", ["chat", "teach"]).id
            tokens.append({"Authorization": f"Bearer {store.create_token(user_id, 'test', ['chat', 'teach'])}"})
        answers = asyncio.run(everything(running.url, tokens, requests))
        stats = running.services.metrics.engine.stats
    assert answers == expected
    assert stats["prefix_hits"] > 0


async def everything(url: str, tokens: list[dict[str, str]], requests: list[tuple[int, dict[str, Any]]]) -> list[str]:
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        for n in range(1, USERS):
            loaded = await http.post(
                "/v1/load_lora_adapter", json={"lora_name": f"a{n}", "lora_path": f"a{n}"}, headers=tokens[n]
            )
            assert loaded.status_code == 200, loaded.text
            await http.post("/switch_adapter", json={"adapter": f"a{n}"}, headers=tokens[n])
        gate = asyncio.Semaphore(40)

        async def one(number: int, user: int, body: dict[str, Any]) -> str:
            # Half name their adapter, half have it as their default.
            named = {"model": f"a{user}"} if user and number % 2 else {}
            async with gate:
                response = await http.post("/v1/completions", json={**body, **named}, headers=tokens[user])
            assert response.status_code == 200, response.text
            return str(response.json()["choices"][0]["text"])

        answers = await asyncio.gather(*(one(i, user, body) for i, (user, body) in enumerate(requests)))
        headers = {"Authorization": "Bearer a token of the owner"}
        assert (await http.get("/metrics", headers=headers)).status_code == 200
        return list(answers)
