"""POST /v1/chat/completions."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from nanohydra.infer.streaming import Logprob
from nanohydra.serve.api.answers import Json, stream
from nanohydra.serve.api.caller import MayChat, Works
from nanohydra.serve.api.logprobs import chat_logprobs, spoken
from nanohydra.serve.api.merge import merged
from nanohydra.serve.api.schemas import ChatBody, MessageBody, NamedTool, ResponseFormat, ToolBody
from nanohydra.serve.api.usage import Bill
from nanohydra.serve.chat import ChatDelta, Finish
from nanohydra.serve.errors import ApiError
from nanohydra.serve.memory import Use
from nanohydra.serve.services import Services
from nanohydra.serve.tools import Tool, ToolCall, ToolCallDelta
from nanohydra.store import Principal

router = APIRouter()


@router.post("/v1/chat/completions")
async def chat_completions(body: ChatBody, request: Request, works: Works, user: MayChat) -> Response:
    """The assistant's answer to a conversation, whole or as it is written."""
    if body.choices > works.config.max_choices:
        raise ApiError(f"n is {body.choices}: at most {works.config.max_choices} answers at once.", param="n")
    adapter = await works.adapters.resolve(body.model, user)
    answer = Answer(body, works, adapter, request, works.adapters.named(body.model))
    deltas = merged([answer.choice(number, user) for number in range(body.choices)])
    if body.stream:
        return await stream(answer.chunks(deltas), works.config.ping_seconds)
    return Json(await answer.whole(deltas))


class Answer:
    """One request's answers, in the forms that clients expect."""

    def __init__(
        self, body: ChatBody, works: Services, adapter: str | None, request: Request, named: bool = False
    ) -> None:
        self.body = body
        self.works = works
        self.adapter = adapter
        self.use: Use = "off" if named else body.nanohydra.memory
        self.conversation = None if named else conversation_of(body)
        self.memory: dict[str, Any] | None = None
        self.tokenizer = works.tokenizer
        self.tools = tools_of(body.tools)
        self.bill = Bill(request.state.facts, adapter)
        assert works.engine.base is not None
        self.head = {
            "id": f"chatcmpl-{request.state.request_id}",
            "created": int(time.time()),
            "model": adapter or works.engine.base.name,
            "system_fingerprint": works.engine.base.base_id[:12],
        }

    def choice(self, number: int, user: Principal) -> AsyncGenerator[ChatDelta, None]:
        """The deltas of one answer."""
        body = self.body
        max_tokens = body.max_completion_tokens or body.max_tokens
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        params = body.params(self.works.chat.defaults, number, max_tokens, logprobs, schema_of(body.response_format))
        chosen = body.tool_choice or "auto"
        named = chosen.function.name if isinstance(chosen, NamedTool) else chosen
        return self.works.chat.stream(
            messages_of(body.messages), params, self.adapter, user, self.tools, named, self.use, self.conversation
        )

    def _remember(self, delta: ChatDelta) -> bool:
        """Notes where the answer comes from; whether this delta told it."""
        if delta.memory is not None:
            self.memory = delta.memory
            self.bill.note(delta.memory)
        return delta.memory is not None

    async def whole(self, deltas: AsyncGenerator[tuple[int, ChatDelta], None]) -> dict[str, Any]:
        """The answers when all are finished."""
        texts = [""] * self.body.choices
        calls: list[list[dict[str, Any]]] = [[] for _ in texts]
        logprobs: list[list[Logprob]] = [[] for _ in texts]
        reasons = [""] * len(texts)
        async with aclosing(deltas):
            async for number, delta in deltas:
                self._remember(delta)
                texts[number] += delta.text
                logprobs[number] += spoken(self.tokenizer, delta.logprobs)
                for call in self._calls(delta):
                    add_call(calls[number], call)
                if delta.finish is not None:
                    reasons[number] = delta.finish.reason
                    self.bill.add(0, delta.finish.usage, delta.finish.reason)
        choices = []
        for number, text in enumerate(texts):
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if calls[number]:
                message |= {"content": text or None, "tool_calls": calls[number]}
            choice = {"index": number, "message": message, "finish_reason": reasons[number]}
            choice["logprobs"] = chat_logprobs(self.tokenizer, logprobs[number]) if self.body.logprobs else None
            choices.append(choice)
        body = {**self.head, "object": "chat.completion", "choices": choices, "usage": self.bill.usage()}
        return body if self.memory is None else {**body, "nanohydra": self.memory}

    async def chunks(self, deltas: AsyncGenerator[tuple[int, ChatDelta], None]) -> AsyncGenerator[dict[str, Any], None]:
        """The answers as they are written."""
        begun: set[int] = set()
        async with aclosing(deltas):
            async for number, delta in deltas:
                told_memory = self._remember(delta)
                if number not in begun:
                    begun.add(number)
                    chunk = self._chunk(number, {"role": "assistant", "content": ""})
                    yield {**chunk, "nanohydra": self.memory} if told_memory else chunk
                if told := self._told(delta):
                    yield self._chunk(number, told, delta)
                if delta.finish is not None:
                    self.bill.add(0, delta.finish.usage, delta.finish.reason)
                    yield self._chunk(number, {}, finish=delta.finish)
        if self.body.tells_usage:
            yield {**self.head, "object": "chat.completion.chunk", "choices": [], "usage": self.bill.usage()}

    def _told(self, delta: ChatDelta) -> dict[str, Any]:
        told: dict[str, Any] = {"content": delta.text} if delta.text else {}
        if calls := self._calls(delta):
            told["tool_calls"] = [call_chunk(call) for call in calls]
        if not told and self.body.logprobs and spoken(self.tokenizer, delta.logprobs):
            told["content"] = ""
        return told

    def _calls(self, delta: ChatDelta) -> list[ToolCallDelta]:
        parallel = self.body.parallel_tool_calls is not False
        return [call for call in delta.tool_calls if parallel or call.index == 0]

    def _chunk(
        self, number: int, told: dict[str, Any], delta: ChatDelta | None = None, finish: Finish | None = None
    ) -> dict[str, Any]:
        logprobs = None
        if self.body.logprobs and delta is not None:
            logprobs = chat_logprobs(self.tokenizer, spoken(self.tokenizer, delta.logprobs))
        reason = finish.reason if finish else None
        choice = {"index": number, "delta": told, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self.head, "object": "chat.completion.chunk", "choices": [choice]}
        return chunk | {"usage": None} if self.body.tells_usage else chunk


def conversation_of(body: ChatBody) -> str:
    """What names a conversation: as its caller says, else its first message from the user, which all its turns share."""
    if body.nanohydra.conversation is not None:
        return body.nanohydra.conversation
    first = next((message for message in body.messages if message.role == "user"), body.messages[0])
    return hashlib.sha256(first.model_dump_json().encode()).hexdigest()[:32]


def messages_of(bodies: list[MessageBody]) -> list[dict[str, Any]]:
    """Messages as the chat service takes them."""
    messages = []
    for body in bodies:
        content = body.content
        text = content if isinstance(content, str) else "".join(part.text for part in content or ())
        message: dict[str, Any] = {"role": "system" if body.role == "developer" else body.role, "content": text}
        if body.tool_calls:
            message["tool_calls"] = [
                ToolCall(call.id, call.function.name, call.function.arguments) for call in body.tool_calls
            ]
        messages.append(message)
    return messages


def tools_of(bodies: list[ToolBody] | None) -> list[Tool]:
    """Tools as the chat service takes them."""
    tools = []
    for body in bodies or ():
        parameters = body.function.parameters or {"type": "object", "properties": {}}
        tools.append(Tool(body.function.name, body.function.description or "", parameters))
    return tools


def schema_of(form: ResponseFormat | None) -> str | None:
    """The JSON Schema that an answer must fit."""
    if form is None or form.type == "text":
        return None
    if form.type == "json_object":
        return '{"type": "object"}'
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise ApiError("response_format of type json_schema needs json_schema.schema.", param="response_format")
    return json.dumps(form.json_schema.schema_)


def add_call(calls: list[dict[str, Any]], delta: ToolCallDelta) -> None:
    """Adds what is new in a call to the calls so far."""
    if delta.index == len(calls):
        calls.append({"id": delta.id, "type": "function", "function": {"name": delta.name, "arguments": ""}})
    calls[delta.index]["function"]["arguments"] += delta.arguments


def call_chunk(delta: ToolCallDelta) -> dict[str, Any]:
    """What is new in a call, as a chunk tells it."""
    chunk: dict[str, Any] = {"index": delta.index, "function": {"arguments": delta.arguments}}
    if delta.id is not None:
        chunk |= {"id": delta.id, "type": "function"}
        chunk["function"]["name"] = delta.name
    return chunk
