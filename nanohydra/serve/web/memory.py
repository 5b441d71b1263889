"""The memory page: what is known, the lessons behind it, and everything that happened, with what undoes it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from itertools import groupby
from typing import Any

from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from nanohydra.hydra import history
from nanohydra.serve.web.icons import icon
from nanohydra.serve.web.lesson_view import badge, call, fact_row
from nanohydra.serve.web.lesson_words import OPEN, counted, day
from nanohydra.serve.web.theme import BUILD_SECONDS, Dialog, button, el, empty, page, raw, sheet, toast
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of
from nanohydra.store import Lesson

LOOK_SECONDS = 2.0
SHOWN = 60
"""Facts shown at once; others are found by searching."""
LINES = 40
"""Lines of the history shown at first, and more at each wish."""
_LEAD = "What was taught, what holds now and what held before. Everything can be undone."
_COLUMNS = (("Lesson", ""), ("State", ""), ("Facts", "number"), ("Adapter", "wide"), ("When", "wide"))
_SYMBOLS = {
    "taught": "plus",
    "published": "check",
    "rejected": "close",
    "failed": "close",
    "cancelled": "stop",
    "requeued": "again",
    "reverted": "undo",
    "probed": "search",
    "faded": "down",
    "trial": "models",
    "trial ended": "models",
    "forgot": "trash",
    "shared": "share",
    "unshared": "share",
}


@ui.page("/memory", title="Memory · nanohydra", response_timeout=BUILD_SECONDS)
async def memory_page(request: Request) -> Response | None:
    """Facts, lessons, history."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    with page("memory", visitor.principal.name, visitor.principal.token_id is not None), sheet("Memory", _LEAD):
        await MemoryPage(visitor).build()
    return None


class MemoryPage:
    """One open page."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.store = visitor.web.services.store
        self.about = ""
        self.past = False
        self.lines = LINES
        self._seen: Any = None

    async def build(self) -> None:
        """Fills the page, and keeps it up to date."""
        if self.visitor.refused("teach"):
            return
        with el("section", "card", aria_label="What is known"):
            el("h2", text="What is known")
            with el("div", "row last"):
                with el("div", "search", role="search"):
                    raw(icon("search"), tag="span")
                    field = el(
                        "input", type="search", placeholder="About whom, or what?", aria_label="What is known about"
                    )
                with el("label", "check"):
                    box = el("input", type="checkbox")
                    el("span", text="also what no longer holds")
            self.facts = el("div", "facts-list", aria_live="polite")
        field.on("input", self._search, js_handler="e => emit(e.target.value)", throttle=0.25, leading_events=False)
        box.on("change", self._with_past, js_handler="e => emit(e.target.checked)")
        with el("div", "head"):
            el("h2", text="Lessons")
            el("a", "primary", "Teach something", href="/teach")
        self.lessons = el("div", "stack")
        el("h2", text="History")
        self.timeline = el("section", "card", aria_label="History")
        self.dialogs = el("div")
        await self._look()
        self.visitor.watch(LOOK_SECONDS, self._look, "teach")

    async def _look(self) -> None:
        """Shows what has changed since the last look."""
        lessons = await run_in_threadpool(self.store.lessons, self.visitor.user_id)
        version = await run_in_threadpool(self.store.version)
        seen = (version, [(one.id, one.state, one.cancel) for one in lessons])
        if seen != self._seen:
            self._seen = seen
            self._lessons = {lesson.id: lesson for lesson in lessons}
            await self._show_facts()
            await self._show_lessons()
            await self._show_timeline()

    async def _fresh(self) -> None:
        self._seen = None
        await self._look()

    # -- facts --------------------------------------------------------------------------------------------------------

    async def _search(self, event: Any) -> None:
        self.about = str(event.args).strip()
        await self.visitor.act(self._show_facts, "teach")

    async def _with_past(self, event: Any) -> None:
        self.past = bool(event.args)
        await self.visitor.act(self._show_facts, "teach")

    async def _show_facts(self) -> None:
        found, newer = await run_in_threadpool(self._find)
        self.facts.clear()
        with self.facts:
            for fact in found[:SHOWN]:
                lesson = self._lessons.get(fact["lesson"])
                foot = fact_row(fact, newer.get(fact["superseded_by"]), lesson.name if lesson else "a lesson")
                if lesson is not None and fact["valid_until"] is None and self._mine(lesson):
                    with foot:
                        button(
                            "Forget",
                            on_click=lambda f=fact: self._ask_forget(f),
                            aria_label=f"Forget: {fact['question']}",
                        )
            if not found:
                el("p", "soft", f"Nothing is known about “{self.about}”." if self.about else "Nothing was taught yet.")
            elif len(found) > SHOWN:
                el("p", "soft", f"{len(found) - SHOWN} more: search for them.")

    def _find(self) -> tuple[list[dict[str, Any]], dict[int, str]]:
        """The facts to show, newest first, and the values of those that took another's place, by id."""
        user_id = self.visitor.user_id
        every = self.store.facts(user_id, current=False)
        found = history.known(self.store, user_id, self.about, self.past)
        if self.past and not self.about:
            found += [history.fact_data(fact) for fact in reversed(every) if fact.forgotten]
        return found, {fact.id: fact.value for fact in every if not fact.forgotten}

    def _mine(self, lesson: Lesson) -> bool:
        return lesson.user_id == self.visitor.user_id and self.visitor.may("teach")

    def _ask_forget(self, fact: Mapping[str, Any]) -> None:
        lesson = self._lessons[fact["lesson"]]
        with self._dialog("Forget this?") as dialog:
            el("blockquote", text=fact["answer"])
            el(
                "p",
                text="From now on no answer quotes it, and the sentence is struck out of the text it was taken from.",
            )
            if lesson.state == "published":
                el(
                    "p",
                    text=f"The model knows it by heart from “{lesson.name}”: that adapter is taken away at once, and the "
                    "lesson is learned again without this fact. Until then the rest of it is quoted.",
                )
            el("p", text="This cannot be undone.")
            with el("div", "row end"):
                button("Forget", classes="danger", on_click=lambda: self._forget(dialog, fact))
        dialog.open()

    async def _forget(self, dialog: Dialog, fact: Mapping[str, Any]) -> None:
        dialog.close()

        async def forget() -> None:
            await call(self.visitor, "forget", [fact["id"]], "", "asked for on the page")
            toast("Forgotten.")
            await self._fresh()

        await self.visitor.act(forget, "teach")

    # -- lessons ------------------------------------------------------------------------------------------------------

    async def _show_lessons(self) -> None:
        briefs = await run_in_threadpool(history.lessons, self.store, self.visitor.user_id)
        due = await run_in_threadpool(self._due)
        self.lessons.clear()
        with self.lessons:
            if not briefs:
                empty("No lessons yet.")
                return
            with el("section", "card", aria_label="Lessons"), el("div", "scroll-x", tabindex="0"), el("table", "table"):
                with el("thead"), el("tr"):
                    for title, kind in _COLUMNS:
                        el("th", kind, title, scope="col")
                with el("tbody"):
                    for brief in briefs:
                        self._lesson(brief)
            self._upkeep(due)

    def _lesson(self, brief: Mapping[str, Any]) -> None:
        lesson = self._lessons.get(brief["id"])
        if lesson is None:
            return
        with el("tr"):
            with el("td"):
                el("a", text=lesson.name, href=f"/teach/{lesson.id}")
                if lesson.kind == "consolidation":
                    el("small", "soft", "consolidation")
                if lesson.shared:
                    el("small", "soft", "shared by you" if brief["mine"] else "shared with you")
            with el("td"):
                badge(lesson)
            el("td", "number", str(brief["facts"]))
            with el("td", "wide"):
                if lesson.adapter:
                    el("code", "command", lesson.adapter)
            el("td", "soft wide", day(lesson.finished or lesson.created))

    def _due(self) -> int:
        """How many of the visitor's own facts are due to be asked again."""
        mine = {lesson.id for lesson in self._lessons.values() if lesson.user_id == self.visitor.user_id}
        return sum(fact.lesson_id in mine for fact in self.store.due(datetime.now().astimezone()))

    def _upkeep(self, due: int) -> None:
        """Consolidation and re-tests, by hand; both are done by night, too."""
        mine = [lesson for lesson in self._lessons.values() if self._mine(lesson)]
        learned = [lesson for lesson in mine if lesson.state == "published" and lesson.kind == "lesson"]
        if not learned:
            return
        with el("div", "cards broad"):
            with el("section", "card", aria_label="Re-tests"):
                el("h3", text="Ask again")
                words = (
                    f"{counted(due, 'fact')} {'is' if due == 1 else 'are'} due to be asked again."
                    if due
                    else "No fact is due."
                )
                el("p", "soft", f"{words} What fades is taught again by itself.")
                with el("div"):
                    button("Ask now", on_click=self._retest, classes="quiet second")
            with el("section", "card", aria_label="Consolidation"):
                el("h3", text="Consolidate")
                el(
                    "p",
                    "soft",
                    "One adapter that knows all of your lessons, through the same exam. The old ones stay, and it can be reverted.",
                )
                busy = any(lesson.kind == "consolidation" and lesson.state in OPEN for lesson in mine)
                with el("div"):
                    able = not busy and len(learned) > 1
                    button("Consolidate", on_click=self._consolidate, classes="quiet second", disabled=not able)

    async def _retest(self) -> None:
        async def ask() -> None:
            await call(self.visitor, "retest")
            toast("They are asked as soon as no lesson is being learned. The history will tell.")

        await self.visitor.act(ask, "teach")

    async def _consolidate(self) -> None:
        async def ask() -> None:
            lesson = await call(self.visitor, "consolidate")
            ui.navigate.to(f"/teach/{lesson.id}")

        await self.visitor.act(ask, "teach")

    # -- history ------------------------------------------------------------------------------------------------------

    async def _show_timeline(self) -> None:
        lines = await run_in_threadpool(history.log, self.store, self.visitor.user_id, self.lines + 1)
        self.timeline.clear()
        with self.timeline:
            for date, group in groupby(lines[: self.lines], key=lambda line: day(datetime.fromisoformat(line["at"]))):
                el("h3", text=date)
                with el("ol", "timeline"):
                    for line in group:
                        _line(line)
            if not lines:
                el("p", "soft", "Nothing has happened yet.")
            elif len(lines) > self.lines:
                with el("div"):
                    button("Earlier", "down", self._more)

    async def _more(self) -> None:
        self.lines += LINES
        await self.visitor.act(self._show_timeline, "teach")

    def _dialog(self, title: str) -> Dialog:
        self.dialogs.clear()
        with self.dialogs:
            return Dialog(title)


def _line(line: Mapping[str, Any]) -> None:
    with el("li", line["kind"].replace(" ", "-")):
        raw(icon(_SYMBOLS.get(line["kind"], "info")), tag="span")
        el("time", "soft", f"{datetime.fromisoformat(line['at']).astimezone():%H:%M}", datetime=line["at"])
        with el("span"):
            if line["lesson"] is None:
                el("span", text=line["text"])
            else:
                el("a", text=line["text"], href=f"/teach/{line['lesson']}")
            if not line["mine"]:
                el("small", "soft", "shared with you")
