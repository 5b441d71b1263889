"""Teaching: POST /learn and what becomes of it, lessons, history, what is known, and how to undo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import APIRouter, Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.responses import Response

from nanohydra.hydra import history
from nanohydra.serve.api.answers import Json, stream
from nanohydra.serve.api.caller import MayTeach, Works
from nanohydra.serve.api.learn_schemas import AgainBody, ForgetBody, LearnBody, RevertBody, ShareBody, invalid
from nanohydra.serve.errors import ApiError, Missing
from nanohydra.serve.learning import Given, Learning, progress
from nanohydra.serve.services import Services
from nanohydra.store import Principal

router = APIRouter()

POLL_SECONDS = 0.5
"""How often a stream looks for news of a lesson."""
OVER = ("published", "rejected", "failed", "cancelled", "reverted")


# Described by hand, since it comes in two forms.
_HERE = "#/paths/~1learn/post/requestBody/content/application~1json/schema/$defs/{model}"
_JSON = LearnBody.model_json_schema(ref_template=_HERE)
_FIELDS = {name: {"type": "string"} for name in _JSON["properties"]}
_FORM = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}, **_FIELDS}}
_BODY = {"content": {"application/json": {"schema": _JSON}, "multipart/form-data": {"schema": _FORM}}, "required": True}


@router.post("/learn", status_code=202, openapi_extra={"requestBody": _BODY})
async def learn(request: Request, works: Works, user: MayTeach) -> Response:
    """Takes in what is to be taught. The lesson can be asked about at once, and is made into an adapter meanwhile.

    JSON, or a form with a `file` and the same fields. With an Idempotency-Key the same request makes one lesson however often
    it is sent."""
    body, upload = await _body(request)
    key = request.headers.get("idempotency-key")
    if key is not None and not 1 <= len(key) <= 200:
        raise ApiError("An Idempotency-Key has 1 to 200 characters.", param="Idempotency-Key")
    pairs = [(pair.question, pair.answer) for pair in body.pairs]
    given = Given(body.text, pairs, [message.model_dump() for message in body.messages], upload, body.name)
    teaching = teaching_of(works)
    taken = await asyncio.to_thread(teaching.taken, user, given, body.replace, body.unsure, body.settings, key)
    return Json(taken, 202)


@router.get("/learn/{job}")
async def job(job: int, request: Request, works: Works, user: MayTeach) -> Response:
    """How far a lesson is, with its receipt at the end; live, as server-sent events, where those are accepted."""
    now = await asyncio.to_thread(progress, works.store, user, job)
    if "text/event-stream" in request.headers.get("accept", ""):
        return await stream(_news(job, works, user), works.config.ping_seconds)
    return Json(now)


async def _news(job: int, works: Services, user: Principal) -> AsyncGenerator[dict[str, Any], None]:
    told = None
    while True:
        now = await asyncio.to_thread(progress, works.store, user, job)
        if now != told:
            yield now
            told = now
        if now["state"] in OVER:
            return
        await asyncio.sleep(POLL_SECONDS)


@router.delete("/learn/{job}")
async def cancel(job: int, works: Works, user: MayTeach) -> Response:
    """Stops making a lesson. What it tells is still found by retrieval: revert it to undo that, too."""
    await asyncio.to_thread(works.store.cancel, job, user.user_id)
    return Json(await asyncio.to_thread(progress, works.store, user, job))


@router.get("/lessons")
async def lessons(works: Works, user: MayTeach, state: str | None = None) -> Response:
    """The caller's lessons and those shared with them, newest first."""
    if state is not None and state not in ("queued", "running", *OVER):
        raise ApiError(f'A lesson is never "{state}".', param="state")
    return Json({"lessons": await asyncio.to_thread(history.lessons, works.store, user.user_id, state)})


@router.get("/lessons/{lesson_id}")
async def lesson(lesson_id: int, works: Works, user: MayTeach) -> Response:
    """One lesson: its facts, passages and receipt."""
    return Json(await asyncio.to_thread(history.show, works.store, lesson_id, user.user_id))


@router.get("/lessons/{lesson_id}/diff")
async def diff(lesson_id: int, works: Works, user: MayTeach, other: int | None = None) -> Response:
    """What a lesson changed: facts that are new, and facts that it replaced; or how two lessons differ."""
    return Json(await asyncio.to_thread(history.diff, works.store, lesson_id, user.user_id, other))


@router.post("/lessons/{lesson_id}/share")
async def share(lesson_id: int, body: ShareBody, works: Works, user: MayTeach) -> Response:
    """Lets everybody on this server see and use a lesson of the caller's own, or no longer."""
    await asyncio.to_thread(works.store.share_lesson, lesson_id, user.user_id, body.shared)
    return Json(await asyncio.to_thread(history.show, works.store, lesson_id, user.user_id))


@router.get("/history")
async def happened(works: Works, user: MayTeach, limit: int = 100, before: int | None = None) -> Response:
    """What happened, newest first: lessons taught, published, reverted, facts forgotten. Lines are never changed."""
    if not 1 <= limit <= 1000:
        raise ApiError("limit is between 1 and 1000.", param="limit")
    return Json({"history": await asyncio.to_thread(history.log, works.store, user.user_id, limit, before)})


@router.get("/known")
async def known(works: Works, user: MayTeach, about: str = "", past: bool = False) -> Response:
    """The facts that are known about something: whose subject, value or question has its words. past: also those that no
    longer hold."""
    return Json({"facts": await asyncio.to_thread(history.known, works.store, user.user_id, about, past)})


@router.post("/revert")
async def revert(body: RevertBody, works: Works, user: MayTeach) -> Response:
    """Takes a lesson back: its adapter, facts and passages; what it replaced holds again."""
    await asyncio.to_thread(works.store.revert, body.lesson, user.user_id)
    return Json(await asyncio.to_thread(history.show, works.store, body.lesson, user.user_id))


@router.post("/forget", status_code=202)
async def forget(body: ForgetBody, works: Works, user: MayTeach) -> Response:
    """Drops facts, at once from all answers by retrieval, and has their lessons trained again without them."""
    forgetting = teaching_of(works).forget
    return Json(await asyncio.to_thread(forgetting, user, body.facts, body.about, body.reason), 202)


@router.post("/consolidate", status_code=202)
async def consolidate(works: Works, user: MayTeach) -> Response:
    """Makes one adapter of all the caller's published lessons, through the same gate; the old ones stay."""
    lesson = await asyncio.to_thread(teaching_of(works).consolidate, user)
    return Json({"job": lesson.id, "lesson": lesson.id, "of": lesson.settings["lessons"]}, 202)


@router.post("/lessons/{lesson_id}/again", status_code=202)
async def again(lesson_id: int, body: AgainBody, works: Works, user: MayTeach) -> Response:
    """Makes a lesson that has ended once more, with another seed and perhaps more time."""
    lesson = await asyncio.to_thread(teaching_of(works).again, user, lesson_id, body.seconds)
    return Json({"job": lesson.id, "lesson": lesson.id}, 202)


@router.post("/retest", status_code=202)
async def retest(works: Works, user: MayTeach, everything: bool = False) -> Response:
    """Has the caller's facts asked again as soon as no lesson is being made: those that are due, or everything. What came of
    it is in the history."""
    await asyncio.to_thread(teaching_of(works).retest, user, everything)
    return Json({"asked": True}, 202)


def teaching_of(works: Services) -> Learning:
    """What takes lessons in. Raises Missing where this server has none."""
    if works.learning is None:
        raise Missing("This server takes no lessons: it was started with --teach=false, or without the extra `teach`.")
    return works.learning


async def _body(request: Request) -> tuple[LearnBody, tuple[str, bytes] | None]:
    """The fields of a request, and its file."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise ApiError("Send JSON, or a form with a file (multipart/form-data).")
    upload = None
    try:
        if kind == "application/json":
            return LearnBody.model_validate_json(await request.body()), None
        async with request.form(max_files=1, max_fields=16) as form:
            values: dict[str, Any] = {}
            for name, value in form.items():
                if isinstance(value, UploadFile):
                    upload = (value.filename or "upload.txt", await value.read())
                else:
                    values[name] = json.loads(value) if name in ("pairs", "messages", "settings") else value
        return LearnBody.model_validate(values), upload
    except ValidationError as e:
        raise invalid(e) from e
    except (ValueError, RecursionError) as e:
        raise ApiError("A field of the form is no JSON.") from e
