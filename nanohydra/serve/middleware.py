"""Pure-ASGI middleware: request ids and the access log, who may ask at all, how much, and what ends with its caller."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanohydra.logs import described
from nanohydra.serve.api.answers import error_response
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.errors import ApiError, EngineBroke, Forbidden, TooLarge
from nanohydra.serve.metrics import Metrics

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
log = logging.getLogger("nanohydra.serve.access")


class Ledger:
    """Outermost: gives each request its id, logs it when it is over, and turns an unforeseen exception into a 500."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        id = given if re.fullmatch(r"[\w.:-]{1,128}", given, re.ASCII) else uuid.uuid4().hex
        facts: dict[str, Any] = {}
        scope.setdefault("state", {}).update(request_id=id, facts=facts)
        status, began = 0, time.monotonic()

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["X-Request-Id"] = id
            await send(message)

        try:
            await self.app(scope, receive, answer)
        except Exception as e:
            log.error("exception", extra={"request_id": id, **described(e)})
            if not status:
                error = EngineBroke("Something went wrong inside the server; its log knows the request's id.")
                await error_response(error)(scope, receive, answer)
        finally:
            route = getattr(scope.get("route"), "path", "other")
            method = scope["method"] if scope["method"] in METHODS else "other"  # each label costs memory for good
            self.metrics.http.labels(method, route, status or 499).inc()
            seconds = round(time.monotonic() - began, 4)
            about = {"method": method, "route": route, "status": status or 499, "seconds": seconds}
            log.info("request", extra={"request_id": id, **about, **facts})


class Guard:
    """Refuses what a web page elsewhere may have sent: unknown Host (DNS rebinding), foreign Origin (CSRF), also for sockets."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self.app = app
        self.origins = frozenset(config.cors_origins)
        self.hosts: frozenset[str] | None = frozenset(host.lower() for host in config.allowed_hosts)
        if config.loopback or self.hosts:  # health checks and Prometheus on this machine ask by the loopback names
            self.hosts |= {*LOOPBACK_NAMES, config.host, f"[{config.host}]"}
        else:
            self.hosts = None  # any: everybody needs a token there

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] in ("http", "websocket") and (error := self.refusal(Headers(scope=scope))) is not None:
            if scope["type"] == "websocket":
                await receive()
                return await send({"type": "websocket.close", "code": 1008, "reason": "forbidden"})
            return await error_response(error)(scope, receive, send)
        return await self.app(scope, receive, send)

    def refusal(self, headers: Headers) -> ApiError | None:
        """Why these headers are refused, if they are."""
        host = headers.get("host", "").lower()
        if self.hosts is not None and re.sub(r":\d+$", "", host) not in self.hosts:
            return Forbidden("This server is not known under that name. Add it with --allowed_hosts.")
        origin = headers.get("origin")
        if origin is not None and origin not in self.origins and origin.partition("://")[2].lower() != host:
            return Forbidden("A page from elsewhere may not call this server. Allow its origin with --cors_origins.")
        elsewhere = origin is None and headers.get("sec-fetch-site") == "cross-site"
        followed = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if elsewhere and not followed:  # a link to a page may be followed from anywhere
            return Forbidden("A page from elsewhere may not call this server.")
        return None


class BodyLimit:
    """Refuses bodies beyond a number of bytes, told beforehand or not."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self.app = app
        self.limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        message = f"The body is larger than {self.limit} bytes."
        told = Headers(scope=scope).get("content-length", "0")
        if not told.isdecimal() or int(told) > self.limit:
            return await error_response(TooLarge(message))(scope, receive, send)
        got = 0

        async def counted() -> Message:
            nonlocal got
            part = await receive()
            got += len(part.get("body", b""))
            if got > self.limit:
                raise HTTPException(TooLarge.status, message)  # of the framework's own kind: any other becomes a 400
            return part

        await self.app(scope, counted, send)


class Hangup:
    """Cancels the work on a request whose caller has gone, streaming or not. Only under `prefix`."""

    def __init__(self, app: ASGIApp, prefix: str = "/v1/") -> None:
        self.app = app
        self.prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or not scope["path"].startswith(self.prefix):
            return await self.app(scope, receive, send)
        messages: asyncio.Queue[Message] = asyncio.Queue(1)
        answered = gone = False

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = message["type"] == "http.response.body" and not message.get("more_body", False)
            await send(message)

        async def listen() -> None:
            nonlocal gone
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" and not answered:
                    gone = True
                    work.cancel()
                    return
                await messages.put(message)

        work = asyncio.ensure_future(_call(self.app, scope, messages.get, noted))
        listener = asyncio.ensure_future(listen())
        try:
            await work
        except asyncio.CancelledError:
            if not gone:
                raise
        finally:
            listener.cancel()


async def _call(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)
