"""The server as a program: listens, tells where and with which token, serves until it is stopped."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from nanohydra import logs
from nanohydra.errors import UserError
from nanohydra.serve.app import create_app
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.services import Services

GRACE_SECONDS = 5
"""How long answers under way may go on after the server is told to stop."""


def serve(config: ServeConfig, say: Callable[[str], None], app: FastAPI | None = None) -> None:
    """Serves until interrupted; what a person should know goes to `say`, logs to stderr. app: of the same config, made already.

    Raises UserError where the address is taken, the database cannot be opened, or the base cannot be loaded.
    """
    logs.set_up()
    listener = _listen(config)
    with listener:
        app = app or create_app(config)
        services: Services = app.state.services
        host = socket.gethostname() if config.host in ("0.0.0.0", "::") else config.host
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        say(f"nanohydra serves {config.base} at {url}   (API for OpenAI's clients: {url}/v1)")
        _, token = services.store.ensure_admin()
        if token is not None:
            say(f"The first token, with all rights, shown this once: {token}")
        if config.open:
            say("On this machine no token is needed.")
        asyncio.run(_run(uvicorn.Server(_settings(app)), services, listener, say))
    if services.engine.state == "failed":
        raise UserError(services.engine.error)


def _settings(app: object) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]  # any ASGI application
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )


async def _run(server: uvicorn.Server, services: Services, listener: socket.socket, say: Callable[[str], None]) -> None:
    async def announce() -> None:
        try:
            ready = await services.engine.ready()
            say(f"{ready.name} is loaded: {ready.parameters:,} parameters, {ready.max_seq_len:,} tokens of context.")
        except UserError:
            server.should_exit = True

    announcing = asyncio.ensure_future(announce())
    try:
        await server.serve(sockets=[listener])
    finally:
        announcing.cancel()


def _listen(config: ServeConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.host, config.port))
    except OSError as e:
        listener.close()
        raise UserError(
            f"Cannot listen on {config.host}, port {config.port}: {e.strerror or e}. Choose others with --host and --port."
        ) from e
    return listener
