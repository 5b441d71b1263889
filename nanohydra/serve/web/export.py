"""Conversations as files: markdown to read, JSON with every branch and its provenance."""

from __future__ import annotations

import json
import re
from typing import Literal
from urllib.parse import quote

from nicegui import app as toolkit
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from nanohydra.serve.web.visitors import sign_in, visitor_of
from nanohydra.store import NotFound, Store


@toolkit.get("/c/{conversation_id}/export.{form}", include_in_schema=False)
async def export(request: Request, conversation_id: int, form: Literal["md", "json"]) -> Response:
    """A download."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    store, user_id = visitor.web.services.store, visitor.user_id
    try:
        conversation = await run_in_threadpool(store.conversation, conversation_id, user_id)
        if form == "md":
            text = await run_in_threadpool(as_markdown, store, conversation_id, user_id)
        else:
            data = await run_in_threadpool(store.export, conversation_id, user_id)
            text = json.dumps(data, indent=2, ensure_ascii=False)
    except NotFound as e:
        return PlainTextResponse(str(e), 404)
    name = re.sub(r"[^\w -]+", "", conversation.title).strip()[:60] or "chat"
    kind = "text/markdown" if form == "md" else "application/json"
    header = {"content-disposition": f"attachment; filename*=utf-8''{quote(name)}.{form}"}
    return Response(text, media_type=f"{kind}; charset=utf-8", headers=header)


def as_markdown(store: Store, conversation_id: int, user_id: int) -> str:
    """The branch that is shown, as a document."""
    conversation = store.conversation(conversation_id, user_id)
    lines = [f"# {conversation.title}"]
    if conversation.system.strip():
        lines += ["", *(f"> {line}" for line in conversation.system.splitlines())]
    for message in store.path(conversation_id, user_id):
        provenance = message.provenance
        model = " + ".join(str(provenance[k]) for k in ("base", "adapter") if provenance.get(k))
        lines += ["", "## " + ("You" if message.role == "user" else model or "Assistant"), "", message.content]
    return "\n".join(lines) + "\n"
