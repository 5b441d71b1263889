"""One message on the page: its text as it grows, its tool calls, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from nanohydra.data.chat import Part
from nanohydra.serve.web.answers import Answer
from nanohydra.serve.web.markdown import to_html
from nanohydra.serve.web.sources import chips, linked, sources_of
from nanohydra.serve.web.theme import button, el, pace, raw, toast
from nanohydra.serve.web.tree import Turn

if TYPE_CHECKING:
    from nanohydra.serve.web.chat import ChatPage

# Private-use characters mark where a tool call stands while markdown is rendered around it.
_OPEN, _CLOSE = "\ue000", "\ue001"
_KEYS = "e => { if (e.key === 'Enter' && !e.shiftKey && !e.isComposing) { e.preventDefault(); emit(e.target.value); } }"


def parts_html(parts: Sequence[Part], sources: Sequence[Mapping[str, Any]] = ()) -> str:
    """An answer as HTML: markdown, with each tool call as a chip where it happened, and [1] a link to its source."""
    text = ""
    chips: list[str] = []
    for part in parts:
        if part["type"] == "text":
            text += part["text"].replace(_OPEN, "").replace(_CLOSE, "")
        else:
            text += f"{_OPEN}{len(chips)}{_CLOSE}"
            chips.append(
                f'<span class="tool" title="The calculator was asked">{escape(part["expression"])}'
                f' <span aria-hidden="true">=</span> <b>{escape(part["result"])}</b></span>'
            )
    html = linked(to_html(text), sources)
    for i, chip in enumerate(chips):
        html = html.replace(f"{_OPEN}{i}{_CLOSE}", chip)
    return html


class TurnView:
    """A message that is shown. `answer`: the answer that is being written into it."""

    def __init__(self, page: ChatPage, turn: Turn, answer: Answer | None) -> None:
        self.page = page
        self.turn = turn
        self.key = turn_key(turn, answer)
        self.answer = answer
        self.version = -1
        message = turn.message
        who = "You" if message.role == "user" else page.model_name(message.provenance.get("adapter"))
        self.box = el("article", f"turn {message.role}", aria_label=who)
        with self.box:
            self.body = raw("", "prose")
            self.origin = el("div", "origin")
            self.foot = el("footer", "turn-foot")
        if answer is None:
            self._show_finished()
        else:
            self.box.classes("writing")
            self.update()

    def update(self) -> None:
        """Shows what the answer has grown by."""
        if self.answer is not None and self.answer.version != self.version:
            self.version = self.answer.version
            self._show_origin(self.answer.provenance)
            self.body.content = (
                parts_html(self.answer.parts, sources_of(self.answer.provenance))
                or '<p class="waiting" aria-label="Waiting"><i></i><i></i><i></i></p>'
            )

    def _show_origin(self, provenance: Mapping[str, Any]) -> None:
        """The chips, once it is known where the answer comes from: before its first word."""
        if not self.origin.default_slot.children:
            with self.origin:
                chips(self.page, provenance)

    def delete(self) -> None:
        """Takes it off the page."""
        self.box.delete()

    def _show_finished(self) -> None:
        message, note = self.turn.message, ""
        if message.role == "user":
            self.body.content = f"<p>{escape(message.content)}</p>"
        else:
            parts: list[Part] = message.provenance.get("parts") or [{"type": "text", "text": message.content}]
            self.body.content = parts_html(parts, sources_of(message.provenance))
            self._show_origin(message.provenance)
            note = _note(message.provenance)
        with self.foot:
            if note:
                el("p", "note", note, role="status")
            with el("div", "turn-actions"):
                self._branches()
                button(symbol="copy", aria_label="Copy this message", data_copy_text=message.content)
                if message.role == "user":
                    button(symbol="edit", aria_label="Edit and ask again", on_click=self._edit)
                else:
                    button(symbol="again", aria_label="Answer again", on_click=lambda: self.page.regenerate(self.turn))
                    self._thumbs(message.provenance)
                    el("span", "figures", _figures(message.provenance))

    def _thumbs(self, provenance: Mapping[str, Any]) -> None:
        """A vote on the answer, where it belongs to a trial."""
        if "trial" not in provenance:
            return
        with el("span", role="group", aria_label="How was this answer?"):
            for score, symbol, label in ((1.0, "up", "A good answer"), (0.0, "thumb-down", "A bad answer")):
                pressed = "true" if provenance.get("vote") == score else "false"
                vote = button(symbol=symbol, aria_label=label, aria_pressed=pressed)
                vote.on("click", lambda score=score: self.page.vote(self.turn, score), args=[])

    def _branches(self) -> None:
        count, place = len(self.turn.siblings), self.turn.place
        if count == 1:
            return
        with el("span", "branches", role="group", aria_label="Versions of this message"):
            for step, symbol, label in ((-1, "left", "Earlier version"), (1, "right", "Later version")):
                if step == 1:
                    el("span", "count", f"{place + 1} / {count}")
                at = place + step
                target = self.turn.siblings[at] if 0 <= at < count else None
                button(
                    symbol=symbol,
                    aria_label=label,
                    disabled=target is None,
                    on_click=(lambda t=target: self.page.switch(t)) if target is not None else None,
                )

    def _edit(self) -> None:
        if self.page.live is not None:
            toast("Wait for the answer, or stop it first.")
            return
        self.body.set_visibility(False)
        self.foot.set_visibility(False)
        with self.box, el("div", "editor") as editor:
            area = el(
                "textarea",
                "",
                self.turn.message.content,
                aria_label="Your message",
                autofocus=True,
                data_esc_cancels="",
            )
            area.on("keydown", lambda e: self._save(str(e.args)), js_handler=_KEYS)
            with el("div", "row end"):
                button("Cancel", on_click=lambda: self._close(editor), data_cancel="")
                save = button("Ask again", classes="primary")
                save.on(
                    "click",
                    lambda e: self._save(str(e.args)),
                    js_handler="e => emit(e.target.closest('.editor').querySelector('textarea').value)",
                )
        area.client.run_javascript(f"nanohydra.focusEnd('{area.html_id}')")

    def _close(self, editor: Any) -> None:
        editor.delete()
        self.body.set_visibility(True)
        self.foot.set_visibility(True)

    async def _save(self, text: str) -> None:
        if text.strip():
            await self.page.edit(self.turn, text.strip())


def turn_key(turn: Turn, answer: Answer | None) -> tuple[Any, ...]:
    """Equal where nothing on the page would change."""
    return (
        turn.message.id,
        turn.siblings,
        turn.message.content,
        turn.message.provenance.get("state"),
        turn.message.provenance.get("vote"),
        answer is not None,
    )


def _note(provenance: dict[str, Any]) -> str:
    """How an answer ended, where that needs a word."""
    state = provenance.get("state")
    if state == "failed":
        return str(provenance.get("error"))
    if state == "writing":  # and yet nobody writes: the server stopped
        return "The server stopped while this was written. Answer again to have the rest."
    if state == "stopped":
        return "Stopped."
    if provenance.get("reason") == "length":
        return "Cut off at the token limit. Raise it in the settings of this chat."
    return ""


def _figures(provenance: dict[str, Any]) -> str:
    """Speed and length of an answer."""
    tokens, speed = provenance.get("tokens"), provenance.get("tokens_per_second")
    if not tokens:
        return ""
    return f"{tokens:,} tokens" + (f" · {pace(speed)}/s" if speed else "")
