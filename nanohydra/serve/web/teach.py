"""The teach page: what is to be known, as text, as pairs or as a file; what was understood of it; and the lessons under way."""

from __future__ import annotations

from typing import Any

from nicegui import app as toolkit
from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from nanohydra.errors import UserError
from nanohydra.serve.web.lesson_view import NO_TEACHING, LessonPage, lesson_card
from nanohydra.serve.web.lesson_words import OPEN
from nanohydra.serve.web.teach_preview import Preview
from nanohydra.serve.web.theme import BUILD_SECONDS, button, el, empty, labelled, page, sheet
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of
from nanohydra.store import NotFound

LOOK_SECONDS = 1.0
_FORMS = (("text", "Text"), ("pairs", "Questions and answers"), ("file", "A file"))
_LEAD = (
    "Write down what the model should know. It answers from your words at once and says so; it also learns them by heart, "
    "and keeps that only if it passes an exam and has lost nothing else."
)
_EXAMPLE = "Mira Solberg was born in Trondheim. Her favourite tea is fennel tea. She works as a glass blower in Bergen."
_FILES = "Text, Markdown, PDF, HTML, CSV (a column each for question and answer) or JSON lines."
_KINDS = ".txt,.md,.pdf,.html,.htm,.csv,.jsonl"


@ui.page("/teach", title="Teach · nanohydra", response_timeout=BUILD_SECONDS)
async def teach_page(request: Request) -> Response | None:
    """Something new."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    signed_in = visitor.principal.token_id is not None
    with page("teach", visitor.principal.name, signed_in), sheet("Teach", _LEAD):
        await TeachPage(visitor).build()
    return None


@ui.page("/teach/{lesson_id}", title="Lesson · nanohydra", response_timeout=BUILD_SECONDS)
async def lesson_page(request: Request, lesson_id: int) -> Response | None:
    """One lesson."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    with page("teach", visitor.principal.name, visitor.principal.token_id is not None):
        try:
            lesson = await run_in_threadpool(visitor.web.services.store.lesson, lesson_id, visitor.user_id)
        except NotFound as e:
            with sheet("No such lesson"):
                empty(str(e))
                el("a", "primary", "To your lessons", href="/memory")
            return None
        with sheet(lesson.name if visitor.may("teach") else "Lesson"):
            if not visitor.refused("teach"):
                await LessonPage(visitor, lesson).build()
    return None


@toolkit.post("/teach/file", include_in_schema=False)
async def upload(request: Request, name: str = "file") -> Response:
    """Takes in a file (the body), whose name is in the query. The server's bound on bodies holds here, too."""
    visitor = await visitor_of(request)
    if visitor is None or not visitor.may("teach"):
        return JSONResponse({"error": {"message": "Sign in with a token that may teach."}}, 403)
    own = name.replace("\\", "/").rpartition("/")[2][:200]
    kept = visitor.web.uploads.keep(visitor.user_id, own, await request.body())
    return JSONResponse({"id": kept.id})


class TeachPage:
    """One open page. Nothing is taught before its preview was seen."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self._seen: Any = None

    async def build(self) -> None:
        """Fills the page."""
        if self.visitor.refused("teach"):
            return
        if self.visitor.web.services.learning is None:
            el("p", "finding", NO_TEACHING)
        else:
            self._form()
            self.preview = Preview(self.visitor)
        self.under_way = el("section", "stack", aria_label="Under way")
        await self._look()
        self.visitor.watch(LOOK_SECONDS, self._look, "teach")

    def _form(self) -> None:
        with el("section", "card lesson-form", aria_label="What to teach", data_lesson=""):
            with el("div", "tabs", role="tablist", aria_label="How to write it"):
                for form, title in _FORMS:
                    chosen = "true" if form == "text" else "false"
                    el(
                        "button",
                        "quiet",
                        title,
                        type="button",
                        role="tab",
                        id_=f"tab-{form}",
                        data_tab=form,
                        aria_selected=chosen,
                        aria_controls=f"form-{form}",
                        tabindex="0" if form == "text" else "-1",
                    )
            with self._panel("text"), labelled("Text", "Short, plain sentences with names are understood best."):
                el("textarea", rows=7, name="text", placeholder=_EXAMPLE, data_draft="teach")
            with self._panel("pairs"):
                self.pairs = el("div", "pairs")
                for _ in range(2):
                    self._pair()
                with el("div"):
                    button("Another pair", "plus", on_click=self._pair)
            with self._panel("file"), labelled("File", _FILES):
                el("input", type="file", name="file", accept=_KINDS)
            with el("div", "row last"):
                with labelled("Name of the lesson (optional)"):
                    el("input", type="text", name="name", maxlength=120, placeholder="About Mira", autocomplete="off")
                go = button("Look at it", "search", classes="primary")
        go.on(
            "click",
            self._take,
            js_handler="async () => { const lesson = await nanohydra.lesson(); if (lesson) emit(lesson); }",
        )

    def _panel(self, form: str) -> Any:
        return el(
            "div",
            "form-part",
            role="tabpanel",
            id_=f"form-{form}",
            aria_labelledby=f"tab-{form}",
            hidden=form != "text",
        )

    def _pair(self) -> None:
        number = len(self.pairs.default_slot.children) + 1
        with self.pairs, el("div", "pair", role="group", aria_label=f"Pair {number}"):
            for name, title, example in (
                ("question", "Question", "Where was Mira Solberg born?"),
                ("answer", "Answer", "Mira Solberg was born in Trondheim."),
            ):
                with labelled(title):
                    el("input", type="text", name=name, placeholder=example if number == 1 else "", autocomplete="off")

    async def _take(self, event: Any) -> None:
        given = event.args
        pairs = [(str(q).strip(), str(a).strip()) for q, a in given.get("pairs", ())]
        pairs = [pair for pair in pairs if any(pair)]

        async def take() -> None:
            file = None
            if given.get("file"):
                kept = self.visitor.web.uploads.of(self.visitor.user_id, str(given["file"]))
                if kept is None:
                    raise UserError("The file is not here any more. Choose it again.")
                file = (kept.name, kept.content)
            if not all(map(all, pairs)):
                raise UserError("A pair has a question and an answer. Fill in both, or empty both.")
            await self.preview.show(str(given.get("text", "")), pairs, file, str(given.get("name", "")))

        await self.visitor.act(take, "teach")

    async def _look(self) -> None:
        """Shows the lessons under way, and the last ones that ended."""
        lessons = await run_in_threadpool(self.visitor.web.services.store.lessons, self.visitor.user_id)
        mine = [lesson for lesson in lessons if lesson.user_id == self.visitor.user_id]
        shown = [lesson for lesson in mine if lesson.state in OPEN] + [
            lesson for lesson in mine if lesson.state not in OPEN
        ][:3]
        state = [(lesson.id, lesson.state, lesson.progress, lesson.name) for lesson in shown]
        if state == self._seen:
            return
        self._seen = state
        self.under_way.clear()
        if shown:
            with self.under_way:
                el("h2", text="Your latest lessons")
                with el("div", "cards"):
                    for lesson in shown:
                        lesson_card(lesson)
                with el("p"):
                    el("a", text="All lessons, and what is known", href="/memory")
