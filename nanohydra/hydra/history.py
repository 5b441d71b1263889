"""What log, show, diff, revert, forget, blame and consolidate mean, over the store. The command line, the API and the web app
share these; what they return is plain data, ready for JSON. Loads no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from nanohydra.errors import UserError
from nanohydra.home import bases_dir
from nanohydra.hydra.material import plain
from nanohydra.hydra.names import words
from nanohydra.store import HistoryLine, Lesson, LessonFact, LessonPassage, NotFound, Store

OPEN = ("queued", "running")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")

# -- looking ----------------------------------------------------------------------------------------------------------


def log(store: Store, user_id: int, limit: int = 100, before: int | None = None) -> list[dict[str, Any]]:
    """What happened, newest first, each line also as a sentence."""
    lines = store.history(user_id, limit, before)
    names = {lesson.id: lesson.name for lesson in store.lessons(user_id)}
    return [
        {
            "id": line.id,
            "at": moment(line.at),
            "kind": line.kind,
            "lesson": line.lesson_id,
            "mine": line.user_id == user_id,
            "detail": line.detail,
            "text": sentence(line, names.get(line.lesson_id or -1, "")),
        }
        for line in lines
    ]


def lessons(store: Store, user_id: int, state: str | None = None) -> list[dict[str, Any]]:
    """The lessons that a user may see, newest first, without their contents."""
    counts: dict[int, int] = {}
    for fact in store.facts(user_id):
        counts[fact.lesson_id] = counts.get(fact.lesson_id, 0) + 1
    return [{**brief(one, user_id), "facts": counts.get(one.id, 0)} for one in store.lessons(user_id, state)]


def show(store: Store, lesson_id: int, user_id: int) -> dict[str, Any]:
    """A lesson with its facts (also those that no longer hold), passages and receipt. NotFound."""
    lesson = store.lesson(lesson_id, user_id)
    facts = store.facts(user_id, lesson_id, current=False)
    passages = store.passages(user_id, lesson_id, current=False)
    return {
        **brief(lesson, user_id),
        "settings": lesson.settings,
        "receipt": receipt_of(store, lesson),
        "facts": [fact_data(fact) for fact in facts],
        "passages": [passage_data(passage) for passage in passages],
    }


def receipt_of(store: Store, lesson: Lesson) -> dict[str, Any] | None:
    """A lesson's receipt; of facts that were forgotten since, only how they were answered."""
    if lesson.receipt is None:
        return None
    forgotten = {fact.key for fact in store.facts(lesson.user_id, lesson.id, current=False) if fact.forgotten}
    hidden = {"question": "(forgotten)", "value": ""}
    lists: dict[str, Any] = {
        name: [{**fact, **(hidden if fact["key"] in forgotten else {})} for fact in lesson.receipt[name]]
        for name in ("facts", "forgotten")
        if name in lesson.receipt
    }
    return {**lesson.receipt, **lists}


def diff(store: Store, lesson_id: int, user_id: int, other_id: int | None = None) -> dict[str, Any]:
    """What a lesson changed: facts it added, and facts of earlier lessons that it replaced. With another lesson: what one of
    the two knows and the other does not, or tells otherwise. NotFound."""
    store.lesson(lesson_id, user_id)
    ours = store.facts(user_id, lesson_id, current=False)
    if other_id is None:
        numbers = {fact.id for fact in ours}
        old = {
            fact.superseded_by: fact
            for fact in store.facts(user_id, current=False)
            if fact.superseded_by in numbers and fact.superseded_by is not None
        }
    else:
        store.lesson(other_id, user_id)
        theirs = {fact.key: fact for fact in store.facts(user_id, other_id, current=False)}
        old = {fact.id: theirs[fact.key] for fact in ours if fact.key in theirs}
    same = [fact.id for fact in ours if fact.id in old and plain(old[fact.id].value) == plain(fact.value)]
    changed = [fact for fact in ours if fact.id in old and fact.id not in same]
    result = {
        "lesson": lesson_id,
        "other": other_id,
        "added": [fact_data(fact) for fact in ours if fact.id not in old],
        "changed": [{"from": fact_data(old[fact.id]), "to": fact_data(fact)} for fact in changed],
    }
    if other_id is not None:
        keys = {fact.key for fact in ours}
        result["missing"] = [fact_data(fact) for key, fact in theirs.items() if key not in keys]
    return result


def known(store: Store, user_id: int, about: str = "", past: bool = False) -> list[dict[str, Any]]:
    """The facts about something, newest first: those that name it in their subject, value or question, in any case and as
    whole words. past: also those that no longer hold."""
    facts = reversed(store.facts(user_id, current=not past))
    return [fact_data(fact) for fact in facts if not fact.forgotten and _has_all(fact, about)]


def blame(store: Store, user_id: int, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Where an answer came from, by its provenance (a message's, or what the API told): the base and adapter that wrote it, the
    lessons, facts and passages behind it as they stand now, and the tools whose results stand in it."""
    sources = [_source(store, user_id, source) for source in provenance.get("sources") or ()]
    tools = [part for part in provenance.get("parts") or () if part.get("type") not in (None, "text")]
    lesson = None
    if (number := provenance.get("lesson")) is not None:
        try:
            lesson = brief(store.lesson(int(number), user_id), user_id)
        except NotFound:
            lesson = {"id": number, "state": "gone"}
    about = {name: provenance.get(name) for name in ("base", "base_id", "adapter", "mode", "route", "overruled")}
    return {**about, "lesson": lesson, "sources": sources, "tools": tools}


# -- changing ---------------------------------------------------------------------------------------------------------


def find_facts(store: Store, user_id: int, about: str) -> list[LessonFact]:
    """The user's own current facts that words mean: a fact's number, its subject, question or answer, or words that it has.

    UserError where there is none."""
    mine = {lesson.id for lesson in store.lessons(user_id) if lesson.user_id == user_id}
    facts = [fact for fact in store.facts(user_id) if fact.lesson_id in mine]
    asked = plain(about)
    exact = [
        fact
        for fact in facts
        if asked and asked in (str(fact.id), plain(fact.subject), plain(fact.question), plain(fact.answer))
    ]
    found = exact or [fact for fact in facts if _has_all(fact, about)]
    if not found:
        raise UserError(
            f'Nothing that you taught is about "{about}". See what is known: nanohydra show, or GET /known.'
        )
    return found


def forget(store: Store, user_id: int, fact_ids: Iterable[int], reason: str = "") -> list[Lesson]:
    """Ends facts for good. They are in no answer by retrieval from now on; what their passages said of them is struck out; an
    adapter that knows them loses its name, and its lesson is taught again without them. NotFound, UserError."""
    facts = [store.fact(fact_id, user_id) for fact_id in fact_ids]
    if not facts:
        raise UserError("Name at least one fact to forget.")
    return store.forget_facts([fact.id for fact in facts], user_id, reason, _struck(store, user_id, facts))


def consolidate(store: Store, user_id: int, base_id: str, base_name: str, **settings: Any) -> Lesson:
    """Queues one adapter of all the user's published lessons over a base. UserError where there are fewer than two, or one is
    under way."""
    mine = [one for one in store.lessons(user_id) if one.user_id == user_id and one.base_id == base_id]
    if any(one.kind == "consolidation" and one.state in OPEN for one in mine):
        raise UserError("A consolidation is under way already. Wait for it, or cancel it.")
    parts = sorted(one.id for one in mine if one.kind == "lesson" and one.state == "published")
    if len(parts) < 2:
        raise UserError("Consolidating needs two published lessons at least.")
    name = f"Lessons {', '.join(map(str, parts))}" if len(parts) < 6 else f"{len(parts)} lessons"
    lesson, _ = store.add_lesson(
        user_id, name, base_id, base_name, {}, {**settings, "lessons": parts}, kind="consolidation"
    )
    return lesson


def _has_all(fact: LessonFact, about: str) -> bool:
    said = {word.text for word in words(f"{fact.subject} {fact.value} {fact.question}")}
    return all(word.text in said for word in words(about))


def _source(store: Store, user_id: int, source: Mapping[str, Any]) -> dict[str, Any]:
    """A source of an answer with what it is now: current, superseded, ended, forgotten, reverted, or gone."""
    try:
        lesson = store.lesson(int(source["lesson_id"]), user_id)
        if source["kind"] == "fact":
            fact = store.fact(source["id"], user_id)
            about, now = {"fact": fact_data(fact)}, "forgotten" if fact.forgotten else _standing(fact)
        else:
            about, now = {"passage": passage_data(store.passage(source["id"], user_id))}, "current"
    except NotFound:
        return {**source, "now": "gone"}
    now = "reverted" if lesson.state == "reverted" else now
    return {**source, **about, "lesson": brief(lesson, user_id), "now": now}


def _standing(fact: LessonFact) -> str:
    if fact.valid_until is None:
        return "current"
    return "ended" if fact.superseded_by is None else "superseded"


def _struck(store: Store, user_id: int, facts: Iterable[LessonFact]) -> dict[int, str]:
    """The facts' passages without the sentences that tell of them, by id."""
    texts: dict[int, str] = {}
    for fact in facts:
        if fact.passage_id is not None:
            text = texts.get(fact.passage_id) or store.passage(fact.passage_id, user_id).text
            texts[fact.passage_id] = strike(text, fact.subject, fact.value)
    return texts


def strike(text: str, subject: str, value: str) -> str:
    """A text without the sentences that hold a value, where they name its subject too or no sentence does."""
    told = [part for part in re.split(SENTENCE_END, text) if plain(value) in plain(part)]
    named = [part for part in told if subject and plain(subject) in plain(part)] or told
    for part in named:
        text = text.replace(part, "")
    return " ".join(text.split()) if named else text


# -- plain data -------------------------------------------------------------------------------------------------------


def brief(lesson: Lesson, user_id: int) -> dict[str, Any]:
    """A lesson without its contents."""
    return {
        "id": lesson.id,
        "name": lesson.name,
        "kind": lesson.kind,
        "state": lesson.state,
        "mine": lesson.user_id == user_id,
        "shared": lesson.shared,
        "base": {"name": lesson.base_name, "id": lesson.base_id},
        "adapter": lesson.adapter,
        "progress": lesson.progress,
        "attempt": lesson.attempt,
        "reason": lesson.error,
        "created": moment(lesson.created),
        "started": moment(lesson.started),
        "finished": moment(lesson.finished),
    }


def fact_data(fact: LessonFact) -> dict[str, Any]:
    """A fact with when it held. What was forgotten is told without its words."""
    words = ("subject", "attribute", "value", "question", "answer")
    return {
        "id": fact.id,
        "lesson": fact.lesson_id,
        "passage": fact.passage_id,
        **{name: None if fact.forgotten else getattr(fact, name) for name in words},
        "valid_from": moment(fact.valid_from),
        "valid_until": moment(fact.valid_until),
        "superseded_by": fact.superseded_by,
        "forgotten": fact.forgotten,
        "due": moment(fact.due),
    }


def passage_data(passage: LessonPassage) -> dict[str, Any]:
    """A passage with where it is from."""
    return {name: getattr(passage, name) for name in ("id", "lesson_id", "number", "text", "source")}


def base_name(folder: str) -> str:
    """What a lesson calls its base: the name of a folder under the bases folder, else the folder itself."""
    path = Path(folder).resolve()
    return path.name if (bases_dir() / path.name).resolve() == path else str(path)


def moment(at: datetime | None) -> str | None:
    """ISO 8601, to the second."""
    return None if at is None else at.isoformat(timespec="seconds")


def sentence(line: HistoryLine, name: str) -> str:
    """A line of the history in words. name: its lesson's."""
    detail = line.detail
    lesson = f'"{name or detail.get("name") or line.lesson_id}"'
    count = len(detail["facts"]) if isinstance(detail.get("facts"), list) else detail.get("facts", 0)
    facts = f"{count} fact{'s' * (count != 1)}"
    error = f": {detail['error']}" if detail.get("error") else "."
    match line.kind:
        case "taught" if detail.get("kind") == "consolidation":
            return f"Consolidation {lesson} began."
        case "taught":
            replaced = len(detail.get("superseded") or ())
            return f"Taught {lesson}: {facts}{f', {replaced} of them newer than before' if replaced else ''}."
        case "published":
            return f"Published {lesson}: its adapter passed the gate."
        case "rejected":
            return f"Rejected {lesson}; it is answered by retrieval{error}"
        case "failed":
            return f"Failed to train {lesson}{error}"
        case "cancelled":
            return f"Cancelled the training of {lesson}."
        case "requeued":
            return f"Training {lesson} again ({detail.get('reason', 'requested')})."
        case "reverted":
            return f"Reverted {lesson}."
        case "forgot":
            return f"Forgot {facts} of {lesson}."
        case "shared" | "unshared":
            return f"{lesson} is {'shared with everybody' if line.kind == 'shared' else 'no longer shared'}."
        case "probed":
            return f"Asked {facts} again: {detail['known']} known."
        case "faded":
            return f"{facts[0].upper()}{facts[1:]} of {lesson} faded."
        case "trial":
            return f'Began the trial "{detail["name"]}".'
        case "trial ended":
            return f'Ended the trial "{detail["name"]}".'
    return f"{line.kind}: {lesson}."
