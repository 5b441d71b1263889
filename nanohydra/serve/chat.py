"""A conversation answered as it is written: text, tool calls, the end. The API and the web app both go through here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from nanohydra.data.chat import Part
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.streaming import Logprob, Timing
from nanohydra.serve.errors import ApiError, Unavailable
from nanohydra.serve.generation import Generation
from nanohydra.serve.prompts import chat_prompt
from nanohydra.serve.protocol import Finished, Token, Usage
from nanohydra.serve.tools import Tool, ToolCallDelta, ToolParser, forced_schema
from nanohydra.store import Principal


@dataclass(frozen=True)
class Finish:
    """How an answer ended, and what it cost."""

    reason: Literal["stop", "length", "tool_calls"]
    usage: Usage
    timing: Timing


@dataclass(frozen=True)
class ChatDelta:
    """What is new in an answer."""

    text: str = ""
    part: Part | None = None
    """The built-in tool's call of which `text` is the result, where it is one."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    """What is new in calls that the caller is to run."""
    ids: tuple[int, ...] = ()
    logprobs: tuple[Logprob | None, ...] = ()
    finish: Finish | None = None
    """In the last delta only."""


class ChatService:
    """Answers to conversations."""

    def __init__(self, generation: Generation) -> None:
        self._generation = generation

    @property
    def tokenizer(self) -> Tokenizer:
        """The base's. Raises Unavailable until it is loaded."""
        engine = self._generation.engine
        if engine.tokenizer is None:
            raise Unavailable(engine.error or "The base is being loaded.")
        return engine.tokenizer

    @property
    def defaults(self) -> SamplingParams:
        """How answers are drawn where a request leaves it open."""
        return self._generation.defaults

    async def stream(
        self,
        messages: Sequence[Mapping[str, Any]],
        params: SamplingParams,
        adapter: str | None,
        user: Principal,
        tools: Sequence[Tool] = (),
        tool_choice: str = "auto",
    ) -> AsyncGenerator[ChatDelta, None]:
        """The answer to a conversation, as it is written; the last delta has its finish.

        messages: role, content (text or parts), and of assistants `tool_calls` (a list of ToolCall). tool_choice: auto, none,
        required, or the name of the tool that must be called. Closing the iterator takes the request back. Raises ApiError
        or UserError.
        """
        forced = _forced(tools, tool_choice)
        if forced:
            params = replace(params, json_schema=forced_schema(forced))
        offered = () if tool_choice == "none" else tools
        self._generation.check_text(messages, offered)
        prompt = await asyncio.to_thread(chat_prompt, self.tokenizer, messages, offered, bool(forced))
        parser = ToolParser(inside=bool(forced)) if offered else None
        events = self._generation.run(prompt, params, adapter, user)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Token):
                    for delta in _deltas(event, parser):
                        yield delta
                else:
                    for delta in _split(parser.flush() if parser else []):
                        yield delta
                    yield ChatDelta(finish=_finish(event, parser))


def _forced(tools: Sequence[Tool], choice: str) -> list[Tool]:
    """The tools of which one must be called, if so."""
    if choice in ("auto", "none"):
        return []
    if not tools:
        raise ApiError("tool_choice asks for a call, and there are no tools.", param="tool_choice")
    chosen = [tool for tool in tools if choice in ("required", tool.name)]
    if not chosen:
        raise ApiError(f'tool_choice names "{choice}", which is none of the tools.', param="tool_choice")
    return chosen


def _deltas(token: Token, parser: ToolParser | None) -> list[ChatDelta]:
    """An event as deltas; ids and logprobs go with the first."""
    about = ChatDelta(ids=tuple(token.ids), logprobs=tuple(token.logprobs))
    if parser is None or token.part is not None:
        return [replace(about, text=token.text, part=token.part)]
    deltas = _split(parser.push(token.text)) or [about]
    return [replace(deltas[0], ids=about.ids, logprobs=about.logprobs), *deltas[1:]]


def _split(pieces: list[str | ToolCallDelta]) -> list[ChatDelta]:
    return [ChatDelta(text=p) if isinstance(p, str) else ChatDelta(tool_calls=(p,)) for p in pieces]


def _finish(event: Finished, parser: ToolParser | None) -> Finish:
    reason: Literal["stop", "length", "tool_calls"] = "length" if event.reason == "length" else "stop"
    if parser is not None and parser.calls and reason == "stop":
        reason = "tool_calls"
    return Finish(reason, event.usage, event.timing)
