"""What was understood of what somebody wrote, and what it changes: seen and decided before anything is taught."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nicegui import ui

from nanohydra.hydra.material import Fact, Known
from nanohydra.serve.web.lesson_view import AGAIN, call
from nanohydra.serve.web.lesson_words import counted, day
from nanohydra.serve.web.theme import button, choice, el
from nanohydra.serve.web.visitors import Visitor


class Preview:
    """The part of the page under the form."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.box = el("div", "stack", role="region", aria_label="What was understood", aria_live="polite")
        self._found: Any = None
        self._minutes = AGAIN[0]
        self._key = ""

    async def show(
        self, text: str, pairs: Sequence[tuple[str, str]], file: tuple[str, bytes] | None, name: str
    ) -> None:
        """Reads what was given, and shows what was understood. UserError where nothing was given."""
        self.box.clear()
        self._key = secrets.token_hex(16)
        self._found = await call(self.visitor, "preview", text or None, pairs, file, name)
        material, novelty = self._found.material, self._found.novelty
        with self.box, el("section", "card", data_preview=""):
            el("h2", text=f"Understood: {counted(len(material.facts), 'fact')}")
            if not material.facts:
                el(
                    "p",
                    text="No single facts are to be learned by heart. The text is kept, and quoted where a question fits it.",
                )
            for note in material.notes:
                el("p", "finding", note)
            if novelty.contradicting:
                el(
                    "h3",
                    text=f"{counted(len(novelty.contradicting), 'fact')} that you taught otherwise before: which holds?",
                )
                for fact, known in novelty.contradicting:
                    _contradiction(fact, known)
            _new(novelty.new)
            _unsure(novelty.unsure)
            if novelty.known:
                with el("details"):
                    el("summary", text=f"Known already: {counted(len(novelty.known), 'fact')}")
                    for fact in novelty.known:
                        el("p", "soft", fact.answer)
            _passages(material)
            self._go()
        ui.run_javascript(
            "document.querySelector('[data-preview]')?.scrollIntoView({block: 'nearest', behavior: 'smooth'})"
        )

    def _go(self) -> None:
        with el("div", "row end"):
            el("span", "soft", "Time it may take")
            options = {str(minutes): counted(minutes, "minute") for minutes in AGAIN}
            choice(options, str(self._minutes), self._set_minutes, aria_label="Time it may take")
            teach = button("Teach", "teach", classes="primary")
        teach.on("click", self._teach, js_handler="() => emit(nanohydra.decided())")

    def _set_minutes(self, minutes: str) -> None:
        self._minutes = int(minutes)

    async def _teach(self, event: Any) -> None:
        async def teach() -> None:
            leave_out = [str(key) for key in event.args]
            material, seconds = self._found.material, 60.0 * self._minutes
            lesson = await call(self.visitor, "submit", material, leave_out, seconds, key=self._key)
            self.visitor.web.uploads.drop(self.visitor.user_id)
            ui.run_javascript("nanohydra.clear()")
            ui.navigate.to(f"/teach/{lesson.id}")

        await self.visitor.act(teach, "teach")


def _contradiction(fact: Fact, known: Known) -> None:
    since = f", since {day(datetime.fromisoformat(known.since))}" if known.since else ""
    with el("fieldset", "contradiction"):
        el("legend", text=fact.question)
        for keeps, answer, words in (("new", fact.answer, "new"), ("old", known.fact.answer, f"taught before{since}")):
            with el("label", "check"):
                el(
                    "input",
                    type="radio",
                    name=f"holds-{fact.key}",
                    data_keeps=keeps,
                    checked=keeps == "new",
                    **{"^value": fact.key},
                )
                with el("span"):
                    el("span", text=answer)
                    el("small", "soft", words)


def _new(facts: Sequence[Fact]) -> None:
    if facts:
        with el("div", "understood", role="group", aria_label="New"):
            el("h3", text=f"New: {counted(len(facts), 'fact')}")
            el("p", "soft", "Untick what is not to be taught.")
            for fact in facts:
                _fact(fact, fact.answer, True)


def _unsure(pairs: Sequence[tuple[Fact, Known]]) -> None:
    """Facts much like taught ones: a slip of the pen, or one more?"""
    if pairs:
        with el("div", "understood", role="group", aria_label="Not sure"):
            el("h3", text=f"Not sure: {counted(len(pairs), 'fact')}")
            el("p", "soft", "Much like what you taught before. Tick what is to be taught beside it.")
            for fact, known in pairs:
                _fact(fact, f"{fact.answer} You taught before: {known.fact.answer}", False)


def _fact(fact: Fact, words: str, ticked: bool) -> None:
    with el("label", "check"):
        el("input", type="checkbox", name="fact", checked=ticked, **{"^value": fact.key})
        with el("span"):
            el("span", text=fact.question)
            el("small", "soft", words)


def _passages(material: Any) -> None:
    """The text that facts were not drawn from is not lost: it is found when somebody asks about it."""
    if not material.passages:
        return
    with el("details"):
        el("summary", text=f"The whole text is kept for quotes: {counted(len(material.passages), 'passage')}")
        for passage in material.passages:
            with el("figure", "passage"):
                el("blockquote", text=passage.text)
                el("figcaption", "soft", passage.source)
