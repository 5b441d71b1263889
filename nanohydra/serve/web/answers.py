"""Answers belong to the server, not to a page: each is a task that writes to the store, and pages look at it as it grows.

So a page may be reloaded, closed or lost in mid-answer, and another tab or device of the same user sees the same answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from nanohydra.data.chat import Part, plain_text, text_part
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.serve.chat import ChatService
from nanohydra.serve.errors import ApiError
from nanohydra.serve.memory import Use
from nanohydra.store import Message, NotFound, Principal, Store

SAVE_SECONDS = 1.0
"""How much of an answer a crash of the server can lose."""

log = logging.getLogger(__name__)


@dataclass
class Answer:
    """An answer that is being written."""

    conversation_id: int
    message_id: int
    user: Principal
    provenance: dict[str, Any]
    """Which base, adapter and settings write it; at the end also why it ended, what it cost, how long it took."""
    parts: list[Part] = field(default_factory=list)
    tokens: int = 0
    began: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    version: int = 0
    """Grows with each change, so that a page knows whether there is something new to show."""
    done: bool = False

    @property
    def tokens_per_second(self) -> float:
        """Tokens after the first, over the seconds since the first; 0 where there is none yet."""
        if self.first_token is None or self.tokens < 2:
            return 0.0
        return (self.tokens - 1) / max(time.monotonic() - self.first_token, 1e-6)

    def add(self, text: str, part: Part | None, tokens: int) -> None:
        """Takes in what is new."""
        if tokens and self.first_token is None:
            self.first_token = time.monotonic()
        self.tokens += tokens
        if part is not None:
            self.parts.append(part)
        elif text and self.parts and self.parts[-1]["type"] == "text":
            self.parts[-1] = text_part(self.parts[-1]["text"] + text)
        elif text:
            self.parts.append(text_part(text))
        self.version += 1


NO_RIGHT = "Your token has no right to chat. Sign in with one that has."


class Answers:
    """All answers under way, at most one in a conversation. Belongs to one event loop."""

    def __init__(self, chat: ChatService, store: Store) -> None:
        self._chat = chat
        self._store = store
        self._live: dict[int, Answer] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._changes: Counter[int] = Counter()

    def live(self, conversation_id: int) -> Answer | None:
        """The answer that is being written in a conversation."""
        return self._live.get(conversation_id)

    def changes(self, conversation_id: int) -> int:
        """How often the messages of a conversation changed since the server started, growing answers left out."""
        return self._changes[conversation_id]

    def changed(self, conversation_id: int) -> None:
        """Tells every page that shows the conversation to read it again."""
        self._changes[conversation_id] += 1

    async def start(
        self,
        user: Principal,
        conversation_id: int,
        messages: Sequence[Mapping[str, Any]],
        parent_id: int | None,
        params: SamplingParams,
        provenance: Mapping[str, Any],
        use: Use = "off",
    ) -> Answer:
        """Begins to answer `messages`; the answer is stored under `parent_id`. use: what of the user's memory may answer.
        UserError where one is under way, or the user has no right to chat."""
        if "chat" not in user.scopes:
            raise UserError(NO_RIGHT)
        if conversation_id in self._live:
            raise UserError("An answer is being written in this conversation. Stop it first, or wait.")
        answer = self._live[conversation_id] = Answer(conversation_id, 0, user, {**provenance, "state": "writing"})
        try:
            row = await run_in_threadpool(
                self._store.add_message, conversation_id, user.user_id, parent_id, "assistant", "", answer.provenance
            )
        except BaseException:
            del self._live[conversation_id]
            raise
        answer.message_id = row.id
        self.changed(conversation_id)
        self._tasks[conversation_id] = asyncio.create_task(self._write(answer, messages, params, use))
        return answer

    async def stop(self, conversation_id: int) -> None:
        """Ends the answer of a conversation, where there is one; what is written stays."""
        task = self._tasks.get(conversation_id)
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self._forget(conversation_id)  # a task that was stopped before its first step cannot clean up itself

    async def close(self) -> None:
        """Ends every answer, for the server's end."""
        for conversation_id in list(self._tasks):
            await self.stop(conversation_id)

    async def _write(
        self, answer: Answer, messages: Sequence[Mapping[str, Any]], params: SamplingParams, use: Use
    ) -> None:
        outcome: dict[str, Any] = {"state": "done"}
        try:
            outcome |= await self._follow(answer, messages, params, use)
        except asyncio.CancelledError:
            outcome = {"state": "stopped", "tokens": answer.tokens, "tokens_per_second": answer.tokens_per_second}
        except NotFound:  # deleted in mid-answer: there is nothing left to write to
            outcome = {"state": "stopped"}
        except (UserError, ApiError) as e:
            outcome = {"state": "failed", "error": str(e)}
        except Exception:
            log.exception("an answer failed")
            outcome = {"state": "failed", "error": "Something broke while answering. Ask again."}
        answer.provenance |= outcome
        try:
            with contextlib.suppress(NotFound):
                await asyncio.shield(self._save(answer))
        finally:
            self._forget(answer.conversation_id)

    def _forget(self, conversation_id: int) -> None:
        answer = self._live.pop(conversation_id, None)
        self._tasks.pop(conversation_id, None)
        if answer is not None:
            answer.done = True
            answer.version += 1
            self.changed(conversation_id)

    async def _follow(
        self, answer: Answer, messages: Sequence[Mapping[str, Any]], params: SamplingParams, use: Use
    ) -> dict[str, Any]:
        """Reads the stream to its end; returns why it ended, what it cost, how long it took."""
        saved = time.monotonic()
        adapter = answer.provenance.get("adapter")
        stream = self._chat.stream(
            messages, params, adapter, answer.user, use=use, conversation=str(answer.conversation_id)
        )
        async with aclosing(stream):
            async for delta in stream:
                if delta.memory is not None:  # where the answer comes from, known before its first word
                    answer.provenance |= delta.memory
                answer.add(delta.text, delta.part, len(delta.ids))
                if delta.finish is not None:
                    return {
                        "reason": delta.finish.reason,
                        "usage": asdict(delta.finish.usage),
                        "timing": asdict(delta.finish.timing),
                        "tokens": delta.finish.usage.completion_tokens,
                        "tokens_per_second": delta.finish.timing.tokens_per_second,
                    }
                if time.monotonic() - saved > SAVE_SECONDS:
                    await self._save(answer)
                    saved = time.monotonic()
        return {}

    async def _save(self, answer: Answer) -> None:
        provenance = {**answer.provenance, "parts": answer.parts}
        await run_in_threadpool(
            self._store.update_message, answer.message_id, answer.user.user_id, plain_text(answer.parts), provenance
        )


def messages_for_model(system: str, path: Sequence[Message]) -> list[dict[str, Any]]:
    """A conversation as the chat service reads it. An answer's tool calls go back in as calls, not as their text; what
    was stopped or failed before its first word is left out."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system.strip() else []
    for message in path:
        content: Any = message.content
        if message.role == "assistant":
            content = message.provenance.get("parts") or content
            if not content:
                continue
        messages.append({"role": message.role, "content": content})
    return messages
