"""The forgetting page: whether what was taught is still known, after every later lesson, and what each lesson cost."""

from __future__ import annotations

from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from nanohydra.serve.web.charts import Series, data_table, line_chart
from nanohydra.serve.web.forgetting_data import Forgetting, Stage, forgetting_of
from nanohydra.serve.web.theme import BUILD_SECONDS, el, empty, page, raw, sheet
from nanohydra.serve.web.trials_view import TrialsView
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of

LOOK_SECONDS = 3.0
_WAYS = (("routed", "as you meet it"), ("forced", "always on"))
_LEAD = "Is what was taught still known after the lessons that came later, and did the model lose anything else?"


@ui.page("/forgetting", title="Forgetting · nanohydra", response_timeout=BUILD_SECONDS)
async def forgetting_page(request: Request) -> Response | None:
    """The R matrix, curves, trials."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    with (
        page("forgetting", visitor.principal.name, visitor.principal.token_id is not None),
        sheet("Forgetting", _LEAD),
    ):
        await ForgettingPage(visitor).build()
    return None


class ForgettingPage:
    """One open page."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.store = visitor.web.services.store
        self._seen = -1

    async def build(self) -> None:
        """Fills the page, and keeps it up to date."""
        if self.visitor.refused("teach"):
            return
        self.measured = el("div", "stack")
        self.trials = TrialsView(self.visitor)
        await self._look()
        await self.trials.show()
        self.visitor.watch(LOOK_SECONDS, self._look, "teach")

    async def _look(self) -> None:
        """Shows the receipts there are, where lessons have changed since the last look."""
        version = await run_in_threadpool(self.store.version)
        if version == self._seen:
            return
        self._seen = version
        base = self.visitor.web.services.engine.base
        lessons = await run_in_threadpool(self.store.lessons, self.visitor.user_id, "published")
        found = forgetting_of(lessons, base.base_id if base else None)
        self.measured.clear()
        with self.measured:
            if not found.columns:
                empty(
                    "Nothing was learned yet. Each lesson's exam will be drawn here, and each later lesson's beside it."
                )
                el("a", "primary", "Teach something", href="/teach")
            else:
                _summary(found)
                _matrix(found)
                if len(found.stages) > 1:
                    _curves(found)
                else:
                    el("p", "soft", "The curves begin with the second lesson.")


def _summary(found: Forgetting) -> None:
    with el("dl", "tiles"):
        for title, share, meaning in (
            ("Known now", found.last, "of what the lessons taught, in wordings never learned from"),
            ("Forgotten", found.forgotten, "of what was known before, lost to later lessons"),
            (
                "Drift",
                _last(found.measured("drift", _WAYS[:1])),
                "rise of perplexity on a general text, as you meet it",
            ),
        ):
            with el("div", "card"):
                el("dt", text=title)
                el("dd", "big", "–" if share is None else f"{share:z.1%}")
                el("dd", "soft", meaning)


def _last(series: list[Series]) -> float | None:
    points = [y for s in series for _, y in s.points[-1:]]
    return points[0] / 100 if points else None


def _matrix(found: Forgetting) -> None:
    """Recall of each lesson (columns) after each lesson (rows): what is lost shows as a column that fades downward."""
    with el("section", "card", aria_label="Recall after each lesson"):
        el("h2", text="Recall after each lesson")
        el("p", "soft", "Read a column downward: it is one lesson's recall, right after it and after each later one.")
        with el("div", "scroll-x", tabindex="0"), el("table", "table matrix"):
            el("caption", "unseen", "Recall of each lesson after each lesson")
            with el("thead"), el("tr"):
                el("th", text="after", scope="col")
                for i, lesson in enumerate(found.columns, 1):
                    with el("th", "number", scope="col"):
                        el("a", text=f"{i}. {lesson.name}", href=f"/teach/{lesson.id}", title=lesson.name)
            with el("tbody"):
                for number, stage in enumerate(found.stages, 1):
                    _row(stage, number)


def _row(stage: Stage, number: int) -> None:
    with el("tr"):
        with el("th", scope="row"):
            el("a", text=f"{number}. {stage.lesson.name}", href=f"/teach/{stage.lesson.id}")
        for value in stage.recall:
            if value is None:
                el("td", "number soft", "·", aria_label="not measured")
            else:
                # The colour says it again: the number is what counts.
                el("td", "number cell" + (" low" if value < 0.9 else ""), f"{value:.0%}", style=f"--share: {value:.2f}")


def _curves(found: Forgetting) -> None:
    recall = [series for series in found.series() if series.points]
    words = "Each line is one lesson, asked again after every later lesson."
    _curve("Recall over time", words, recall, "recall (%)", (0, 100))
    (strangers,) = found.measured("false_attributions", [("routed", "taught values given to strangers")])
    (kept,) = found.measured("general", [("routed", "general answers lost")])
    wrong = [strangers, Series(kept.name, [(x, 100 - y) for x, y in kept.points], 1)]
    with el("div", "cards broad"):
        words = "How much worse the model reads a general text, in percent of perplexity. Below 0 it reads it better."
        _curve("Drift", words, found.measured("drift", _WAYS), "", (0, 1))
        words = "Percent of strangers with names like the taught ones that got a taught answer, and of general answers lost."
        _curve("Routing errors", words, wrong, "", (0, 5))


def _curve(title: str, words: str, series: list[Series], y_label: str, show_y: tuple[float, float]) -> None:
    """A chart with its words and its table; without a `y_label` a small one."""
    with el("section", "card", aria_label=title):
        el("h2", text=title)
        el("p", "soft", words)
        raw(line_chart(series, "lesson", y_label, small=not y_label, whole_x=True, show_y=show_y))
        raw(data_table(series, "lesson", "%"))
