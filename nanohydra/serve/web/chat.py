"""The chat page: a conversation that streams, branches and stays."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from typing import Any

from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from nanohydra.errors import UserError
from nanohydra.serve.errors import ApiError
from nanohydra.serve.web.answers import NO_RIGHT, messages_for_model
from nanohydra.serve.web.chat_list import ConversationList
from nanohydra.serve.web.chat_parts import Composer, Header, Status, greeting
from nanohydra.serve.web.chat_settings import SettingsPanel, checked, params_of
from nanohydra.serve.web.chat_state import OpenChat
from nanohydra.serve.web.chat_turn import TurnView, turn_key
from nanohydra.serve.web.sources import SourceDialog
from nanohydra.serve.web.theme import BUILD_SECONDS, el, page, toast
from nanohydra.serve.web.tree import Turn, newest_leaf, shown_turns
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of
from nanohydra.store import NotFound

LOOK_SECONDS = 0.1
"""How often a page looks for news."""
CHECK_SECONDS = 5.0
"""How often it looks whether its visitor may still see it."""
_SHARE = 20
"""An update of a growing answer is shown no sooner than this many times what the last one took: pages leave the processor to
the engine, however long the answer and however busy the machine."""
_TITLE = 60


@ui.page("/", response_timeout=BUILD_SECONDS)
@ui.page("/c/{conversation_id}", response_timeout=BUILD_SECONDS)
async def chat_page(request: Request, conversation_id: int | None = None, ask: str = "") -> Response | None:
    """A new chat, or an old one. ask: what stands in the field to be sent."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    await ChatPage(visitor).build(conversation_id)
    if ask:
        ui.run_javascript(f"nanohydra.giveBack({json.dumps(ask)})")
    return None


class ChatPage(OpenChat):
    """One open page. What it shows is in the store and in the answers under way; it holds only what was not sent yet."""

    def __init__(self, visitor: Visitor) -> None:
        super().__init__(visitor)
        self._views: list[TurnView] = []
        self._busy = False
        self._checked = time.monotonic()
        self._turn = asyncio.Lock()
        self._keeping = asyncio.Lock()
        self._next = 0.0
        self._shown = True

    # -- what is shown ------------------------------------------------------------------------------------------------

    async def build(self, conversation_id: int | None) -> None:
        """Fills the page."""
        signed_in = self.visitor.principal.token_id is not None
        with page("chat", self.visitor.principal.name, signed_in) as sidebar:
            with sidebar:
                self.list = ConversationList(self)
            with el("div", "chat"):
                with el("section", "talk", aria_label="Conversation"):
                    self.header = Header(self)
                    with el("div", "scroller", tabindex="0", role="log", aria_label="Messages", data_stick=""):
                        self.turns = el("div", "turns")
                    self.composer = Composer(self)
                    self.status = Status(self)
                with el("aside", "side-panel", aria_label="Settings of this chat", data_panel="", hidden=True):
                    el("h2", text="This chat")
                    self.panel = SettingsPanel(self.set, self.reset)
        self.source = SourceDialog(self.store)
        ui.on("goto", self._goto)
        ui.on("shown", self._drawn)
        await self.open(conversation_id, push=False)
        ui.timer(LOOK_SECONDS, self._look)

    async def begin(self) -> None:
        """A new chat."""
        await self.open(None)

    async def open(self, conversation_id: int | None, push: bool = True) -> None:
        """Shows a conversation (None: a new one), after what is being sent."""
        async with self._turn:
            if await self.known():
                await self._open(conversation_id, push)

    async def _open(self, conversation_id: int | None, push: bool = True) -> None:
        self._clear()
        if conversation_id is not None:
            try:
                await self._read(conversation_id)
            except NotFound:
                toast("This chat is not there any more.")
                conversation_id = None
        if self.conversation is not None:
            self.system, self.settings = self.conversation.system, dict(self.conversation.settings)
        self.panel.fill(self.system, self.settings, self.defaults)
        self._show()
        await self.header.show()
        await self.list.refresh()
        if push:
            where = f"/c/{conversation_id}" if conversation_id is not None else "/"
            ui.run_javascript(f"nanohydra.opened({json.dumps(where)})")

    async def _goto(self, event: Any) -> None:
        """The browser's back and forward."""
        last = str(event.args).rstrip("/").rpartition("/")[2]
        await self.open(int(last) if last.isdecimal() else None, push=False)

    def _show(self) -> None:
        """Brings the turns on the page in line with the messages; what is unchanged stays as it stands."""
        turns = self.shown
        self._shown = True
        live = self.live
        answers = [live if live and live.message_id == turn.message.id else None for turn in turns]
        same = 0
        while same < min(len(turns), len(self._views)) and self._views[same].key == turn_key(
            turns[same], answers[same]
        ):
            same += 1
        for view in self._views[same:]:
            view.delete()
        if not self._views[:same]:
            self.turns.clear()
        with self.turns:
            self._views[same:] = [TurnView(self, turn, answer) for turn, answer in zip(turns[same:], answers[same:])]
            if not turns:
                greeting(self)
        self.composer.answering(live is not None)
        self.status.show()

    async def _look(self) -> None:
        """Shows what has changed since the last look."""
        if self._busy or self._out:
            return
        if time.monotonic() - self._checked > CHECK_SECONDS:
            self._checked = time.monotonic()
            if not await self.known():
                return
        if self.live is None:
            self.status.show()
        if self.conversation is None:
            return
        if self.web.answers.changes(self.conversation.id) != self._seen:
            await self.refresh()
        elif self.live is not None and self._shown and time.monotonic() > self._next:
            self._grow()

    def _grow(self) -> None:
        """Shows what the answer has grown by. The browser says when it has drawn it: a slow one is not buried in updates, and
        its Stop is heard at once."""
        began = time.monotonic()
        for view in self._views:
            view.update()
        self.status.show()
        self._shown = False
        ui.run_javascript("requestAnimationFrame(() => emitEvent('shown'))")
        self._next = began + _SHARE * (time.monotonic() - began)

    def _drawn(self) -> None:
        self._shown = True

    async def refresh(self) -> None:
        """Reads the conversation again."""
        if self.conversation is None:
            return
        try:
            await self._read(self.conversation.id)
        except NotFound:
            await self._open(None)
            return
        self._show()
        await self.header.show()

    # -- what can be done ---------------------------------------------------------------------------------------------

    async def send(self, text: str) -> None:
        """Asks; the text goes back into the field where that is not possible."""
        done = False
        try:
            done = await self._guard(self._send(text))
        finally:
            if not done:
                ui.run_javascript(f"nanohydra.giveBack({json.dumps(text)})")

    async def _send(self, text: str) -> None:
        if self.conversation is None:
            title = " ".join(text.split())
            title = title if len(title) <= _TITLE else title[: _TITLE - 1].rstrip() + "…"
            user_id = self.visitor.user_id
            made = await run_in_threadpool(self.store.create_conversation, user_id, title, self.system, self.settings)
            self.conversation = made
            ui.run_javascript(f"nanohydra.opened('/c/{made.id}', true)")
        await self._ask(text, self.conversation.head)
        await self.list.refresh()

    async def _ask(self, text: str, parent_id: int | None) -> None:
        assert self.conversation is not None
        add = self.store.add_message
        message = await run_in_threadpool(add, self.conversation.id, self.visitor.user_id, parent_id, "user", text)
        await self._read(self.conversation.id)
        await self._answer(message.id)

    async def _answer(self, parent_id: int) -> None:
        """Begins an answer under a message of this conversation."""
        assert self.conversation is not None
        params = params_of(self.settings, self.defaults)
        base = self.web.services.engine.base
        provenance = {
            "base": self.model_name(None),
            "base_id": base.base_id if base else None,
            "adapter": self.settings.get("adapter"),
            "sampling": {name: value for name, value in vars(params).items() if value is not None},
        }
        path = [turn.message for turn in shown_turns(self.messages, parent_id)]
        messages = messages_for_model(self.system, path)
        await self.web.answers.start(
            self.visitor.principal, self.conversation.id, messages, parent_id, params, provenance, self.use
        )
        await self.refresh()

    async def show_source(self, source: Mapping[str, Any]) -> None:
        """Shows what an answer rests on."""
        await self.visitor.act(lambda: self.source.show(source, self.visitor.user_id))

    async def vote(self, turn: Turn, score: float) -> None:
        """What is thought of an answer in a trial: 1 good, 0 bad."""

        async def vote() -> None:
            message, user_id = turn.message, self.visitor.user_id
            trial = message.provenance["trial"]
            await run_in_threadpool(self.store.vote, trial["id"], trial["unit"], trial["arm"], score)
            provenance = {**message.provenance, "vote": score}
            await run_in_threadpool(self.store.update_message, message.id, user_id, message.content, provenance)
            self.web.answers.changed(message.conversation_id)

        await self.visitor.act(vote, "chat")

    async def regenerate(self, turn: Turn) -> None:
        """Another answer to the same message, beside this one."""
        if turn.message.parent_id is not None:
            await self._guard(self._answer(turn.message.parent_id))

    async def edit(self, turn: Turn, text: str) -> None:
        """Another wording of a message, beside the first, with its own answer."""
        await self._guard(self._ask(text, turn.message.parent_id))

    async def stop(self) -> None:
        """Ends the answer."""
        conversation = self.conversation
        if conversation is not None and await self.known():
            await self.web.answers.stop(conversation.id)

    async def switch(self, message_id: int) -> None:
        """Shows another branch."""
        conversation = self.conversation
        if conversation is not None and self.live is None:
            leaf = newest_leaf(self.messages, message_id)
            if not await self.known():
                return
            await run_in_threadpool(self.store.set_head, conversation.id, self.visitor.user_id, leaf)
            self.web.answers.changed(conversation.id)
            await self.refresh()

    async def rename(self, title: str) -> None:
        """Gives the chat another title."""
        conversation = self.conversation
        if conversation is not None and title.strip() and await self.known():
            await run_in_threadpool(self.store.rename, conversation.id, self.visitor.user_id, title.strip())
            await self.refresh()
            await self.list.refresh()

    async def delete(self) -> None:
        """Deletes the chat."""
        conversation = self.conversation
        if conversation is not None and await self.known():
            await self.web.answers.stop(conversation.id)
            await run_in_threadpool(self.store.delete, conversation.id, self.visitor.user_id)
            await self._open(None)

    async def set(self, name: str, value: Any) -> None:
        """Changes a setting of the chat: "system", "adapter", "stop" or one of the sampling's."""
        settings = {**self.settings, name: value}
        if name != "system" and (wrong := checked(settings, self.defaults)):
            toast(wrong)
            return
        if name == "system":
            self.system = value
        else:
            self.settings = settings
        await self._keep()

    async def reset(self) -> None:
        """The settings of a new chat, with the adapter as it is."""
        self.system, self.settings = "", {"adapter": self.settings.get("adapter")}
        self.panel.fill(self.system, self.settings, self.defaults)
        await self._keep()

    async def _keep(self) -> None:
        conversation, system, settings = self.conversation, self.system, self.settings
        async with self._keeping:  # one after the other: threads could end in another order, and an older change last
            if conversation is not None and await self.known():
                await run_in_threadpool(self.store.configure, conversation.id, self.visitor.user_id, system, settings)

    async def _guard(self, work: Any) -> bool:
        """Does what asks the model, unless something stands in the way, which is said. True where it was done."""
        self._busy = True
        await self._turn.acquire()
        try:
            if not await self.known():
                return False
            if not self.visitor.may("chat"):
                raise UserError(NO_RIGHT)
            if self.web.services.engine.base is None:
                raise UserError("The model is not loaded yet. Wait a moment.")
            if self.live is not None:
                raise UserError("An answer is being written. Stop it first, or wait.")
            self.web.services.rates.take(self.visitor.user_id)
            await work
        except (UserError, ApiError) as e:
            toast(str(e))
            return False
        finally:
            work.close()
            self._turn.release()
            self._busy = False
        return True
