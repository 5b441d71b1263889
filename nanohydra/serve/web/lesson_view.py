"""One lesson on a page: what it is at, what it taught, its receipt, and what can be done with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from nicegui import ui
from nicegui.element import Element
from starlette.concurrency import run_in_threadpool

from nanohydra.errors import UserError
from nanohydra.hydra import history
from nanohydra.serve.web.lesson_words import (
    BADGES,
    MEANINGS,
    OPEN,
    STAGES,
    STATES,
    counted,
    day,
    duration,
    fact_state,
    minute,
    stage_of,
)
from nanohydra.serve.web.receipt_view import advice, receipt_view
from nanohydra.serve.web.theme import Dialog, button, el, toast
from nanohydra.serve.web.visitors import Visitor
from nanohydra.store import Lesson, NotFound

LOOK_SECONDS = 1.0
NO_TEACHING = "This server does not teach: it was started with --teach=false, or its extra is not installed."
AGAIN = (2, 5, 10)
"""Minutes that a lesson may be given when it is learned once more."""


def lesson_card(lesson: Lesson) -> None:
    """A lesson in a list."""
    with el("article", "card", aria_label=lesson.name):
        with el("div", "row"):
            with el("h3"):
                el("a", text=lesson.name, href=f"/teach/{lesson.id}")
            badge(lesson)
        if lesson.state in OPEN:
            progress_bar(lesson)
        else:
            el("p", "soft", f"{day(lesson.finished or lesson.created)} · {lesson.base_name}")


def badge(lesson: Lesson) -> None:
    """A lesson's state."""
    words = STATES[lesson.state] if not lesson.cancel else "stopping"
    el("span", BADGES.get(lesson.state, "badge"), words)


def progress_bar(lesson: Lesson) -> None:
    """How far a lesson is, in words and as a bar."""
    progress = lesson.progress
    at = stage_of(progress)
    if lesson.state == "queued":
        words = "Waits for its turn."
    elif at < 0:
        words = str(progress.get("detail") or "Starting.")
    else:
        words = f"{STAGES[at][1]}: {progress['step']:,} of {progress['of']:,}"
        if left := progress.get("seconds_left"):
            words += f" · at most {duration(left)} left"
    share = None if at < 0 or not progress.get("of") else min(1.0, progress["step"] / progress["of"])
    el("p", "soft", words, role="status")
    el("progress", max=1, value=share, aria_label=f"Learning {lesson.name}")


class LessonPage:
    """One open page. It shows the lesson's row, and reads it again as long as the page is open."""

    def __init__(self, visitor: Visitor, lesson: Lesson) -> None:
        self.visitor = visitor
        self.store = visitor.web.services.store
        self.lesson = lesson
        self._seen: Any = None

    @property
    def mine(self) -> bool:
        """Whether the visitor may change it."""
        return self.lesson.user_id == self.visitor.user_id and self.visitor.may("teach")

    async def build(self) -> None:
        """Fills the page."""
        self.state = el("div", "stack")
        self.rest = el("div", "stack")
        self.ask = el("div")
        await self._look()
        self.visitor.watch(LOOK_SECONDS, self._look, "teach")

    async def _look(self) -> None:
        try:
            self.lesson = await run_in_threadpool(self.store.lesson, self.lesson.id, self.visitor.user_id)
        except NotFound:
            ui.navigate.to("/memory")
            return
        lesson = self.lesson
        state = (lesson.state, lesson.cancel, lesson.shared, lesson.attempt)
        if self._seen is None or self._seen[0] != state:
            await self._show_rest()
        if self._seen != (state, lesson.progress):
            self._seen = (state, dict(lesson.progress))
            self._show_state()

    # -- what it is at ------------------------------------------------------------------------------------------------

    def _show_state(self) -> None:
        lesson = self.lesson
        self.state.clear()
        with self.state, el("section", "card", aria_label="State"):
            with el("div", "row"):
                badge(lesson)
                el("span", "soft", self._when())
            el("p", text=MEANINGS[lesson.state])
            if lesson.state == "running":
                _stages(lesson.progress)
            if lesson.state in OPEN:
                progress_bar(lesson)
                el("p", "good-news", "You can ask about it already: answers quote what you taught, with a number.")
            elif lesson.error:
                el("p", "finding", lesson.error)
            with el("div", "row actions"):
                self._actions()

    def _when(self) -> str:
        lesson = self.lesson
        if lesson.state == "running" and lesson.attempt > 1:
            return f"try {lesson.attempt}"
        if lesson.state in OPEN or lesson.finished is None:
            return f"taught on {minute(lesson.created)}"
        return f"on {minute(lesson.finished)}"

    def _actions(self) -> None:
        lesson = self.lesson
        if lesson.state != "reverted":
            el("a", "primary", "Ask about it", href="/?ask=" + quote(self._question()))
        if not self.mine:
            return
        if lesson.state in OPEN and not lesson.cancel:
            button("Cancel", "stop", lambda: self._do("cancel"), classes="quiet second")
        if lesson.state in ("rejected", "failed", "cancelled"):
            with el("span", "row", role="group", aria_label="Learn it once more"):
                el("span", "soft", "Learn it once more, in")
                for minutes in AGAIN:
                    button(f"{minutes} minutes", on_click=lambda m=minutes: self._again(m), classes="quiet second")
        if lesson.state not in ("reverted", *OPEN):
            words = "Stop sharing" if lesson.shared else "Share"
            button(words, "share", lambda: self._do("share", not lesson.shared), classes="quiet second")
        if lesson.state != "reverted":
            button("Revert", "undo", self._ask_revert, classes="quiet danger-text pushed")

    def _question(self) -> str:
        questions = (fact["question"] for fact in self._facts if fact["valid_until"] is None)
        return next(questions, f"What do you know about {self.lesson.name}?")

    # -- what it taught -----------------------------------------------------------------------------------------------

    async def _show_rest(self) -> None:
        shown = await run_in_threadpool(history.show, self.store, self.lesson.id, self.visitor.user_id)
        changes = await run_in_threadpool(self._newer, shown["facts"])
        self._facts = shown["facts"]
        self.rest.clear()
        with self.rest:
            if receipt := shown["receipt"]:
                if words := advice(receipt):
                    with el("section", "card", aria_label="What can be done"):
                        el("h2", text="What can be done")
                        el("p", text="Nothing is lost: answers quote your own words, with a number that leads to them.")
                        with el("ul"):
                            for word in words:
                                el("li", text=word)
                receipt_view(receipt)
            if shown["facts"]:
                with el("section", "card", aria_label="Facts"):
                    el("h2", text=f"What it taught: {counted(len(shown['facts']), 'fact')}")
                    for fact in shown["facts"]:
                        fact_row(fact, changes.get(fact["superseded_by"]))
            if shown["passages"]:
                with el("details", "card"):
                    el("summary", text=f"The text it was taken from ({counted(len(shown['passages']), 'passage')})")
                    for passage in shown["passages"]:
                        passage_figure(passage)

    def _newer(self, facts: Sequence[Mapping[str, Any]]) -> dict[int, str]:
        """The values that took the place of these facts', by the new facts' ids."""
        ids = {fact["superseded_by"] for fact in facts} - {None}
        user_id = self.visitor.user_id
        return {fact.id: fact.value for fact in self.store.facts(user_id, current=False) if fact.id in ids}

    # -- what can be done ---------------------------------------------------------------------------------------------

    async def _do(self, name: str, *arguments: Any) -> None:
        async def work() -> None:
            await call(self.visitor, name, self.lesson.id, *arguments)
            await self._look()

        await self.visitor.act(work, "teach")

    async def _again(self, minutes: int) -> None:
        await self._do("again", 60.0 * minutes)

    def _ask_revert(self) -> None:
        self.ask.clear()
        with self.ask:
            dialog = Dialog(f"Revert “{self.lesson.name}”?")
        with dialog:
            el("p", text="The model loses what this lesson taught, and nothing else; so does its memory for quotes.")
            el("p", text="Facts that it replaced hold again. The history keeps a line that says so.")
            with el("div", "row end"):
                button("Revert", classes="danger", on_click=lambda: self._revert(dialog))
        dialog.open()

    async def _revert(self, dialog: Dialog) -> None:
        dialog.close()
        await self._do("revert")
        toast("Reverted.")


def fact_row(fact: Mapping[str, Any], newer: str | None = None, lesson: str | None = None) -> Element:
    """One fact with its dates. newer: what holds in its place. lesson: its lesson's name, where the page is not the lesson's.
    Returns the row's foot, for what a page adds to it."""
    style, words = fact_state(fact, newer)
    with el(
        "div", "fact" + ("" if fact["valid_until"] is None else " past"), role="group", aria_label=fact["question"]
    ):
        with el("div"):
            el("p", text=fact["question"] or "A forgotten fact")
            if fact["answer"]:
                el("p", "soft", fact["answer"])
        with el("div", "fact-foot") as foot:
            el("span", style, words)
            if lesson is not None:
                el("a", "soft", lesson, href=f"/teach/{fact['lesson']}")
    return foot


def passage_figure(passage: Mapping[str, Any]) -> None:
    """A passage as it was given, with where it is from."""
    with el("figure", "passage"):
        el("blockquote", text=passage["text"] or "(forgotten)")
        el("figcaption", "soft", passage["source"])


def _stages(progress: Mapping[str, Any]) -> None:
    at = stage_of(progress)
    with el("ol", "stages", aria_label="Stages"):
        for i, (_, title) in enumerate(STAGES):
            style = "done" if i < at else "now" if i == at else ""
            el("li", style, title, aria_current="step" if i == at else None)


async def call(visitor: Visitor, name: str, *arguments: Any, **named: Any) -> Any:
    """Asks the server's teaching for something, in the visitor's name. UserError, ApiError."""
    learning = visitor.web.services.learning
    if learning is None:
        raise UserError(NO_TEACHING)
    return await run_in_threadpool(getattr(learning, name), visitor.principal, *arguments, **named)
