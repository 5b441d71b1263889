"""What stands around the messages of a chat: header, composer, status line, and the greeting of an empty one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from nanohydra.serve.web.answers import NO_RIGHT
from nanohydra.serve.web.icons import icon
from nanohydra.serve.web.theme import Dialog, button, choice, el, labelled, mark, menu, pace, raw

if TYPE_CHECKING:
    from nanohydra.serve.web.chat import ChatPage

_TAKE = "() => { const text = nanohydra.take(); if (text) emit(text); }"
_ENTER = (
    "e => { if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); "
    "const text = nanohydra.take(); if (text) emit(text); } }"
)
_IDEAS = (
    "Explain how a small language model learns, in three sentences.",
    "Write a Python function that counts the words of a text.",
    "Give me a plan for a quiet weekend at home.",
)


class Header:
    """The chat's title, who answers, and what can be done with the whole chat."""

    def __init__(self, page: ChatPage) -> None:
        self.page = page
        self._models: tuple[Any, ...] = ()
        with el("header", "talk-head"):
            button(symbol="menu", aria_label="Open the navigation", classes="quiet square only-phone", data_sidebar="")
            self.title = el("h1", text="New chat")
            self.model = el("div", "model")
            button(symbol="settings", aria_label="Settings of this chat", data_panel_toggle="", aria_expanded="false")
            self.more = el("div")
        self._dialogs()

    def _dialogs(self) -> None:
        self.rename = Dialog("Rename this chat")
        self.delete = Dialog("Delete this chat?")
        with self.delete:
            el("p", text="All of its messages and branches go. This cannot be undone.")
            with el("div", "row end"):
                button("Delete", on_click=self._delete, classes="danger")

    async def show(self) -> None:
        """The header of the conversation that is open."""
        conversation = self.page.conversation
        title = conversation.title if conversation else "New chat"
        if self.title.text != title or not self._models:
            self.title.set_text(title)
            self.title.client.run_javascript("document.title = " + json.dumps(f"{title} · nanohydra"))
        await self._show_models()
        self.more.clear()
        if conversation is not None:
            address = f"/c/{conversation.id}/export"
            with self.more, menu("More", "more"):
                button("Rename", "edit", self._open_rename)
                for form, name in (("md", "Export as markdown"), ("json", "Export as JSON")):
                    with el("a", "quiet", href=f"{address}.{form}", download=True):
                        raw(icon("export"), tag="span")
                        el("span", text=name)
                button("Delete", "trash", self.delete.open, classes="quiet danger-text")

    async def _show_models(self) -> None:
        page = self.page
        services, chosen = page.web.services, page.settings.get("adapter") or ""
        base = services.engine.base
        shelf = await run_in_threadpool(services.store.adapters, page.visitor.user_id)
        names = [a.name for a in shelf if base is None or a.base == base.base_id]
        if chosen and chosen not in names:
            names.append(chosen)  # shown as it is set; asking says that it is gone
        state = (page.model_name(None), *names, chosen)
        if state == self._models:
            return
        self._models = state
        options = {"": page.model_name(None)} | {name: page.model_name(name) for name in names}
        self.model.clear()
        with self.model:
            choice(options, chosen, lambda name: page.set("adapter", name or None), aria_label="Model and adapter")

    def _open_rename(self) -> None:
        self.rename.body.clear()
        with self.rename:
            with labelled("Title"):
                title = self.page.conversation.title if self.page.conversation else ""
                field = el("input", type="text", maxlength=200, autofocus=True, **{"^value": title})
            field.on("keydown.enter", self._rename, js_handler="e => emit(e.target.value)")
            with el("div", "row end"):
                button("Rename", classes="primary").on(
                    "click",
                    self._rename,
                    js_handler="e => emit(e.target.closest('dialog').querySelector('input').value)",
                )
        self.rename.open()

    async def _rename(self, event: Any) -> None:
        self.rename.close()
        await self.page.rename(str(event.args))

    async def _delete(self) -> None:
        self.delete.close()
        await self.page.delete()


class Composer:
    """Where one writes. Enter sends, Shift+Enter makes a new line, Esc stops the answer."""

    def __init__(self, page: ChatPage) -> None:
        with el("div", "composer"):
            area = el(
                "textarea",
                rows=1,
                placeholder="Write a message",
                aria_label="Message",
                autofocus=True,
                data_composer="",
            )
            area.on("keydown", lambda e: page.send(str(e.args)), js_handler=_ENTER)
            self.send = button(symbol="send", aria_label="Send", classes="primary round")
            self.send.on("click", lambda e: page.send(str(e.args)), js_handler=_TAKE)
            self.stop = button(
                symbol="stop", aria_label="Stop the answer", on_click=page.stop, classes="primary round", data_stop=""
            )
        self.answering(False)

    def answering(self, yes: bool) -> None:
        """Offers to stop in the place of to send."""
        self.send.set_visibility(not yes)
        self.stop.set_visibility(yes)


class Status:
    """The line under the composer: the engine's state, speed, and how full the context is."""

    def __init__(self, page: ChatPage) -> None:
        self.page = page
        with el("div", "status"):
            self.left = el("span", "keys", role="status")
            self.right = el("span", "figures")
            self.meter = el("meter", min=0, max=1, aria_label="Context used")

    def show(self) -> None:
        """Shows the numbers of this moment."""
        state = self.page.web.services.engine.state
        words = {
            "ready": "Enter sends, Shift+Enter makes a new line, Esc stops",
            "loading": "The model is being loaded …",
            "restarting": "The engine is starting again; your message will wait for it.",
            "failed": f"The engine is down: {self.page.web.services.engine.error}",
        }[state]
        may = self.page.visitor.may("chat")
        words = words if may else NO_RIGHT
        if self.left.text != words:
            self.left.set_text(words)
            self.left.classes(replace="keys" if may and state == "ready" else "keys loud")
        used, speed = self._figures()
        base = self.page.web.services.engine.base
        room = base.max_seq_len if base else 0
        text = " · ".join(
            part
            for part in (f"{pace(speed)} tokens/s" if speed else "", f"{used:,} of {room:,}" if used and room else "")
            if part
        )
        if self.right.text != text:
            self.right.set_text(text)
            self.meter.props["^value"] = round(used / room, 3) if room else 0
        self.meter.set_visibility(bool(used and room))

    def _figures(self) -> tuple[int, float]:
        """Tokens of the context that are used, and tokens a second of the last answer."""
        used, speed = 0, 0.0
        for message in self.page.path:
            usage = message.provenance.get("usage")
            if usage:
                used = usage["prompt_tokens"] + usage["completion_tokens"]
                speed = message.provenance.get("tokens_per_second") or 0.0
        live = self.page.live
        return (used + live.tokens, live.tokens_per_second) if live is not None else (used, speed)


def greeting(page: ChatPage) -> None:
    """An empty chat."""
    with el("div", "greeting"):
        mark()
        el("h2", text="What is on your mind?")
        el("p", "soft", "The model runs on this machine, and so does everything you write.")
        with el("div", "ideas"):
            for idea in _IDEAS:
                button(idea, on_click=lambda idea=idea: page.send(idea), classes="idea")
