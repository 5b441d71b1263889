"""A conversation answered as it is written: text, tool calls, the end. The API and the web app both go through here."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, Literal

from nanohydra.data.chat import Part, plain_text
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.hydra.checking import Check
from nanohydra.hydra.recall import Plan
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.streaming import Logprob, Timing
from nanohydra.serve.errors import ApiError, Missing, Unavailable
from nanohydra.serve.generation import Generation
from nanohydra.serve.memory import Memory, Use
from nanohydra.serve.prompts import chat_prompt
from nanohydra.serve.protocol import Finished, Token, Usage
from nanohydra.serve.tools import Tool, ToolCallDelta, ToolParser, forced_schema
from nanohydra.serve.trials import Trials
from nanohydra.store import Principal

log = logging.getLogger(__name__)


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
    memory: dict[str, Any] | None = None
    """In the first delta, where the user has been understood to have taught something: `mode` (weights, quote, reading, base),
    `adapter`, `lesson`, `route`, `sources`, `overruled` where a quotation took the place of that adapter's answer, and `trial`
    where one decided who answers."""
    finish: Finish | None = None
    """In the last delta only."""


class ChatService:
    """Answers to conversations."""

    def __init__(self, generation: Generation, memory: Memory | None = None, trials: Trials | None = None) -> None:
        self._generation = generation
        self._memory = memory
        self._trials = trials

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
        use: Use = "off",
        conversation: str | None = None,
    ) -> AsyncGenerator[ChatDelta, None]:
        """The answer to a conversation, as it is written; the last delta has its finish.

        messages: role, content (text or parts), and of assistants `tool_calls` (a list of ToolCall). tool_choice: auto, none,
        required, or the name of the tool that must be called. use: what of the user's memory may answer, where neither an
        adapter nor tools nor a form of the answer is asked for. conversation: what names it, so that a trial can decide, for
        good, which adapter it meets where nobody named one. Closing the iterator takes the request back. Raises ApiError or
        UserError.
        """
        forced = _forced(tools, tool_choice)
        if forced:
            params = replace(params, json_schema=forced_schema(forced))
        offered = () if tool_choice == "none" else tools
        self._generation.check_text(messages, offered)
        free = adapter is None and not offered and params.form is None
        plan = await self._plan(messages, user, use) if free else None
        trial = None
        if plan:
            adapter = plan.adapter
            if self._trials:
                adapter, trial = await self._trials.meet(adapter, user, conversation)
        # What a trial compares is the adapters' own answers: nothing overrules them.
        check = Check[ChatDelta](None if trial else plan)
        if plan:
            about = {**plan.to_data(), "adapter": adapter, **({"trial": trial} if trial else {})}
            for delta in check.push(ChatDelta(memory=about)):
                yield delta
        if plan and plan.quote is not None:
            for delta in self._quoted(plan, params):
                yield delta
            return
        if plan and plan.prompt:
            messages = with_notes(messages, plan.prompt)
        prompt = await asyncio.to_thread(chat_prompt, self.tokenizer, messages, offered, bool(forced))
        parser = ToolParser(inside=bool(forced)) if offered else None
        events = self._generation.run(prompt, params, adapter, user)
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Token):
                    for written in _deltas(event, parser):
                        for delta in check.push(written, written.text):
                            yield delta
                elif check.instead is None or check.stands:
                    for delta in [*check.end(), *_split(parser.flush() if parser else [])]:
                        yield delta
                    if plan:
                        self._generation.metrics.recalled.labels(plan.mode).inc()
                    yield ChatDelta(finish=_finish(event, parser))
                else:
                    yield ChatDelta(memory=check.instead.to_data())
                    for delta in self._quoted(check.instead, params, event.usage, event.timing):
                        yield delta

    def _quoted(
        self, plan: Plan, params: SamplingParams, usage: Usage | None = None, timing: Timing | None = None
    ) -> Iterator[ChatDelta]:
        """A plan's quotation as an answer: word by word, and cut where any answer would be. usage, timing: of the answer from
        weights that it takes the place of; otherwise the engine has no part in it."""
        self._generation.metrics.recalled.labels(plan.mode).inc()
        quote = plan.quote or ""
        reason: Literal["stop", "length"] = "stop"
        for stop in params.stop:
            quote = quote.partition(stop)[0]
        ids = self.tokenizer.encode(quote)
        if len(ids) > params.max_tokens:
            ids, reason = ids[: params.max_tokens], "length"
            quote = self.tokenizer.decode(ids)
        for piece in re.findall(r"\S+\s*|\s+", quote):
            yield ChatDelta(text=piece)
        yield ChatDelta(finish=Finish(reason, usage or Usage(0, len(ids)), timing or Timing(0.0, 0.0, 0.0)))

    async def _plan(self, messages: Sequence[Mapping[str, Any]], user: Principal, use: Use) -> Plan | None:
        """How to answer, with an adapter that the engine has; by retrieval where a lesson was undone this very moment."""
        plan = await self._memory.plan(messages, user, use) if self._memory else None
        if plan is not None and plan.adapter is not None:
            try:
                await self._generation.adapters.attach(plan.adapter, user)
            except (Missing, UserError) as e:
                log.warning("no adapter", extra={"adapter": plan.adapter, "reason": type(e).__name__})
                plan = await self._memory.plan(messages, user, "retrieval") if self._memory else None
        return plan


def with_notes(messages: Sequence[Mapping[str, Any]], notes: str) -> list[Mapping[str, Any]]:
    """A conversation whose system message holds notes, too."""
    first = messages[0]
    if first["role"] != "system":
        return [{"role": "system", "content": notes}, *messages]
    return [{**first, "content": f"{plain_text(first['content'])}\n\n{notes}"}, *messages[1:]]


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
