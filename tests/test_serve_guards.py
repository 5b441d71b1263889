"""Who may ask, how much, and what is kept from whom: tokens, scopes, Host and Origin, limits, hang-ups, logs."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from serve_server import Running, fake_base, fake_engine, served, wait_for

from nanohydra import logs
from nanohydra.errors import UserError
from nanohydra.serve.app import create_app
from nanohydra.serve.config import ServeConfig

CHAT = "/v1/chat/completions"
ADMIN_TOKEN = "a-token-of-the-owner-1234"
TEACHER_LOADS = {"lora_name": "x", "lora_path": "somewhere"}


def says(text: str, **options: Any) -> dict[str, Any]:
    return {"model": "demo", "messages": [{"role": "user", "content": f"SAY:{text}"}], **options}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_base(tmp_path_factory.mktemp("base") / "demo")


@pytest.fixture(scope="module")
def start(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    def starts(ready: bool = True, **options: Any) -> Any:
        database = tmp_path_factory.mktemp("served") / "test.db"
        options = {"database": f"sqlite:///{database}", "web": False, **options}
        return served(ServeConfig(base=str(base), **options), fake_engine(base), ready)

    return starts


@pytest.fixture(scope="module")
def local(start: Callable[..., Any]) -> Iterator[Running]:
    """As it is by default: on loopback, without a token."""
    with start(max_body_bytes=10_000, ping_seconds=0.1, cors_origins=("https://friend.example",)) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(start: Callable[..., Any]) -> Iterator[Running]:
    """With a token, as everywhere but on loopback."""
    with start(token=ADMIN_TOKEN) as running:
        yield running


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def token_of(running: Running, name: str, *scopes: str, quota: int | None = None) -> tuple[int, dict[str, str]]:
    store = running.services.store
    user = store.create_user(name, scopes, quota)
    return user.id, bearer(store.create_token(user.id, "test", scopes))


# -- tokens -----------------------------------------------------------------------------------------------------------


def test_the_local_user_needs_no_token_and_may_send_any_key(local: Running) -> None:
    with local.http() as http:
        assert http.post(CHAT, json=says("hi")).status_code == 200
        assert http.post(CHAT, json=says("hi"), headers=bearer("sk-anything")).status_code == 200
        # One of ours that is revoked is not the local user's.
        user, headers = token_of(local, "gone", "chat")
        assert http.post(CHAT, json=says("hi"), headers=headers).status_code == 200
        local.services.store.revoke_token(local.services.store.tokens(user)[0].id)
        assert http.post(CHAT, json=says("hi"), headers=headers).status_code == 401
        # What a proxy passes on comes from somebody else.
        assert http.post(CHAT, json=says("hi"), headers={"X-Forwarded-For": "10.0.0.7"}).status_code == 401


def test_with_a_token_everything_but_health_asks_for_it(guarded: Running) -> None:
    described = create_app(guarded.services.config, guarded.services.engine).openapi()["paths"]
    asked = {(method, path) for path, methods in described.items() for method in methods} - {("get", "/health")}
    assert len(asked) == 31
    with guarded.http() as http:
        assert http.get("/health").status_code == 200
        for method, path in sorted(asked | {("get", "/openapi.json")}):
            for headers in ({}, bearer("wrong"), bearer("nh_wrong"), {"Authorization": "Basic eDp5"}):
                # A body is looked at only after its sender.
                body = {} if method == "post" else None
                answer = http.request(method, re.sub(r"{\w+}", "1", path), headers=headers, json=body)
                assert answer.status_code == 401, (method, path, headers)
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["error"]["code"] == "invalid_api_key"
        assert http.post(CHAT, json=says("hi"), headers=bearer(ADMIN_TOKEN)).status_code == 200


def test_scopes(guarded: Running) -> None:
    _, chat = token_of(guarded, "chatter", "chat")
    _, teach = token_of(guarded, "teacher", "chat", "teach")
    with guarded.http() as http:
        assert http.post(CHAT, json=says("hi"), headers=chat).status_code == 200
        assert http.get("/metrics", headers=chat).status_code == 403
        assert http.get("/metrics", headers=bearer(ADMIN_TOKEN)).status_code == 200
        assert http.post("/v1/load_lora_adapter", headers=chat, json=TEACHER_LOADS).status_code == 403
        # A teacher has the server read only the folder of adapters.
        outside = http.post("/v1/load_lora_adapter", headers=teach, json={**TEACHER_LOADS, "lora_path": "/etc"})
        assert outside.status_code == 403
        assert http.post("/v1/load_lora_adapter", headers=teach, json=TEACHER_LOADS).status_code == 400
        nowhere = http.post(
            "/v1/load_lora_adapter", headers=teach, json={**TEACHER_LOADS, "lora_path": "~nobody-here/x"}
        )
        assert nowhere.status_code == 400


def test_adapters_are_their_owners(guarded: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path))
    for name in ("one", "two"):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        (tmp_path / "adapters" / name / "adapter_config.json").write_text("{}")
    _, ann = token_of(guarded, "ann", "chat", "teach")
    _, bob = token_of(guarded, "bob", "chat", "teach")

    def said(http: httpx.Client, who: dict[str, str], model: str) -> Any:
        answer = http.post(CHAT, json={**says("hi"), "model": model}, headers=who)
        return answer.json()["choices"][0]["message"]["content"] if answer.status_code == 200 else answer.status_code

    with guarded.http() as http:
        load = {"lora_name": "poet", "lora_path": "one"}
        assert http.post("/v1/load_lora_adapter", json=load, headers=ann).status_code == 200
        assert said(http, ann, "poet") == "poet>hi"
        # Bob neither sees, uses, takes over nor unloads what is Ann's.
        assert http.get("/adapters", headers=bob).json()["adapters"] == []
        assert [m["id"] for m in http.get("/v1/models", headers=bob).json()["data"]] == ["demo"]
        assert said(http, bob, "poet") == 404
        assert http.post("/switch_adapter", json={"adapter": "poet"}, headers=bob).status_code == 404
        theirs = http.post("/v1/load_lora_adapter", json={**load, "lora_path": "two"}, headers=bob)
        assert theirs.status_code == 400
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "poet"}, headers=bob).status_code == 404
        assert said(http, ann, "poet") == "poet>hi"
        # Ann's default is hers alone.
        assert http.post("/switch_adapter", json={"adapter": "poet"}, headers=ann).status_code == 200
        assert said(http, ann, "demo") == said(http, ann, "") == "poet>hi"
        assert said(http, bob, "demo") == "hi"
        assert http.get("/adapters", headers=ann).json()["default"] == "poet"
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "poet"}, headers=ann).status_code == 200
        assert said(http, ann, "demo") == "hi"
        for name in ("demo", "default", "", "a b", "../x", "x" * 65):
            wrong = http.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": "one"}, headers=ann)
            assert wrong.status_code == 400, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"token": "short"}, "16 characters"),
        ({"port": -1}, "port"),
        ({"cors_origins": ("*",)}, "no origin"),
        ({"cors_origins": ("https://x.example/",)}, "no origin"),
    ],
)
def test_settings_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ServeConfig(**options)


def test_only_plain_loopback_is_open() -> None:
    assert ServeConfig().open
    assert ServeConfig(host="::1").open
    assert ServeConfig(host="localhost").open
    assert not ServeConfig(host="0.0.0.0").open
    assert not ServeConfig(host="192.168.1.5").open
    assert not ServeConfig(token=ADMIN_TOKEN).open
    assert not ServeConfig(allowed_hosts=("chat.example.org",)).open


# -- web pages from elsewhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "localhost"}, 200),
        ({"Host": "evil.example"}, 403),  # DNS rebinding: a name of theirs that leads here
        ({"Host": "127.0.0.1.evil.example:80"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Origin": "http://localhost", "Host": "localhost"}, 200),
        ({"Origin": "https://friend.example"}, 200),
        ({"Origin": "https://friend.example.evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, 403),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}, 200),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_from_elsewhere_are_refused(local: Running, headers: dict[str, str], status: int) -> None:
    with local.http() as http:
        assert http.get("/v1/models", headers=headers).status_code == status
        if "Sec-Fetch-Mode" not in headers:
            assert http.post(CHAT, json=says("hi"), headers=headers).status_code == status


def test_cors_is_for_the_list(local: Running) -> None:
    asks = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    with local.http() as http:
        friend = http.options(CHAT, headers={"Origin": "https://friend.example", **asks})
        assert friend.headers["access-control-allow-origin"] == "https://friend.example"
        assert (
            "access-control-allow-origin"
            not in http.options(CHAT, headers={"Origin": "https://evil.example", **asks}).headers
        )


def test_sockets_are_guarded_too(local: Running) -> None:
    port = int(local.url.rsplit(":", 1)[1])
    lines = ["GET /socket HTTP/1.1", f"Host: 127.0.0.1:{port}", "Origin: https://evil.example", "Upgrade: websocket"]
    lines += ["Connection: Upgrade", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall("\r\n".join([*lines, "", ""]).encode())
        assert b" 403 " in raw.recv(1000).splitlines()[0]


def test_names_behind_a_proxy(start: Callable[..., Any]) -> None:
    with start(allowed_hosts=("chat.example.org",)) as running, running.http() as http:
        host = {"Host": "chat.example.org", "Origin": "https://chat.example.org"}
        assert http.get("/health", headers=host).status_code == 200
        assert http.get("/v1/models", headers=host).status_code == 401
        assert http.get("/v1/models").status_code == 401
        assert http.get("/health", headers={"Host": "evil.example"}).status_code == 403


# -- limits -----------------------------------------------------------------------------------------------------------


def test_bodies_beyond_the_limit(local: Running) -> None:
    with local.http() as http:
        body = json.dumps(says("x" * 20_000)).encode()
        told = http.post(CHAT, content=body, headers={"Content-Type": "application/json"})
        untold = http.post(CHAT, content=iter([body[:9000], body[9000:]]), headers={"Content-Type": "application/json"})
        for answer in (told, untold):
            assert answer.status_code == 413
            assert "10000 bytes" in answer.json()["error"]["message"]
        assert http.post(CHAT, content=b"{" * 9000).status_code == 400
        assert http.post(CHAT, json=says("hi")).status_code == 200


def test_rates_and_quotas(start: Callable[..., Any]) -> None:
    with start(token=ADMIN_TOKEN, requests_per_minute=3) as running, running.http() as http:
        _, ann = token_of(running, "ann", "chat")
        answers = [http.post(CHAT, json=says("hi"), headers=ann) for _ in range(5)]
        assert [a.status_code for a in answers] == [200] * 3 + [429] * 2
        assert answers[3].json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(answers[3].headers["retry-after"]) <= 20
        bob_id, bob = token_of(running, "bob", "chat", quota=200)
        first = http.post(CHAT, json=says("hi"), headers=bob)
        assert first.status_code == 200
        spent = first.json()["usage"]["total_tokens"]
        wait_for(lambda: running.services.store.quota_left(bob_id) == 200 - spent)
        running.services.store.use_quota(bob_id, 200)
        over = http.post(CHAT, json=says("hi", stream=True), headers=bob)
        assert over.status_code == 429
        assert over.json()["error"]["code"] == "insufficient_quota"
        assert int(over.headers["retry-after"]) > 0


def test_a_full_queue(start: Callable[..., Any]) -> None:
    with start(max_waiting=2) as running, running.http() as http:
        threads = [
            threading.Thread(target=http.post, args=(CHAT,), kwargs={"json": says("SLOW:50 " + "wait " * 5)})
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: running.services.engine.open_requests == 2)
        answer = http.post(CHAT, json=says("hi"))
        assert answer.status_code == 429
        assert answer.headers["retry-after"]
        for thread in threads:
            thread.join()
        assert http.post(CHAT, json=says("hi")).status_code == 200


# -- hang-ups, pings, loading -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_hang_up_cancels(local: Running, stream: bool, path: str) -> None:
    engine, long = local.services.engine, "SLOW:30 " + "never to be heard " * 20
    body = says(long, stream=stream) if path == CHAT else {"prompt": f"SAY:{long}", "stream": stream, "max_tokens": 400}
    with local.http() as http:
        if stream:
            with http.stream("POST", path, json=body) as response:
                assert next(response.iter_text())
        else:
            with pytest.raises(httpx.ReadTimeout):
                http.post(path, json=body, timeout=0.3)
        wait_for(lambda: engine.open_requests == 0, 2)
        assert http.post(CHAT, json=says("hi")).status_code == 200


def test_a_silent_stream_is_kept_alive(local: Running) -> None:
    with local.http() as http, http.stream("POST", CHAT, json=says("SLOW:350 a", stream=True, max_tokens=2)) as answer:
        raw = "".join(answer.iter_text())
    assert raw.startswith(": ping\n\n")
    assert raw.endswith("data: [DONE]\n\n")


def test_while_it_loads(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_ENGINE_LOADS", "2")
    with start(ready=False) as running, running.http() as http:
        health = http.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "loading"})
        for path, body in ((CHAT, says("hi")), ("/v1/completions", {"prompt": "x"}), ("/tokenize", {"prompt": "x"})):
            answer = http.post(path, json=body)
            assert answer.status_code == 503, path
            assert answer.headers["retry-after"]
        assert http.get("/v1/models").status_code == 503
        assert http.get("/version").status_code == 200
        assert "nanohydra_engine_up 0.0" in http.get("/metrics").text
        wait_for(lambda: http.get("/health").status_code == 200, 20)
        assert http.post(CHAT, json=says("hi")).status_code == 200


# -- ids, logs, metrics -----------------------------------------------------------------------------------------------


def test_request_ids(local: Running) -> None:
    with local.http() as http:
        assert http.get("/health", headers={"X-Request-Id": "mine-1"}).headers["x-request-id"] == "mine-1"
        ids = [http.get("/nowhere", headers={"X-Request-Id": "a b"}).headers["x-request-id"] for _ in range(2)]
        assert ids[0] != ids[1]
        assert "a b" not in ids
        for lost in (http.get("/nowhere"), http.get("/v1/nowhere"), http.put(CHAT)):
            assert lost.status_code == 404
            assert lost.json()["error"]["type"] == "not_found_error"


def test_logs_hold_no_conversation(start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "my secret is 4711"
    root, stream = logging.getLogger(), io.StringIO()
    before = root.handlers[:], root.level
    try:
        with start() as running:
            logs.set_up(stream)
            with running.http() as http:
                http.post(CHAT, json=says(secret))
                http.post(CHAT, json=says(secret, temperature=9))
                http.post(CHAT, json={**says(secret), "messages": secret})
                http.post("/v1/completions", json={"prompt": f"CRASH:2 SAY:{secret}"})
                http.get("/v1/models", params={"q": secret})
                broken = ValueError(secret)
                monkeypatch.setattr(running.services.chat, "stream", raising(broken))
                failed = http.post(CHAT, json=says(secret), headers={"X-Request-Id": "broken-1"})
                assert failed.status_code == 500
                assert secret not in failed.text
    finally:
        root.handlers[:], root.level = before
    text = stream.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    assert "4711" not in text
    assert "secret" not in text
    done = [line for line in lines if line["event"] == "request"]
    assert done[0]["route"] == CHAT
    assert done[0]["completion_tokens"] > 0
    assert done[0]["finish_reason"] == "stop"
    assert {"request_id", "status", "seconds", "user", "adapter"} <= done[0].keys()
    (broke,) = [line for line in lines if line["event"] == "exception"]
    assert (broke["request_id"], broke["kind"]) == ("broken-1", "ValueError")


def raising(error: Exception) -> Callable[..., Any]:
    async def stream(*args: Any, **options: Any) -> Any:
        raise error
        yield

    return stream


def test_metrics(local: Running) -> None:
    with local.http() as http:
        before = counted(http.get("/metrics").text)
        answer = http.post(CHAT, json=says("hi there")).json()
        time.sleep(0.05)
        after = counted(http.get("/metrics").text)
    labels = '{adapter="",model_name="demo"}'
    for name, tokens in (("prompt", "prompt_tokens"), ("generation", "completion_tokens")):
        series = f"vllm:{name}_tokens_total{labels}"
        assert after[series] - before.get(series, 0) == answer["usage"][tokens]
    ended = 'vllm:request_success_total{adapter="",finished_reason="stop",model_name="demo"}'
    assert after[ended] - before.get(ended, 0) == 1
    assert after[f"vllm:time_to_first_token_seconds_count{labels}"] > 0
    assert after[f"vllm:e2e_request_latency_seconds_count{labels}"] > 0
    assert after['vllm:kv_cache_usage_perc{model_name="demo"}'] == 0.25
    assert after["nanohydra_engine_up"] == 1


def counted(text: str) -> dict[str, float]:
    rows = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in rows}
