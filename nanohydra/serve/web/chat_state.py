"""What a chat page knows: whose it is, which conversation is open, its messages and settings."""

from __future__ import annotations

from typing import Any

from starlette.concurrency import run_in_threadpool

from nanohydra.infer.config import SamplingParams
from nanohydra.serve.memory import Use
from nanohydra.serve.web.answers import Answer
from nanohydra.serve.web.chat_settings import USES
from nanohydra.serve.web.tree import Turn, shown_turns
from nanohydra.serve.web.visitors import Visitor
from nanohydra.store import Conversation, Message


class OpenChat:
    """A conversation as one page has it open; without one, a new chat."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.web = visitor.web
        self.store = visitor.web.services.store
        self.conversation: Conversation | None = None
        self.messages: list[Message] = []
        self.system = ""
        self.settings: dict[str, Any] = {}
        self._seen = 0
        self._out = False

    def _clear(self) -> None:
        self.conversation, self.messages = None, []
        self.system, self.settings = "", {"adapter": self.visitor.principal.default_adapter}

    async def _read(self, conversation_id: int) -> None:
        user_id = self.visitor.user_id
        self._seen = self.web.answers.changes(conversation_id)
        self.conversation = await run_in_threadpool(self.store.conversation, conversation_id, user_id)
        self.messages = await run_in_threadpool(self.store.messages, conversation_id, user_id)

    @property
    def live(self) -> Answer | None:
        """The answer that is being written here."""
        return self.web.answers.live(self.conversation.id) if self.conversation else None

    @property
    def shown(self) -> list[Turn]:
        """The branch that is shown."""
        return shown_turns(self.messages, self.conversation.head if self.conversation else None)

    @property
    def path(self) -> list[Message]:
        """The messages that are shown."""
        return [turn.message for turn in self.shown]

    @property
    def defaults(self) -> SamplingParams:
        """The sampling of chats that set none."""
        return self.web.services.generation.defaults

    @property
    def use(self) -> Use:
        """What of the visitor's memory may answer here."""
        chosen = self.settings.get("memory")
        return chosen if chosen in USES else "on"

    def model_name(self, adapter: str | None) -> str:
        """Who answers."""
        base = self.web.services.engine.base
        name = base.name if base else self.web.services.config.base
        return f"{name} + {adapter}" if adapter else name

    async def known(self) -> bool:
        """Whether the visitor may still look and change; who may not any more is led to the sign-in."""
        self._out = not await self.visitor.known()
        return not self._out
