"""The engine's process seen from the API: starts, answers, crashes, comes back; and what it says survives the pipe."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_server import fake_base, fake_engine

from nanohydra.errors import UserError
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.infer.streaming import Logprob, Timing
from nanohydra.serve import protocol
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.protocol import Failed, Finished, GenerateRequest, Token, Usage

FINITE = st.floats(allow_nan=False, allow_infinity=False)
LOGPROBS = st.builds(Logprob, st.integers(0, 9), FINITE, st.lists(st.tuples(st.integers(0, 9), FINITE)).map(tuple))
MESSAGES = st.one_of(
    st.builds(
        GenerateRequest,
        st.text(),
        st.lists(st.integers(0, 2**31)),
        st.builds(SamplingParams, stop=st.lists(st.text(min_size=1)).map(tuple), seed=st.none() | st.integers()),
        st.none() | st.text(),
    ),
    st.builds(Token, st.text(), st.text(), st.lists(st.integers()), st.lists(st.none() | LOGPROBS)),
    st.builds(
        Finished,
        st.text(),
        st.sampled_from(["stop", "length"]),
        st.builds(Usage, st.integers(), st.integers(), st.integers()),
        st.builds(Timing, FINITE, FINITE, FINITE),
    ),
    st.builds(Failed, st.text(), st.sampled_from(["invalid", "engine"]), st.text()),
    st.builds(protocol.Start, st.text(), st.booleans(), st.builds(EngineConfig, max_slots=st.integers(1, 9))),
    st.builds(protocol.Ready, st.text(), st.text(), st.text(), st.integers(), st.integers(), st.integers()),
)


@given(MESSAGES)
def test_messages_survive_the_pipe(message: Any) -> None:
    line = protocol.encode(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert protocol.decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"type": "Nothing"}', b'{"type": "Abort"}', b'{"type": 3}', b"x"]
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        protocol.decode(line)


def with_engine(
    base: Path, test: Callable[[EngineClient], Awaitable[None]], ready: bool = True, **options: Any
) -> None:
    async def run() -> None:
        client = fake_engine(base, **options)
        await client.start()
        try:
            if ready:
                await asyncio.wait_for(client.ready(), 30)
            await asyncio.wait_for(test(client), 60)
        finally:
            await client.stop()

    asyncio.run(run())


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_base(tmp_path_factory.mktemp("base"))


def request(client: EngineClient, text: str, **params: Any) -> GenerateRequest:
    assert client.tokenizer is not None
    return GenerateRequest(client.new_id(), client.tokenizer.encode(text), SamplingParams(**params))


async def answer(client: EngineClient, text: str, **params: Any) -> tuple[str, Any]:
    said, last = "", None
    async for last in client.generate(request(client, text, **params)):
        said += last.text if isinstance(last, Token) else ""
    return said, last


def test_answers_side_by_side(base: Path) -> None:
    async def test(client: EngineClient) -> None:
        answers = await asyncio.gather(*(answer(client, f"SAY:number {i}") for i in range(20)))
        assert [said for said, _ in answers] == [f"number {i}" for i in range(20)]
        assert all(isinstance(last, Finished) and last.reason == "stop" for _, last in answers)
        assert client.open_requests == 0

    with_engine(base, test)


def test_closing_the_iterator_aborts(base: Path) -> None:
    async def test(client: EngineClient) -> None:
        events = client.generate(request(client, "SLOW:20 SAY:" + "a long story. " * 50))
        assert isinstance(await anext(events), Token)
        assert (await client.stats())["running"] == 1
        await events.aclose()
        assert (await client.stats())["running"] == 0
        assert client.open_requests == 0

    with_engine(base, test)


def test_a_crash_ends_what_had_begun_and_retries_the_rest(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_ENGINE_ONCE", str(tmp_path / "crashed"))

    async def test(client: EngineClient) -> None:
        begun = asyncio.create_task(answer(client, "SLOW:5 CRASH:8 SAY:this story has no end at all"))
        waiting = asyncio.create_task(answer(client, "SLOW:60 SAY:I come later"))
        said, last = await begun
        assert isinstance(last, Failed)
        assert last.kind == "engine"
        assert said
        assert "this story".startswith(said) or said.startswith("this")
        late = asyncio.create_task(answer(client, "SAY:asked while it restarts"))
        said, last = await waiting
        assert isinstance(last, Finished)
        assert said == "I come later"
        assert (await late)[0] == "asked while it restarts"
        assert client.restarts == 1
        assert client.state == "ready"

    with_engine(base, test)


def test_a_request_that_kills_twice_is_told_so(base: Path) -> None:
    async def test(client: EngineClient) -> None:
        _, last = await answer(client, "CRASH:0 SAY:x")
        assert isinstance(last, Failed)
        assert last.kind == "engine"
        assert client.restarts >= 1
        await asyncio.wait_for(client.ready(), 30)
        assert (await answer(client, "SAY:well again"))[0] == "well again"

    with_engine(base, test)


def test_killed_from_outside_it_comes_back_with_its_adapters(base: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")

    async def test(client: EngineClient) -> None:
        assert await client.load_adapter("pirate", tmp_path) == "a" * 64
        assert client.pid is not None
        os.kill(client.pid, signal.SIGKILL)
        while client.state == "ready":
            await asyncio.sleep(0.01)
        assert client.state == "restarting"
        await client.ready()
        events = client.generate(
            GenerateRequest("a", client.tokenizer.encode("SAY:ahoy"), SamplingParams(), "pirate")  # type: ignore[union-attr]
        )
        assert "".join([e.text async for e in events if isinstance(e, Token)]) == "pirate>ahoy"
        await client.unload_adapter("pirate")
        with pytest.raises(UserError):
            await client.load_adapter("none", tmp_path / "nowhere")
        assert client.adapters == {}

    with_engine(base, test)


def test_nobody_waits_for_an_engine_that_does_not_come_back(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(client: EngineClient) -> None:
        monkeypatch.setenv("FAKE_ENGINE_BROKEN", "1")
        _, last = await answer(client, "CRASH:0 SAY:x")
        assert isinstance(last, Failed)
        _, last = await answer(client, "SAY:x")
        assert isinstance(last, Failed)
        assert last.kind == "unavailable"
        monkeypatch.delenv("FAKE_ENGINE_BROKEN")
        await asyncio.wait_for(client.ready(), 30)
        assert (await answer(client, "SAY:well again"))[0] == "well again"

    with_engine(base, test, delay=0.02)


def test_a_silent_engine_is_replaced(base: Path) -> None:
    async def test(client: EngineClient) -> None:
        _, last = await answer(client, "MUTE")
        assert isinstance(last, Failed)
        assert last.kind == "engine"
        assert client.restarts >= 1

    with_engine(base, test, stall=0.3)


def test_while_it_loads_and_where_it_cannot(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def loading(client: EngineClient) -> None:
        assert client.state == "loading"
        last = [e async for e in client.generate(GenerateRequest("a", [1], SamplingParams()))][-1]
        assert isinstance(last, Failed)
        assert last.kind == "unavailable"

    monkeypatch.setenv("FAKE_ENGINE_LOADS", "5")
    with_engine(base, loading, ready=False)
    monkeypatch.setenv("FAKE_ENGINE_LOADS", "0")

    async def failed(client: EngineClient) -> None:
        with pytest.raises(UserError, match="no base"):
            await client.ready()
        assert client.state == "failed"

    with_engine(tmp_path, failed, ready=False)


def test_breaking_down_at_every_start_is_final(base: Path) -> None:
    async def test(client: EngineClient) -> None:
        with pytest.raises(UserError, match="broke down 3 times"):
            await client.ready()

    with_engine(base, test, ready=False, command=(sys.executable, "-c", "print('no protocol')"))


def test_the_api_process_loads_no_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path))
    code = "import sys\nfrom nanohydra.serve.app import create_app\nfrom nanohydra.serve.config import ServeConfig\n"
    code += "create_app(ServeConfig())\nassert 'torch' not in sys.modules, 'torch'"  # with the web app
    subprocess.run([sys.executable, "-c", code], check=True)
