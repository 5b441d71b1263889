"""What one user must not learn of another, nor take from them; and what a sender must not do to the server's numbers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_server import Running, fake_base, fake_engine, served
from serve_tiny import tiny_base
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from nanohydra.cli import serve
from nanohydra.errors import UserError
from nanohydra.infer.config import EngineConfig
from nanohydra.serve.api.answers import Json
from nanohydra.serve.auth import PROXY_HEADERS
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.metrics import Metrics
from nanohydra.serve.middleware import Guard, Ledger


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """As it is by default, with the fake engine."""
    folder = tmp_path_factory.mktemp("served")
    base = fake_base(folder / "demo")
    config = ServeConfig(base=str(base), database=f"sqlite:///{folder / 'test.db'}", web=False)
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
