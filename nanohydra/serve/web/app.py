"""How the pages get into the server: NiceGUI's one application of this process, given the services of each server."""

from __future__ import annotations

from collections.abc import AsyncIterator, MutableMapping
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from nicegui import app as toolkit
from nicegui import ui
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nanohydra.serve.services import Services
from nanohydra.serve.web.answers import Answers
from nanohydra.serve.web.icons import favicon
from nanohydra.serve.web.pulls import Pulls
from nanohydra.serve.web.theme import STATIC, body_html, head_html
from nanohydra.serve.web.uploads import Uploads
from nanohydra.serve.web.visitors import Web

_HEADERS = {
    # The browser itself refuses every request to another machine. NiceGUI runs scripts that stand in the page.
    "content-security-policy": "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
}


def mount(app: FastAPI, services: Services) -> None:
    """See `nanohydra.serve.web.mount`."""
    web = Web(services, Answers(services.chat, services.store), Pulls(), Uploads())
    shell = _shell()
    inner = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Any]:
        async with inner(app) as state, shell.router.lifespan_context(shell):
            yield state
            await web.answers.close()
            await web.pulls.close()

    app.router.lifespan_context = lifespan
    app.mount("/", _Pages(shell, web))


@cache
def _shell() -> FastAPI:
    """NiceGUI's pages exist once in a process, so they are set up once, and each request brings its own services."""
    from nanohydra.serve.web import (  # noqa: F401  (each registers its pages)
        chat,
        export,
        forgetting,
        memory,
        models,
        runs,
        settings,
        teach,
    )

    shell = FastAPI(openapi_url=None)
    toolkit.add_static_files("/_web", STATIC)
    ui.add_head_html(head_html(), shared=True)
    ui.add_body_html(body_html(), shared=True)
    ui.run_with(
        shell,
        title="nanohydra",
        favicon=favicon(),
        language="en-US",
        dark=None,
        tailwind=False,
        reconnect_timeout=20,
        show_welcome_message=False,
    )
    return shell


class _Pages:
    """Hands each request the services, and each answer the headers."""

    def __init__(self, inner: ASGIApp, web: Web) -> None:
        self._inner = inner
        self._web = web

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["nanohydra.web"] = self._web

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        await self._inner(scope, receive, send_with_headers)


def _add_headers(message: MutableMapping[str, Any]) -> None:
    known = {name for name, _ in message["headers"]}
    added = [(k.encode(), v.encode()) for k, v in _HEADERS.items() if k.encode() not in known]
    message["headers"] = [*message["headers"], *added]
