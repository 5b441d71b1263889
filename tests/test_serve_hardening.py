"""What one user must not learn of another, nor take from them; and what a sender must not do to the server's numbers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_server import Running, fake_base, fake_engine, served, wait_for
from serve_tiny import tiny_base
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from nanohydra.cli import serve
from nanohydra.errors import UserError
from nanohydra.infer.config import EngineConfig
from nanohydra.serve.api.answers import Json
from nanohydra.serve.auth import PROXY_HEADERS
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.generation import Generation
from nanohydra.serve.metrics import Metrics
from nanohydra.serve.middleware import Guard, Ledger
from nanohydra.store import Principal


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As it is by default, with the fake engine."""
    folder = tmp_path_factory.mktemp("served")
    base = fake_base(folder / "demo")
    config = ServeConfig(base=str(base), database=f"sqlite:///{folder / 'test.db'}", web=False)
    with served(config, fake_engine(base)) as running:
        yield running


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Running]:
    """One that has many users and lets each ask for little at once."""
    base, database = fake_base(tmp_path / "demo"), f"sqlite:///{tmp_path / 'test.db'}"
    bounds: dict[str, Any] = {"max_waiting": 3, "max_open_per_user": 2, "max_choices": 2}
    config = ServeConfig(base=str(base), database=database, web=False, token="a-token-of-the-owner-1234", **bounds)
    with served(config, fake_engine(base)) as running:
        yield running


def new_user(running: Running, name: str, quota: int | None = None) -> tuple[int, dict[str, str]]:
    store = running.services.store
    user = store.create_user(name, ["chat"], quota)
    return user.id, {"Authorization": f"Bearer {store.create_token(user.id, 'test', ['chat'])}"}


def test_users_share_no_beginnings(tmp_path: Path) -> None:
    """Else one could find out block by block, by `cached_tokens`, what another asked."""
    base, database = tiny_base(tmp_path / "tiny"), f"sqlite:///{tmp_path / 'test.db'}"
    engine = EngineConfig(max_slots=2, max_seq_len=256, prefix_tokens=512)
    body = {"prompt": "the quick brown fox " * 10, "max_tokens": 1, "temperature": 0}
    with served(ServeConfig(base=str(base), database=database, web=False, engine=engine)) as running:
        _, ann = new_user(running, "ann")
        _, bob = new_user(running, "bob")
        with running.http() as http:

            def cached(headers: dict[str, str]) -> int:
                usage = http.post("/v1/completions", json=body, headers=headers).json()["usage"]
                return int(usage["prompt_tokens_details"]["cached_tokens"])

            assert cached(ann) == 0
            assert cached(ann) > 0
            assert cached(bob) == 0
            assert cached({}) == 0  # the local user
            assert cached({}) == cached(bob) == cached(ann) > 0


def test_invented_methods_make_no_series() -> None:
    """Not over a socket: which methods come through depends on the parser of HTTP that is installed."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await Json({}, 405)(scope, receive, send)

    async def ask(*methods: str) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(Ledger(app, metrics))) as http:
            for method in methods:
                await http.request(method, "http://localhost/health")

    metrics = Metrics("demo")
    asyncio.run(ask("GET", "INVENTED-1", "INVENTED-2"))
    text = metrics.render({}, True, 0).decode()
    assert 'nanohydra_http_requests_total{method="GET",route="other",status="405"} 1.0' in text
    assert 'nanohydra_http_requests_total{method="other",route="other",status="405"} 2.0' in text
    assert "INVENTED" not in text


def test_loopback_names_are_let_in_beside_allowed_hosts() -> None:
    config = ServeConfig(host="0.0.0.0", allowed_hosts=("chat.example.org",))
    guard = Guard(Json({}), config)
    assert not config.open
    for host in ("chat.example.org", "127.0.0.1:8000", "localhost:8000", "[::1]:8000"):
        assert guard.refusal(Headers({"host": host})) is None
    for host in ("evil.example", "127.0.0.1.evil.example"):
        assert guard.refusal(Headers({"host": host})) is not None


@pytest.mark.parametrize("name", sorted(PROXY_HEADERS))
def test_what_came_through_a_proxy_is_not_the_local_users(local: Running, name: str) -> None:
    with local.http() as http:
        assert http.get("/v1/models").status_code == 200
        assert http.get("/v1/models", headers={name.title(): "1.1 somewhere"}).status_code == 401


def test_the_token_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[ServeConfig] = []
    monkeypatch.setattr("nanohydra.serve.run.serve", lambda config, say: started.append(config))
    monkeypatch.setenv("NANOHYDRA_TOKEN", "from-the-environment")
    serve.main([])
    serve.main(["--token", "from-the-command-line"])
    monkeypatch.setenv("NANOHYDRA_TOKEN", "")
    serve.main([])
    assert [config.token for config in started] == ["from-the-environment", "from-the-command-line", None]
    assert [config.open for config in started] == [False, False, True]
    monkeypatch.setenv("NANOHYDRA_TOKEN", "short")
    with pytest.raises(UserError, match="16 characters"):
        serve.main([])
    with pytest.raises(SystemExit):
        serve.main(["--help"])
    assert "NANOHYDRA_TOKEN" in capsys.readouterr().out


def test_one_user_does_not_take_all(shared: Running) -> None:
    (_, ann), (_, bob), (_, cyd) = (new_user(shared, name) for name in ("ann", "bob", "cyd"))
    slow = {"prompt": "SAY:SLOW:40 wait wait wait wait wait wait", "max_tokens": 30}
    quick: dict[str, Any] = {"prompt": "SAY:hi", "max_tokens": 4}
    with shared.http() as http, ThreadPoolExecutor() as pool:

        def ask(headers: dict[str, str], body: dict[str, Any], path: str = "completions") -> httpx.Response:
            return http.post(f"/v1/{path}", json=body, headers=headers)

        both = pool.submit(ask, ann, {**slow, "n": 2})
        wait_for(lambda: shared.services.engine.open_requests == 2)
        for refused in (ask(ann, quick), ask(ann, {"input": "hi"}, "embeddings")):
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_open")
            assert int(refused.headers["retry-after"]) > 0
        assert ask(bob, quick).status_code == 200
        assert ask(bob, {"input": "hi"}, "embeddings").status_code == 200
        third = pool.submit(ask, bob, slow)
        wait_for(lambda: shared.services.engine.open_requests == 3)
        full = ask(cyd, {"input": "hi"}, "embeddings")  # they queue as all others do
        assert (full.status_code, full.json()["error"]["code"]) == (429, "server_busy")
        assert both.result().status_code == third.result().status_code == 200
        assert ask(ann, {**quick, "n": 2}).status_code == 200


def test_embeddings_are_open_requests(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ann = new_user(shared, "ann")
    engine, waiting, embed = shared.services.engine, [], shared.services.engine.embed

    async def slow(*given: Any) -> list[list[float]]:
        waiting.append(given)
        await asyncio.sleep(0.5)
        return await embed(*given)

    monkeypatch.setattr(engine, "embed", slow)
    with shared.http(headers=ann) as http, ThreadPoolExecutor() as pool:
        under_way = [pool.submit(http.post, "/v1/embeddings", json={"input": "hi"}) for _ in range(2)]
        wait_for(lambda: len(waiting) == 2)
        assert http.post("/v1/completions", json={"prompt": "SAY:hi"}).status_code == 429
        assert [answer.result().status_code for answer in under_way] == [200, 200]
        assert http.post("/v1/completions", json={"prompt": "SAY:hi"}).status_code == 200


def test_answers_at_once_do_not_overshoot_a_quota(shared: Running) -> None:
    store, prompt = shared.services.store, "SAY:SLOW:5" + " word" * 100
    read = len(shared.services.tokenizer.encode(prompt))
    quota = 2 * read + 30
    user, headers = new_user(shared, "ann", quota)
    with shared.http(headers=headers) as http:
        body = {"prompt": prompt, "max_tokens": 20}
        answer = http.post("/v1/completions", json={**body, "n": 2}).json()
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length"] * 2
        assert answer["usage"]["completion_tokens"] == 30  # the second was cut short
        assert store.quota_left(user) == 0
        store.use_quota(user, -read)
        refused = http.post("/v1/completions", json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert int(refused.headers["retry-after"]) > 0
        assert http.post("/v1/embeddings", json={"input": prompt + " more"}).status_code == 429
        assert store.quota_left(user) == read  # who is refused pays nothing
        assert http.post("/v1/embeddings", json={"input": prompt}).status_code == 200
        assert store.quota_left(user) == 0
        store.use_quota(user, -quota)
        short = http.post("/v1/completions", json={"prompt": "SAY:hi", "max_tokens": 1000}).json()
        wait_for(lambda: store.quota_left(user) == quota - short["usage"]["total_tokens"], 5)


def test_who_hangs_up_while_the_quota_is_looked_up_pays_nothing(local: Running) -> None:
    services, counted = local.services, []

    class Slow:
        def quota_left(self, user_id: int) -> int:
            time.sleep(0.2)
            return 100

        def use_quota(self, user_id: int, tokens: int) -> int:
            counted.append(tokens)
            return 100

    async def hang_up() -> None:
        store: Any = Slow()
        generation = Generation(services.config, services.engine, store, services.adapters, services.metrics)
        ann = Principal(7, "ann", frozenset({"chat"}), None, 100)

        async def ask() -> None:
            async with generation.account(ann, 10, 20):
                raise AssertionError("nobody is there any more")

        asking = asyncio.ensure_future(ask())
        await asyncio.sleep(0.05)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        while len(counted) < 2:
            await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(hang_up(), 5))
    assert counted == [20, -20]


def test_texts_beyond_any_context_are_not_split_into_tokens(local: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    base = local.services.engine.base
    assert base is not None
    most = 16 * base.max_seq_len
    long = "x" * (most + 1)
    message = {"role": "user", "content": "hi"}
    function = {"name": "f", "parameters": {"type": "object", "properties": {"x": {"enum": [long]}}}}
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": long}}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/v1/completions", {"prompt": long}),
        ("/v1/completions", {"prompt": ["hi", long]}),
        ("/v1/embeddings", {"input": [long]}),
        ("/tokenize", {"prompt": long}),
    ]
    for path in ("/v1/chat/completions", "/tokenize"):
        bodies += [
            (path, {"messages": [{**message, "content": long}]}),
            (path, {"messages": [{**message, "content": [{"type": "text", "text": long}]}]}),
            (path, {"messages": [message, {"role": "assistant", "tool_calls": [call]}, message]}),
            (path, {"messages": [message], "tools": [{"type": "function", "function": function}]}),
        ]
    with local.http() as http:
        assert http.post("/tokenize", json={"prompt": "x" * most}).status_code == 200
        monkeypatch.setattr(type(local.services.tokenizer), "encode", lambda *given, **options: 1 / 0)
        for path, body in bodies:
            answer = http.post(path, json=body)
            assert answer.status_code == 400, (path, answer.text[:200])
            error = answer.json()["error"]
            assert error["code"] == "context_length_exceeded"
            assert f"more than {most}" in error["message"]
        with pytest.raises(ZeroDivisionError):
            local.services.tokenizer.encode("hi")
