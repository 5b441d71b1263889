"""The server as one ASGI application: the API, and the web app where NiceGUI is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from nanohydra import __version__
from nanohydra.errors import UserError
from nanohydra.serve.api import chat, completions, learn, models, status, tokens, trials
from nanohydra.serve.api.answers import on_api_error, on_http_error, on_invalid
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError
from nanohydra.serve.middleware import BodyLimit, Guard, Hangup, Ledger
from nanohydra.serve.services import Services
from nanohydra.serve.teacher import Teacher


def create_app(config: ServeConfig, engine: EngineClient | None = None, teacher: Teacher | None = None) -> FastAPI:
    """The application; `app.state.services` has its parts. Its lifespan starts and stops the engine.

    engine, teacher: instead of processes of its own. Raises UserError where the database cannot be opened.
    """
    services = Services.of(config, engine, teacher)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await services.engine.start()
        if services.memory is not None:
            services.memory.start()
        if services.teacher is not None:
            await services.teacher.start()
        try:
            yield
        finally:
            if services.teacher is not None:
                await services.teacher.stop()
            if services.memory is not None:
                await services.memory.stop()
            await services.engine.stop()
            services.store.close()

    # The framework's own documentation pages load scripts from elsewhere: there are none here.
    app = FastAPI(
        title="nanohydra", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None
    )
    app.state.services = services
    for part in (chat, completions, models, tokens, learn, trials, status):
        app.include_router(part.router)
    app.add_exception_handler(ApiError, on_api_error)
    app.add_exception_handler(UserError, on_api_error)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http_error)
    # Added last is outermost.
    app.add_middleware(BodyLimit, limit=config.max_body_bytes)
    app.add_middleware(Hangup)
    if config.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=config.cors_origins, allow_methods=["*"], allow_headers=["*"], max_age=600
        )
    app.add_middleware(Guard, config=config)
    app.add_middleware(Ledger, metrics=services.metrics)
    if config.web and importlib.util.find_spec("nicegui") is not None:
        from nanohydra.serve.web import mount

        mount(app, services)
    return app
