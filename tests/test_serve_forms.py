"""Forms that strangers give: what freezes a compiler is refused, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import pytest

pytest.importorskip("llguidance")
pytest.importorskip("fastapi")

from serve_server import fake_base, fake_engine, served, wait_for

from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.serve import forms
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.errors import TooMany
from nanohydra.serve.forms import FormChecker

FREEZING = {"allOf": [{"type": "string", "pattern": f"^(.*[a-f]){{{i}}}.*$"} for i in range(1, 23)]}


def schema(value: Any) -> SamplingParams:
    return SamplingParams(json_schema=json.dumps(value))


def test_verdicts():
    async def check() -> None:
        checker = FormChecker(seconds=60)
        await checker.check(SamplingParams())
        await checker.check(SamplingParams(regex="(a|b)*a(a|b){18}"))
        await checker.check(SamplingParams(grammar='start: "a" | "b"'))
        await checker.check(schema({"enum": ["ü" * 5000]}))
        await checker.check(schema({"type": "object", "properties": {"a": {"type": "integer"}}}))
        with pytest.raises(UserError, match="takes too long to compile"):
            await checker.check(schema(FREEZING))
        with pytest.raises(UserError, match="Invalid type"):
            await checker.check(schema({"type": "flub"}))
        with pytest.raises(UserError) as error:
            await checker.check(SamplingParams(regex="(" * 60_000))
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 500

    asyncio.run(check())


def test_a_form_is_compiled_once_for_all_who_ask(monkeypatch):
    compiled: list[bytes] = []

    async def compile_one(form: bytes) -> str:
        compiled.append(form)
        await asyncio.sleep(0.01)
        return "bad" if b"b" in form else ""

    async def check() -> None:
        checker = FormChecker()
        checker.KEPT = 2
        good, bad, other = (SamplingParams(regex=letter) for letter in "ABC".replace("B", "b"))
        first = asyncio.create_task(checker.check(good))
        await asyncio.sleep(0)
        first.cancel()  # the others get their verdict nevertheless
        await asyncio.gather(*(checker.check(good) for _ in range(9)))
        for _ in range(2):
            with pytest.raises(UserError, match="bad"):
                await checker.check(bad)
        await checker.check(good)
        await checker.check(other)  # in the place of `bad`
        await checker.check(good)
        with pytest.raises(UserError, match="bad"):
            await checker.check(bad)

    monkeypatch.setattr(forms, "_compiled", compile_one)
    asyncio.run(check())
    assert [json.loads(form)["regex"] for form in compiled] == ["A", "b", "C", "b"]


def test_a_form_without_a_verdict_may_come_again(monkeypatch):
    monkeypatch.setattr(forms, "COMMAND", ("sleep", "60"))

    async def check() -> None:
        checker = FormChecker(seconds=0.2)
        for _ in range(2):
            with pytest.raises(TooMany, match="try again"):
                await checker.check(SamplingParams(regex="a"))
        monkeypatch.setattr(forms, "COMMAND", ("false",))
        with pytest.raises(TooMany, match="try again"):
            await checker.check(SamplingParams(regex="a"))
        monkeypatch.setattr(forms, "COMMAND", ("true",))
        await checker.check(SamplingParams(regex="a"))

    start = time.monotonic()
    asyncio.run(check())
    assert time.monotonic() - start < 30


def test_others_keep_getting_tokens(tmp_path: Path) -> None:
    config = ServeConfig(base="fake", database=f"sqlite:///{tmp_path / 'test.db'}", web=False)
    said = "the quick brown fox jumps over the lazy dog. " * 12
    with served(config, fake_engine(fake_base(tmp_path / "base"))) as server, server.http() as http:
        seen: list[float] = []
        asked = Event()

        def listen() -> None:
            body = {"messages": [{"role": "user", "content": f"SLOW:60 SAY:{said}"}], "stream": True}
            with http.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == 200, answer.read()
                for line in answer.iter_lines():
                    if line:
                        seen.append(time.monotonic())
                    if len(seen) > 5 and asked.is_set():
                        return

        form = {"type": "json_schema", "json_schema": {"name": "x", "schema": FREEZING}}
        body = {"messages": [{"role": "user", "content": "hi"}], "response_format": form}
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            wait_for(lambda: len(seen) > 3 or listening.done())
            start = time.monotonic()
            answer = http.post("/v1/chat/completions", json=body)
            end = time.monotonic()
            asked.set()
            listening.result(60)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "The answer's form takes too long to compile: simplify it."
    heard = [start, *(at for at in seen if start < at < end), end]
    assert max(later - before for before, later in pairwise(heard)) < 1.5
