"""The list of conversations at the side, with its search."""

from __future__ import annotations

from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from nanohydra.serve.web.icons import icon
from nanohydra.serve.web.theme import el, raw

if TYPE_CHECKING:
    from nanohydra.serve.web.chat import ChatPage

_FOLLOW = "e => { if (!e.metaKey && !e.ctrlKey && !e.shiftKey) { e.preventDefault(); emit(); } }"
SHOWN = 200
"""Conversations listed at once; older ones are found by search."""


class ConversationList:
    """Begins a chat, searches chats, opens one."""

    def __init__(self, page: ChatPage) -> None:
        self.page = page
        self.search = ""
        with el("a", "new-chat", href="/", data_new="") as new:
            raw(icon("plus"), tag="span")
            el("span", text="New chat")
        new.on("click", page.begin, js_handler=_FOLLOW)
        with el("div", "search", role="search"):
            raw(icon("search"), tag="span")
            field = el("input", type="search", placeholder="Search chats", aria_label="Search chats", data_search="")
            field.on("input", self._search, js_handler="e => emit(e.target.value)", throttle=0.25, leading_events=False)
        self.rows = el("nav", "conversations", aria_label="Chats")

    async def refresh(self) -> None:
        """Reads the list again."""
        store, user_id = self.page.visitor.web.services.store, self.page.visitor.user_id
        found = await run_in_threadpool(store.conversations, user_id, self.search)
        current = self.page.conversation.id if self.page.conversation else None
        today = datetime.now().astimezone().date()
        self.rows.clear()
        with self.rows:
            for age, group in groupby(found[:SHOWN], key=lambda c: _age((today - c.updated.astimezone().date()).days)):
                el("h2", text=age)
                for conversation in group:
                    link = el(
                        "a",
                        text=conversation.title,
                        href=f"/c/{conversation.id}",
                        title=conversation.title,
                        aria_current="page" if conversation.id == current else None,
                    )
                    link.on("click", lambda id=conversation.id: self.page.open(id), js_handler=_FOLLOW)
            if not found:
                el("p", "soft", "Nothing found." if self.search else "Your chats will be listed here.")
            elif len(found) > SHOWN:
                el("p", "soft", f"{len(found) - SHOWN} older ones: search for them.")

    async def _search(self, event: Any) -> None:
        self.search = str(event.args).strip()
        if await self.page.known():
            await self.refresh()


def _age(days: int) -> str:
    if days <= 0:
        return "Today"
    if days == 1:
        return "Yesterday"
    return "This week" if days < 7 else "Earlier"
