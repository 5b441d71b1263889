"""How the server does: /health, /version, /metrics, and the description of the API."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from nanohydra import __version__
from nanohydra.serve.api.answers import Json
from nanohydra.serve.api.caller import MayAdmin, MayChat, Works
from nanohydra.serve.errors import Missing

router = APIRouter()


@router.get("/health")
async def health(works: Works) -> Response:
    """200 while the engine takes requests, 503 while it loads or starts again. Needs no token."""
    state = works.engine.state
    return Json({"status": "ok" if state == "ready" else state}, 200 if state == "ready" else 503)


@router.get("/version")
async def version(user: MayChat) -> Response:
    """The program's version."""
    return Json({"version": __version__})


@router.get("/metrics")
async def metrics(works: Works, user: MayAdmin) -> Response:
    """Numbers for Prometheus."""
    engine, told, teacher = works.engine, works.metrics, works.teacher
    told.lessons.set(len(await asyncio.to_thread(works.store.open_lessons)))
    told.worker_up.set(teacher is not None and teacher.state == "running")
    told.worker_restarts.set(0 if teacher is None else teacher.restarts)
    text = told.render(await engine.stats(), engine.state == "ready", engine.restarts)
    return Response(text, media_type=CONTENT_TYPE_LATEST)


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request, user: MayChat) -> Response:
    """The API, described for programs."""
    return Json(request.app.openapi())


@router.api_route("/v1/{path:path}", methods=["GET", "POST", "PUT", "PATCH", "DELETE"], include_in_schema=False)
async def unknown(path: str, request: Request, user: MayChat) -> Response:
    """What is not offered is told as programs expect it, not by a page of the web app. Included last."""
    raise Missing(f"There is no {request.method} /v1/{path} here.")
