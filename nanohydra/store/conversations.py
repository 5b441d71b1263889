"""Conversations: trees of messages. Who asks for another user's gets NotFound, as for one that never was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nanohydra.errors import UserError, did_you_mean
from nanohydra.store.accounts import find_user
from nanohydra.store.database import Database, NotFound
from nanohydra.store.models import Conversation, Message, now

ROLES = ("system", "user", "assistant", "tool")


class Conversations(Database):
    """Messages are never moved; a branch is a second child of the same parent (None: a second beginning)."""

    def create_conversation(
        self, user_id: int, title: str, system: str = "", settings: Mapping[str, Any] | None = None
    ) -> Conversation:
        """An empty conversation. `settings` is plain data of the caller's (sampling, adapter). NotFound without the user."""
        conversation = Conversation(user_id=user_id, title=title, system=system, settings=dict(settings or {}))
        with self._writing() as session:
            find_user(session, user_id, lock=True)  # they may have been deleted a moment ago
            session.add(conversation)
        return self.conversation(conversation.id, user_id)

    def conversations(self, user_id: int, search: str = "") -> list[Conversation]:
        """A user's conversations, last changed first; with `search` those with it in title or text, in any case."""
        query = select(Conversation).where(Conversation.user_id == user_id)
        if search:
            said = Message.content.icontains(search, autoescape=True)
            found = select(Message.id).where(Message.conversation_id == Conversation.id, said).exists()
            query = query.where(Conversation.title.icontains(search, autoescape=True) | found)
        with self._reading() as session:
            return list(session.scalars(query.order_by(Conversation.updated.desc(), Conversation.id.desc())))

    def conversation(self, conversation_id: int, user_id: int) -> Conversation:
        """One conversation. NotFound."""
        with self._reading() as session:
            return _own(session, conversation_id, user_id)

    def rename(self, conversation_id: int, user_id: int, title: str) -> None:
        """Gives a conversation another title. NotFound."""
        with self._writing() as session:
            _own(session, conversation_id, user_id, lock=True).title = title

    def configure(self, conversation_id: int, user_id: int, system: str, settings: Mapping[str, Any]) -> None:
        """Sets the system prompt and the settings. NotFound."""
        with self._writing() as session:
            conversation = _own(session, conversation_id, user_id, lock=True)
            conversation.system, conversation.settings = system, dict(settings)

    def delete(self, conversation_id: int, user_id: int) -> None:
        """Deletes a conversation and all of its messages. NotFound."""
        with self._writing() as session:
            session.delete(_own(session, conversation_id, user_id, lock=True))

    def add_message(
        self,
        conversation_id: int,
        user_id: int,
        parent_id: int | None,
        role: str,
        content: str,
        provenance: Mapping[str, Any] | None = None,
    ) -> Message:
        """Adds a message under `parent_id` (None: a beginning) and makes it the head. NotFound."""
        if role not in ROLES:
            raise UserError(f"There is no role {role!r}.{did_you_mean(role, ROLES)}")
        message = Message(
            conversation_id=conversation_id,
            parent_id=parent_id,
            role=role,
            content=content,
            provenance=dict(provenance or {}),
        )
        with self._writing() as session:
            conversation = _own(session, conversation_id, user_id, lock=True)
            if parent_id is not None:
                _within(session, conversation, parent_id)
            session.add(message)
            session.flush()
            conversation.head, conversation.updated = message.id, message.created
        return message

    def update_message(
        self, message_id: int, user_id: int, content: str, provenance: Mapping[str, Any] | None = None
    ) -> None:
        """Replaces what a message says (an answer as it grows), and its provenance where given. NotFound."""
        values: dict[str, Any] = {"content": content}
        if provenance is not None:
            values["provenance"] = dict(provenance)
        own = select(Conversation.id).where(Conversation.user_id == user_id)
        query = update(Message).where(Message.id == message_id, Message.conversation_id.in_(own)).values(values)
        with self._writing() as session:
            if session.scalar(query.returning(Message.id)) is None:
                raise NotFound(f"There is no message {message_id}.")

    def messages(self, conversation_id: int, user_id: int) -> list[Message]:
        """All messages of a conversation, every branch, in the order in which they were added. NotFound."""
        with self._reading() as session:
            return _messages(session, _own(session, conversation_id, user_id))

    def set_head(self, conversation_id: int, user_id: int, message_id: int | None) -> None:
        """Makes a message of the conversation the last one read (None: the conversation begins anew). NotFound."""
        with self._writing() as session:
            conversation = _own(session, conversation_id, user_id, lock=True)
            if message_id is not None:
                _within(session, conversation, message_id)
            conversation.head = message_id

    def path(self, conversation_id: int, user_id: int) -> list[Message]:
        """The conversation as it is read: from its beginning to the head. NotFound."""
        with self._reading() as session:
            conversation = _own(session, conversation_id, user_id)
            messages = {m.id: m for m in _messages(session, conversation)}
        path: list[Message] = []
        at = conversation.head
        while at is not None:
            path.append(messages[at])
            at = messages[at].parent_id
        return path[::-1]

    def export(self, conversation_id: int, user_id: int) -> dict[str, Any]:
        """All of a conversation as plain data for JSON: every branch, with provenance. NotFound."""
        with self._reading() as session:
            conversation = _own(session, conversation_id, user_id)
            messages = _messages(session, conversation)
        return {
            "format": "nanohydra-conversation-1",
            "title": conversation.title,
            "system": conversation.system,
            "settings": conversation.settings,
            "created": conversation.created.isoformat(),
            "exported": now().isoformat(),
            "head": conversation.head,
            "messages": [
                {
                    "id": m.id,
                    "parent_id": m.parent_id,
                    "role": m.role,
                    "content": m.content,
                    "provenance": m.provenance,
                    "created": m.created.isoformat(),
                }
                for m in messages
            ],
        }


def _own(session: Session, conversation_id: int, user_id: int, lock: bool = False) -> Conversation:
    query = select(Conversation).where(Conversation.id == conversation_id, Conversation.user_id == user_id)
    conversation = session.scalar(query.with_for_update() if lock else query)
    if conversation is None:
        raise NotFound(f"There is no conversation {conversation_id}.")
    return conversation


def _within(session: Session, conversation: Conversation, message_id: int) -> None:
    message = session.get(Message, message_id)
    if message is None or message.conversation_id != conversation.id:
        raise NotFound(f"There is no message {message_id} in this conversation.")


def _messages(session: Session, conversation: Conversation) -> list[Message]:
    query = select(Message).where(Message.conversation_id == conversation.id).order_by(Message.id)
    return list(session.scalars(query))
