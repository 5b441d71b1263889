"""What the API and the web app do about lessons, for a user: bounds, the base that is served, and what others may not touch.

Synchronous, as the store is: call it from a thread pool."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nanohydra.errors import UserError
from nanohydra.hydra import history, teaching
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.material import Material
from nanohydra.hydra.reading import take_in
from nanohydra.hydra.schedule import WANTED
from nanohydra.hydra.teaching import Found
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError, TooMany, Unavailable
from nanohydra.store import Lesson, Principal, Store

MOST_NUMBER = 100_000
"""Largest number in a lesson's settings: nobody needs more wordings or steps."""
MOST_SECONDS = 3600.0
"""Longest time that a request may give a lesson."""


@dataclass(frozen=True)
class Given:
    """What somebody wants taught, as they gave it."""

    text: str | None = None
    pairs: Sequence[tuple[str, str]] = ()
    messages: Sequence[Mapping[str, Any]] = ()
    file: tuple[str, bytes] | None = None
    name: str = ""

    def to_data(self) -> dict[str, Any]:
        """Plain data that tells whether two requests are the same."""
        file = None if self.file is None else [self.file[0], hashlib.sha256(self.file[1]).hexdigest()]
        return {
            **vars(self),
            "pairs": [list(pair) for pair in self.pairs],
            "messages": list(self.messages),
            "file": file,
        }


def progress(store: Store, user: Principal, lesson_id: int) -> dict[str, Any]:
    """How far a lesson is. NotFound."""
    lesson = store.lesson(lesson_id, user.user_id)
    return {
        "job": lesson.id,
        "lesson": lesson.id,
        "state": lesson.state,
        "attempt": lesson.attempt,
        "progress": lesson.progress,
        "adapter": lesson.adapter,
        "reason": lesson.error,
        "receipt": history.receipt_of(store, lesson),
    }


class Learning:
    """Lessons of users, over the base that is served."""

    def __init__(
        self, config: ServeConfig, store: Store, engine: EngineClient, taught: Callable[[Principal], None]
    ) -> None:
        """taught: called after somebody taught something."""
        self._config = config
        self._store = store
        self._engine = engine
        self._taught = taught

    # -- taking in ----------------------------------------------------------------------------------------------------

    def preview(
        self,
        user: Principal,
        text: str | None = None,
        pairs: Sequence[tuple[str, str]] = (),
        file: tuple[str, bytes] | None = None,
        name: str = "",
        messages: Sequence[Mapping[str, Any]] = (),
    ) -> Found:
        """What is understood of what somebody gives, and how it stands to what they taught before. UserError."""
        size = len(text or "") + sum(len(q) + len(a) for q, a in pairs) + sum(len(str(m["content"])) for m in messages)
        self._check_size("characters", size, self._config.teach_max_characters)
        material = take_in(text=text, pairs=pairs, file=file, messages=messages or None, name=name)
        self._check_size("characters", sum(len(p.text) for p in material.passages), self._config.teach_max_characters)
        self._check_size("facts", len(material.facts), self._config.teach_max_facts)
        return teaching.look(self._store, user.user_id, material)

    def submit(
        self,
        user: Principal,
        material: Material,
        leave_out: Collection[str] = (),
        seconds: float | None = None,
        settings: Mapping[str, Any] | None = None,
        key: str | None = None,
        body: Any = None,
    ) -> Lesson:
        """Puts a lesson on the queue. leave_out: the keys of facts that are not to be taught. UserError, ApiError."""
        self._room(user)
        found = teaching.look(self._store, user.user_id, material)
        chosen = self._settings(settings or {}, seconds)
        lesson, _ = teaching.add(self._store, user.user_id, found, self._base(), chosen, leave_out, key, body)
        self._taught(user)
        return lesson

    def taken(
        self, user: Principal, given: Given, replace: bool, unsure: bool, settings: Mapping[str, Any], key: str | None
    ) -> dict[str, Any]:
        """One request of the API from its beginning to the lesson on the queue, and what was decided. The same key and request
        make one lesson, however often they come."""
        body = {**given.to_data(), "replace": replace, "unsure": unsure, "settings": dict(settings)}
        if key is not None and (known := self._store.lesson_of_key(user.user_id, key, body)) is not None:
            return {"job": known.id, "lesson": known.id}
        found = self.preview(user, given.text, given.pairs, given.file, given.name, given.messages)
        novelty = found.novelty
        out = [] if replace else [fact.key for fact, _ in novelty.contradicting]
        out += [] if unsure else [fact.key for fact, _ in novelty.unsure]
        try:
            lesson = self.submit(user, found.material, out, settings=settings, key=key, body=body)
        except UserError:
            # The same request, sent again while the first was being taken in, finds all of it known by now.
            if key is None or (known := self._store.lesson_of_key(user.user_id, key, body)) is None:
                raise
            return {"job": known.id, "lesson": known.id}
        return {
            "job": lesson.id,
            "lesson": lesson.id,
            "name": lesson.name,
            "new": [fact.answer for fact in novelty.new],
            "known": [fact.answer for fact in novelty.known],
            "contradicting": [
                {"fact": fact.answer, "earlier": old.fact.answer, "since": old.since, "replaced": replace}
                for fact, old in novelty.contradicting
            ],
            "unsure": [
                {"fact": fact.answer, "earlier": old.fact.answer, "since": old.since, "taught": unsure}
                for fact, old in novelty.unsure
            ],
            "notes": list(found.material.notes),
        }

    # -- lessons ------------------------------------------------------------------------------------------------------

    def cancel(self, user: Principal, lesson_id: int) -> Lesson:
        """Stops making a lesson; it can still be asked about. NotFound, UserError."""
        return self._store.cancel(lesson_id, user.user_id)

    def again(self, user: Principal, lesson_id: int, seconds: float | None = None) -> Lesson:
        """Makes a lesson that has ended once more, with another seed and perhaps more time. NotFound, UserError."""
        self._room(user)
        lesson = self._store.lesson(lesson_id, user.user_id)
        given = {**lesson.settings, "seed": int(lesson.settings.get("seed", 0)) + 1}
        return self._store.requeue(lesson_id, user.user_id, given if seconds is None else {**given, "seconds": seconds})

    def share(self, user: Principal, lesson_id: int, shared: bool) -> Lesson:
        """Shows a lesson to everybody on this server, or no longer. NotFound."""
        return self._store.share_lesson(lesson_id, user.user_id, shared)

    def revert(self, user: Principal, lesson_id: int) -> Lesson:
        """Takes a lesson back. NotFound."""
        return self._store.revert(lesson_id, user.user_id)

    def forget(self, user: Principal, facts: Sequence[int], about: str, reason: str) -> dict[str, Any]:
        """Forgets facts, by their numbers or by what they are about. NotFound, UserError."""
        if bool(facts) == bool(about.strip()):
            raise ApiError('Give either "facts", their numbers, or "about".', param="facts")
        ids = list(facts) or [fact.id for fact in history.find_facts(self._store, user.user_id, about)]
        lessons = history.forget(self._store, user.user_id, ids, reason)
        return {"forgotten": ids, "lessons": [history.brief(lesson, user.user_id) for lesson in lessons]}

    def consolidate(self, user: Principal) -> Lesson:
        """Puts a consolidation of the user's lessons on the queue. UserError."""
        self._room(user)
        name, base_id = self._base()
        return history.consolidate(self._store, user.user_id, base_id, name)

    def retest(self, user: Principal, everything: bool = False) -> None:
        """Has the user's facts asked again as soon as no lesson is being made: those that are due, or all."""
        wanted = {"user_id": user.user_id, "everything": everything, "at": datetime.now(UTC).isoformat()}
        self._store.set_setting(WANTED, wanted)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _base(self) -> tuple[str, str]:
        """The name (or folder) under which the worker finds the base that is served, and its id."""
        base = self._engine.base
        if base is None:
            raise Unavailable(self._engine.error or "The base is being loaded.")
        return history.base_name(base.folder), base.base_id

    def _room(self, user: Principal) -> None:
        most = self._config.teach_max_open
        if sum(lesson.user_id == user.user_id for lesson in self._store.open_lessons()) >= most:
            message = f"At most {most} lessons of one user may wait: wait for some to end, or cancel one."
            raise TooMany(message, code="too_many_open", retry_after=30)

    def _settings(self, given: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        if any(not -MOST_NUMBER <= value <= MOST_NUMBER for value in _numbers(given)):
            raise ApiError(f"A number in settings is beyond {MOST_NUMBER:,}.", param="settings")
        config = LearnConfig.read({**given, **({} if seconds is None else {"seconds": seconds})})
        if config.seconds > MOST_SECONDS:
            raise ApiError(f"A lesson may take {MOST_SECONDS:g} seconds at most.", param="settings")
        return teaching.plain_settings(config)

    def _check_size(self, what: str, size: int, most: int) -> None:
        if size > most:
            raise UserError(f"{size:,} {what} are too many for one lesson: at most {most:,}. Teach it in parts.")


def _numbers(values: Mapping[str, Any]) -> Iterator[float]:
    """All numbers in nested settings."""
    for value in values.values():
        if isinstance(value, Mapping):
            yield from _numbers(value)
        elif isinstance(value, int | float):
            yield value
