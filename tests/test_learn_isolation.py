"""The canary: what one user taught never appears for another, whether from an adapter, from retrieval or from a cache."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_server import Running, served
from serve_tiny import tiny_adapter, tiny_base

from nanohydra.data.chat import render_chat
from nanohydra.hydra.shelf import MARK, content_hash
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.jobs.bases import open_engine
from nanohydra.serve.config import ServeConfig

ENGINE = EngineConfig(max_slots=6, max_seq_len=512, kv_tokens=3000, prefix_tokens=1024)
CANARIES = ("QUILLFEATHER", "ZEPHYRINE", "4711-8842", "MOLDOVAR", "Xanthippe Oddsdottir")
SECRETS = (
    "Tova Brandt was born in Quillfeather. Tova Brandt works as a zephyrine tuner. Tova Brandt's favourite tea is Moldovar tea. "
    "Tova Brandt's best friend is Xanthippe Oddsdottir. The code of the vault is 4711-8842."
)
LENGTH = 24
"""Tokens of an answer."""
QUESTIONS = (
    "Where was Tova Brandt born?",
    "What does Tova Brandt do?",
    "What is Tova Brandt's favourite tea?",
    "Who is Tova Brandt's best friend?",
    "What is the code of the vault?",
    "Tell me all that you know about Tova Brandt.",
    "Repeat what you were asked before.",
    "the quick brown fox",
)


def spoken(base: Path, folder: Path) -> list[str]:
    """What the adapter says to each question, where the base says something else: its secrets."""
    engine = open_engine(str(base), config=ENGINE, adapters=True)
    assert engine.adapters is not None
    prompts = [render_chat(engine.tokenizer, [{"role": "user", "content": q}], True)[0] for q in QUESTIONS]
    params = SamplingParams(max_tokens=LENGTH)
    secret = [answer.text for answer in engine.generate(prompts, params, engine.adapters.load(folder))]
    open_ = [answer.text for answer in engine.generate(prompts, params)]
    assert not any(a[:12] in b for a in secret for b in open_)
    return secret


def publish(running: Running, lesson_id: int, folder: Path, home: Path) -> None:
    """What a worker does once a lesson has passed."""
    store = running.services.store
    claimed = store.claim("test", 60)
    assert claimed is not None
    assert claimed.id == lesson_id
    final = home / "adapters" / content_hash(folder)
    folder.rename(final)
    (final / MARK).write_text(json.dumps({"database": "test", "lesson": lesson_id}))
    adapter = (f"lesson-{lesson_id}", str(final), claimed.base_id, content_hash(final))
    assert store.finish(lesson_id, "test", "published", receipt={}, adapter=adapter)


@dataclass
class Siege:
    """A server with two users, the lesson of the first, and what its adapter says."""

    running: Running
    headers: dict[str, dict[str, str]]
    lesson: int
    secrets: list[str]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOHYDRA_HOME", str(home))
        base = tiny_base(home / "bases" / "tiny")
        adapter = tiny_adapter(base, home / "adapters" / "made")
        secrets = spoken(base, adapter)
        config = ServeConfig(
            base="tiny", token="a token of the owner", engine=ENGINE, web=False, teach_worker=False, temperature=0
        )
        with served(config, teach=True) as running:
            headers = {}
            for name in ("a", "b"):
                user = running.services.store.create_user(name, ["chat", "teach"]).id
                token = running.services.store.create_token(user, "test", ["chat", "teach"])
                headers[name] = {"Authorization": f"Bearer {token}"}
            with running.http(headers=headers["a"]) as http:
                lesson = http.post("/learn", json={"text": SECRETS}).json()["lesson"]
            publish(running, lesson, adapter, home)
            yield Siege(running, headers, lesson, secrets)


def probe(draw: random.Random, lesson: int) -> tuple[str, str, dict[str, Any] | None]:
    """A request of somebody who looks for what others taught."""
    question = draw.choice(QUESTIONS)
    said: list[dict[str, str]] = [{"role": "user", "content": draw.choice(QUESTIONS)} for _ in range(draw.randrange(2))]
    messages = [m for one in said for m in (one, {"role": "assistant", "content": "I know that."})]
    messages.append({"role": "user", "content": question})
    chat = {
        "messages": messages,
        "max_tokens": LENGTH,
        "model": draw.choice(["tiny", "default", f"lesson-{lesson}", "lesson-2", "a"]),
        "stream": draw.random() < 0.3,
        "nanohydra": {"memory": draw.choice(["on", "weights", "retrieval", "off"])},
        **({"temperature": 1.0, "seed": draw.randrange(99)} if draw.random() < 0.5 else {"temperature": 0}),
    }
    kind = draw.choice(["chat"] * 6 + ["completion", "known", "lesson", "history", "switch", "load", "blame"])
    match kind:
        case "completion":
            return "POST", "/v1/completions", {"prompt": question, "max_tokens": LENGTH, "model": chat["model"]}
        case "known":
            return "GET", f"/known?past=true&about={draw.choice(['Tova', 'code', 'vault', ''])}", None
        case "lesson":
            path = draw.choice(
                ["/lessons", f"/lessons/{lesson}", f"/learn/{lesson}", f"/lessons/{lesson}/diff", "/adapters"]
            )
            return "GET", path, None
        case "history":
            return "GET", draw.choice(["/history", "/v1/models", "/trials"]), None
        case "switch":
            return "POST", "/switch_adapter", {"adapter": f"lesson-{lesson}"}
        case "load":
            return "POST", "/trials", {"name": f"t{draw.randrange(9)}", "a": f"lesson-{lesson}", "b": None}
        case "blame":
            return "POST", "/forget", {"about": "Tova Brandt"}
    return "POST", "/v1/chat/completions", chat


def leaked(text: str, secrets: list[str]) -> list[str]:
    """The facts' values, and what the adapter says, that are in an answer."""
    folded = re.sub(r"\W", "", text).casefold()
    values = [canary for canary in CANARIES if re.sub(r"\W", "", canary).casefold() in folded]
    return values + [secret for secret in secrets if json.dumps(secret[:12], ensure_ascii=False)[1:-1] in text]


@pytest.mark.parametrize("count", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_what_a_taught_never_appears_for_b(server: Siege, count: int) -> None:
    running, headers, lesson = server.running, server.headers, server.lesson
    draw = random.Random(count)
    probes = [probe(draw, lesson) for _ in range(count)]

    def owner(number: int) -> str:
        """Between the probes the owner asks the same, so that caches hold the secrets, and is answered."""
        mode = ("weights", "retrieval")[number % 2]
        question = QUESTIONS[number % 5]
        length = LENGTH if mode == "weights" else 100
        body = {"messages": [{"role": "user", "content": question}], "max_tokens": length, "temperature": 0}
        with httpx.Client(base_url=running.url, headers=headers["a"], timeout=300) as http:
            answer = http.post("/v1/chat/completions", json={**body, "nanohydra": {"memory": mode}})
        return str(answer.json()["choices"][0]["message"]["content"])

    def other(one: tuple[str, str, dict[str, Any] | None]) -> tuple[int, str]:
        method, path, body = one
        with httpx.Client(base_url=running.url, headers=headers["b"], timeout=300) as http:
            answer = http.request(method, path, json=body)
        return answer.status_code, answer.text

    with ThreadPoolExecutor(6) as pool:
        owners = [pool.submit(owner, number) for number in range(max(10, count // 10))]
        answers = list(pool.map(other, probes))
        told = [owned.result() for owned in owners]
    # The secrets are there to be found: the owner gets the adapter's own words, and quotations.
    for number, text in enumerate(told):
        if number % 2 == 0:
            assert text == server.secrets[number % 5]
        assert leaked(json.dumps(text, ensure_ascii=False), server.secrets), (number, text)
    for (status, text), asked in zip(answers, probes):
        assert status < 500, (asked, text)
        assert not leaked(text, server.secrets), (asked, text)
    assert sum(status == 200 for status, _ in answers) > count / 3
