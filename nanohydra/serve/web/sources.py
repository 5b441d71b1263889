"""Where an answer came from: its adapter, why it was chosen, and the numbered sources with the passages behind them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from nanohydra.serve.web.icons import icon
from nanohydra.serve.web.lesson_words import day
from nanohydra.serve.web.theme import Dialog, el, raw
from nanohydra.store import NotFound, Store

if TYPE_CHECKING:
    from nanohydra.serve.web.chat import ChatPage

_CODE_OR_TAG = re.compile(r"<(pre|code)\b.*?</\1>|<[^>]*>", re.DOTALL)
_MARK = re.compile(r"\[(\d{1,3})\]")
_WHO = {
    "weights": "Learned by heart",
    "quote": "Quoted from what was taught",
    "reading": "Read in what was taught",
    "base": "The base alone",
}


def sources_of(provenance: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The numbered sources of an answer."""
    return provenance.get("sources") or ()


def linked(html: str, sources: Sequence[Mapping[str, Any]]) -> str:
    """The HTML of an answer with each [1] made a link to its source's chip, where there is one; code stays as it is."""
    numbers = {str(source["n"]) for source in sources}
    if not numbers:
        return html

    def link(match: re.Match[str]) -> str:
        n = match[1]
        label = f'role="button" data-cite="{n}" aria-label="Source {n}"'
        return f'<a class="cite" href="#source-{n}" {label}>[{n}]</a>' if n in numbers else match[0]

    parts, at = [], 0
    for kept in _CODE_OR_TAG.finditer(html):
        parts += [_MARK.sub(link, html[at : kept.start()]), kept[0]]
        at = kept.end()
    return "".join(parts) + _MARK.sub(link, html[at:])


def chips(page: ChatPage, provenance: Mapping[str, Any]) -> None:
    """A row of chips: who answered, why, and the numbered sources. Nothing for answers from before there were lessons."""
    mode, adapter, route = provenance.get("mode"), provenance.get("adapter"), provenance.get("route") or {}
    if mode is None and not adapter:
        return
    with el("div", "chips", role="group", aria_label="Where this answer comes from"):
        lesson = provenance.get("lesson")
        words = _WHO.get(mode or "", "Adapter of your choice")
        if provenance.get("overruled"):
            words = f"Quoted, since {provenance['overruled']} did not tell it"
        if "trial" in provenance:  # who answers is not told, lest it sway the thumbs
            words, adapter, lesson = f"Part of the trial “{provenance['trial']['name']}”", None, None
        with el(
            "a" if lesson else "span", "chip from" + (" taught" if lesson else ""), href=lesson and f"/teach/{lesson}"
        ):
            raw(icon("teach" if lesson else "models"), tag="span")
            el("span", text=f"{words}: {adapter}" if adapter else words)
        if route.get("evidence"):
            el("span", "chip why", f"{route['evidence']}", title=f"Fit of the best fact: {route['score']:.0%}")
        for source in sources_of(provenance):
            with el("button", "chip", type="button", data_source=str(source["n"])) as made:
                el("b", text=f"[{source['n']}]")
                el("span", text=source["where"])
            made.on("click", lambda source=source: page.show_source(source), args=[])


class SourceDialog:
    """Shows what stands behind a chip."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._dialog = Dialog("Source")

    async def show(self, source: Mapping[str, Any], user_id: int) -> None:
        """Opens it on a source of an answer."""
        passage, state = await run_in_threadpool(self._behind, source, user_id)
        self._dialog.body.clear()
        with self._dialog:
            el("p", text=source["text"])
            if passage and passage.strip() != source["text"].strip():
                with el("figure", "passage"):
                    el("blockquote", text=passage)
                    el("figcaption", "soft", source["where"])
            else:
                el("p", "soft", source["where"])
            if state:
                el("p", "finding", state)
            with el("div", "row end"):
                el("a", "primary", "To the lesson", href=f"/teach/{source['lesson_id']}")
        self._dialog.open()

    def _behind(self, source: Mapping[str, Any], user_id: int) -> tuple[str, str]:
        """The passage as it is now, and what has become of the source since the answer."""
        try:
            if source["kind"] == "passage":
                return self._store.passage(source["id"], user_id).text, ""
            fact = self._store.fact(source["id"], user_id)
            text = self._store.passage(fact.passage_id, user_id).text if fact.passage_id is not None else ""
        except NotFound:
            return "", "Its lesson is not there any more."
        if fact.forgotten:
            return text, "This fact was forgotten since."
        return text, "" if fact.valid_until is None else f"This fact holds no more, since {day(fact.valid_until)}."
