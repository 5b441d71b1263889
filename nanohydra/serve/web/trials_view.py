"""Trials between adapters: begun here, fed by thumbs in the chat, judged by a statistical test."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.concurrency import run_in_threadpool

from nanohydra.hydra.trials import verdict
from nanohydra.serve.web.lesson_words import counted, day
from nanohydra.serve.web.theme import button, choice, el, labelled
from nanohydra.serve.web.visitors import Visitor
from nanohydra.store import Trial

ARMS = ("a", "b")


class TrialsView:
    """The part of a page about trials."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.store = visitor.web.services.store
        self._chosen: dict[str, str] = {}
        self.box = el("section", "card", aria_label="Trials")

    async def show(self) -> None:
        """Reads the trials again."""
        adapters = await run_in_threadpool(self.store.adapters, self.visitor.user_id)
        found = await run_in_threadpool(self._read)
        self.box.clear()
        with self.box:
            el("h2", text="Trials")
            el(
                "p",
                "soft",
                "Which of two adapters is better? Each conversation meets one of them, by chance and for good, and the thumbs "
                "under its answers decide. A statistical test says what they show.",
            )
            for trial, shown in found:
                self._trial(trial, shown)
            self._form([adapter.name for adapter in adapters])

    def _read(self) -> list[tuple[Trial, Mapping[str, Any]]]:
        """The trials with their verdicts, as they ended or as of now."""
        user_id = self.visitor.user_id
        trials = self.store.trials(user_id)
        return [(trial, trial.verdict or verdict(self.store.votes(trial.id, user_id))) for trial in trials]

    def _trial(self, trial: Trial, shown: Mapping[str, Any]) -> None:
        with el("article", "trial", aria_label=trial.name):
            with el("div", "row"):
                el("h3", text=trial.name)
                words = f"ended on {day(trial.ended)}" if trial.ended else "running"
                el("span", "badge" if trial.ended else "badge good", words)
            with el("dl", "facts"):
                for arm in ARMS:
                    votes = shown["arms"][arm]
                    el("dt", text=f"{arm}: {getattr(trial, arm) or 'the base'}")
                    liked = f", {votes['value']:.0%} liked" if votes["n"] else ""
                    el("dd", text=counted(votes["n"], "vote") + liked)
            el("p", text=shown["text"])
            if not trial.ended:
                with el("div"):
                    button("End it", on_click=lambda: self._end(trial.id), aria_label=f"End {trial.name}")

    def _form(self, names: list[str]) -> None:
        if not names:
            return
        options = {"": "the base"} | {name: name for name in names}
        self._chosen = {"a": "", "b": names[-1]}
        with el("div", "row last trial-form"):
            with labelled("New trial"):
                el("input", type="text", name="trial", maxlength=120, placeholder="Is it better with it?")
            for arm in ARMS:
                with labelled(arm):
                    choice(options, self._chosen[arm], lambda name, arm=arm: self._chosen.update({arm: name}))
            begin = button("Begin", "plus")
        take = "e => emit(e.target.closest('.trial-form').querySelector('input').value.trim())"
        begin.on("click", self._begin, js_handler=take)

    async def _begin(self, event: Any) -> None:
        async def begin() -> None:
            a, b = (self._chosen[arm] or None for arm in ARMS)
            name = str(event.args) or f"{b or 'base'} against {a or 'base'}"
            await run_in_threadpool(self.store.add_trial, self.visitor.user_id, name, a, b)
            await self.show()

        await self.visitor.act(begin, "teach")

    async def _end(self, trial_id: int) -> None:
        async def end() -> None:
            user_id = self.visitor.user_id
            shown = verdict(await run_in_threadpool(self.store.votes, trial_id, user_id))
            await run_in_threadpool(self.store.end_trial, trial_id, user_id, shown)
            await self.show()

        await self.visitor.act(end, "teach")
