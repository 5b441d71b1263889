"""Bodies of answers: JSON, errors as OpenAI's, and streams of server-sent events."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response, StreamingResponse

from nanohydra.errors import UserError
from nanohydra.serve.errors import ApiError
from nanohydra.store import NotFound

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


class Json(Response):
    """JSON in UTF-8. A lone surrogate in a text, which has no UTF-8, is told as "?"."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The bytes of `content`."""
        return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def error_body(error: ApiError) -> dict[str, Any]:
    """An error in OpenAI's form."""
    about = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    return {"error": about}


def error_response(error: ApiError) -> Response:
    """An error with its status and headers."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return Json(error_body(error), error.status, headers)


async def on_api_error(request: Request, error: Exception) -> Response:
    """The handler of ApiError and UserError."""
    if isinstance(error, NotFound):
        return _plain(404, str(error))
    return error_response(error if isinstance(error, ApiError) else ApiError(str(error)))


async def on_invalid(request: Request, error: Exception) -> Response:
    """The handler of bodies that do not fit; what was sent is not repeated."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part != "body")
    return error_response(ApiError(f"{where}: {first['msg']}" if where else str(first["msg"]), param=where or None))


async def on_http_error(request: Request, error: Exception) -> Response:
    """The handler of what the framework refuses: unknown paths, wrong methods."""
    assert isinstance(error, HTTPException)
    return _plain(error.status_code, str(error.detail), dict(error.headers or {}))


def _plain(status: int, message: str, headers: dict[str, str] | None = None) -> Response:
    kind = "not_found_error" if status == 404 else "invalid_request_error"
    return Json({"error": {"message": message, "type": kind, "param": None, "code": None}}, status, headers)


async def stream(chunks: AsyncGenerator[dict[str, Any], None], ping_seconds: float) -> StreamingResponse:
    """`chunks` as events, [DONE] at the end, a comment where they are slow.

    What goes wrong before the first chunk is raised, and so becomes a status; later it is told as an event.
    """
    first = asyncio.ensure_future(anext(chunks))
    try:
        await asyncio.wait({first}, timeout=ping_seconds)
        if first.done():
            first.result()
    except BaseException as e:
        first.cancel()
        with suppress(BaseException):
            await first
        await chunks.aclose()
        if isinstance(e, StopAsyncIteration):
            raise RuntimeError("A stream without a chunk.") from e
        raise
    headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
    return StreamingResponse(_events(first, chunks, ping_seconds), media_type="text/event-stream", headers=headers)


async def _events(
    pending: asyncio.Future[dict[str, Any]], chunks: AsyncGenerator[dict[str, Any], None], ping_seconds: float
) -> AsyncGenerator[bytes, None]:
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=ping_seconds)
            if not done:
                yield PING
                continue
            try:
                chunk = pending.result()
            except StopAsyncIteration:
                break
            except (ApiError, UserError) as e:
                yield _event(error_body(e if isinstance(e, ApiError) else ApiError(str(e))))
                break
            yield _event(chunk)
            pending = asyncio.ensure_future(anext(chunks))
        yield DONE
    finally:
        pending.cancel()
        with suppress(BaseException):
            await pending
        await chunks.aclose()


def _event(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n\n"
