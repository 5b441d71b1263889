"""Lessons and what they hold: facts with the time in which they held, and passages."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, bindparam, func, insert, select, update
from sqlalchemy.orm import Session

from nanohydra.errors import UserError, did_you_mean
from nanohydra.store.accounts import find_user
from nanohydra.store.database import Database, NotFound, one_at_a_time
from nanohydra.store.history import grown, write_line
from nanohydra.store.lesson_models import KINDS, STATES, Lesson, LessonFact, LessonPassage
from nanohydra.store.models import clean, now

VECTOR_BYTES = 384 * 2  # float16
KEY_LENGTH = 255


class Lessons(Database):
    """A user's methods see their own lessons and shared ones, and change their own."""

    def add_lesson(
        self,
        user_id: int,
        name: str,
        base_id: str,
        base_name: str,
        material: Mapping[str, Any],
        settings: Mapping[str, Any],
        key: str | None = None,
        kind: str = "lesson",
        body: Any = None,
    ) -> tuple[Lesson, bool]:
        """Keeps a lesson, its facts, passages and the history's line, queued; False with the lesson there was for this key.

        material: plain data, {"facts": [{key, subject, attribute, value, question, answer, passage, supersedes}], "passages":
        [{number, text, source}]}; `supersedes` (the id of a current fact of the user's, or None) ends that fact. settings:
        plain data; "lessons" in it names the lessons whose knowledge the adapter will hold too: when one of them is undone, so
        is this. body: plain data of the request that `key` stands for (default: all the other arguments). UserError for a
        key that stood for another body, NotFound without the user."""
        if kind not in KINDS:
            raise UserError(f"There is no kind of lesson {kind!r}.{did_you_mean(kind, KINDS)}")
        digest = _digest(body if body is not None else [name, base_id, material, settings, kind])
        with self._writing() as session:
            one_at_a_time(session)
            find_user(session, user_id)
            if key is not None and (found := _of_key(session, user_id, key, digest)) is not None:
                return found, False
            lesson = Lesson(user_id=user_id, key=key, digest=digest, name=name, kind=kind, settings=dict(settings))
            lesson.base_id, lesson.base_name = base_id, base_name
            session.add(lesson)
            session.flush()
            passages = _add_passages(session, lesson.id, material.get("passages", ()))
            superseded = _add_facts(session, lesson, material.get("facts", ()), passages)
            detail = {"name": name, "kind": kind, "base_id": base_id, "base_name": base_name, "superseded": superseded}
            counts = {"facts": len(material.get("facts", ())), "passages": len(passages)}
            write_line(session, user_id, "taught", lesson.id, detail | counts)
            grown(session)
        return lesson, True

    def lesson_of_key(self, user_id: int, key: str, body: Any) -> Lesson | None:
        """The lesson that a request with this key has made. UserError where it had another body."""
        with self._reading() as session:
            return _of_key(session, user_id, key, _digest(body))

    def lessons(self, user_id: int, state: str | None = None) -> list[Lesson]:
        """The lessons that a user may see, newest first."""
        query = select(Lesson).where(may_see(user_id))
        if state is not None:
            if state not in STATES:
                raise UserError(f"No lesson is ever {state!r}.{did_you_mean(state, STATES)}")
            query = query.where(Lesson.state == state)
        with self._reading() as session:
            return list(session.scalars(query.order_by(Lesson.id.desc())))

    def lesson(self, lesson_id: int, user_id: int) -> Lesson:
        """One lesson. NotFound."""
        with self._reading() as session:
            lesson = session.scalar(select(Lesson).where(Lesson.id == lesson_id, may_see(user_id)))
        if lesson is None:
            raise NotFound(f"There is no lesson {lesson_id}.")
        return lesson

    def share_lesson(self, lesson_id: int, user_id: int, shared: bool) -> Lesson:
        """Shows a lesson with all it holds, adapter included, to every user, or to its owner alone again. NotFound."""
        with self._writing() as session:
            lesson = own_lesson(session, lesson_id, user_id)
            if lesson.shared != shared:
                lesson.shared = shared
                write_line(session, user_id, "shared" if shared else "unshared", lesson_id, {"name": lesson.name})
                grown(session)
        return lesson

    def facts(
        self, user_id: int, lesson_id: int | None = None, subject: str | None = None, current: bool = True
    ) -> list[LessonFact]:
        """Facts that a user may see, oldest first; `subject` in any case; current=False: those that hold no more, too."""
        query = select(LessonFact).join(Lesson, Lesson.id == LessonFact.lesson_id).where(may_see(user_id))
        if lesson_id is not None:
            query = query.where(LessonFact.lesson_id == lesson_id)
        if subject is not None:
            query = query.where(func.lower(LessonFact.subject) == clean(subject).lower())
        if current:
            query = query.where(LessonFact.valid_until.is_(None))
        with self._reading() as session:
            return list(session.scalars(query.order_by(LessonFact.id)))

    def fact(self, fact_id: int, user_id: int) -> LessonFact:
        """One fact, current or not. NotFound."""
        query = select(LessonFact).join(Lesson, Lesson.id == LessonFact.lesson_id)
        with self._reading() as session:
            fact = session.scalar(query.where(LessonFact.id == fact_id, may_see(user_id)))
        if fact is None:
            raise NotFound(f"There is no fact {fact_id}.")
        return fact

    def passages(self, user_id: int, lesson_id: int | None = None, current: bool = True) -> list[LessonPassage]:
        """Passages that a user may see, in order; current=False: those of reverted lessons and emptied ones, too."""
        query = select(LessonPassage).join(Lesson, Lesson.id == LessonPassage.lesson_id).where(may_see(user_id))
        if lesson_id is not None:
            query = query.where(LessonPassage.lesson_id == lesson_id)
        if current:
            query = query.where(Lesson.state != "reverted", LessonPassage.text != "")
        with self._reading() as session:
            return list(session.scalars(query.order_by(LessonPassage.lesson_id, LessonPassage.number)))

    def passage(self, passage_id: int, user_id: int) -> LessonPassage:
        """One passage, current or not. NotFound."""
        query = select(LessonPassage).join(Lesson, Lesson.id == LessonPassage.lesson_id)
        with self._reading() as session:
            passage = session.scalar(query.where(LessonPassage.id == passage_id, may_see(user_id)))
        if passage is None:
            raise NotFound(f"There is no passage {passage_id}.")
        return passage

    def set_vectors(self, kind: str, vectors: Mapping[int, bytes]) -> None:
        """Keeps embeddings (384 float16 each) of "facts" or "passages" by id; ids of what has gone meanwhile are passed over."""
        tables: dict[str, type[LessonFact | LessonPassage]] = {"facts": LessonFact, "passages": LessonPassage}
        table = tables[kind]
        if wrong := [row for row, vector in vectors.items() if len(vector) != VECTOR_BYTES]:
            raise ValueError(f"the vectors of {kind} {wrong} are not {VECTOR_BYTES} bytes long")
        if not vectors:
            return
        query = update(table).where(table.id == bindparam("row")).values(vector=bindparam("bytes"))
        with self._writing() as session:
            one_at_a_time(session)
            session.connection().execute(query, [{"row": row, "bytes": vector} for row, vector in vectors.items()])
            grown(session)

    def set_card(self, fact_id: int, card: Mapping[str, Any]) -> None:
        """Keeps the state of a fact's spaced re-tests: plain data with "due", an ISO 8601 moment (UTC without a zone). NotFound."""
        due = datetime.fromisoformat(card["due"])
        due = due if due.tzinfo else due.replace(tzinfo=UTC)
        query = update(LessonFact).where(LessonFact.id == fact_id).values(card=dict(card), due=due)
        with self._writing() as session:
            if session.scalar(query.returning(LessonFact.id)) is None:
                raise NotFound(f"There is no fact {fact_id}.")

    def due(self, at: datetime) -> list[LessonFact]:
        """Every user's current facts in published lessons whose next probe is due by `at`, the longest due first."""
        query = select(LessonFact).join(Lesson, Lesson.id == LessonFact.lesson_id)
        query = query.where(LessonFact.due <= at, LessonFact.valid_until.is_(None), Lesson.state == "published")
        with self._reading() as session:
            return list(session.scalars(query.order_by(LessonFact.due, LessonFact.id)))


def may_see(user_id: int) -> ColumnElement[bool]:
    """Lessons that a user may see: their own and shared ones."""
    return (Lesson.user_id == user_id) | Lesson.shared


def own_lesson(session: Session, lesson_id: int, user_id: int) -> Lesson:
    """A user's own lesson, to be changed: begins by waiting for its turn. NotFound."""
    one_at_a_time(session)
    query = select(Lesson).where(Lesson.id == lesson_id, Lesson.user_id == user_id)
    lesson = session.scalar(query.with_for_update())
    if lesson is None:
        raise NotFound(f"There is no lesson {lesson_id} of yours.")
    return lesson


def find_facts(
    session: Session, fact_ids: Iterable[int], whose: ColumnElement[bool]
) -> dict[int, tuple[LessonFact, int]]:
    """Facts of certain lessons with their lesson's owner, by id. NotFound where one is missing."""
    query = select(LessonFact, Lesson.user_id).join(Lesson, Lesson.id == LessonFact.lesson_id).where(whose)
    numbers = list(dict.fromkeys(fact_ids))
    found = {}
    for start in range(0, len(numbers), 1000):  # databases bound the number of parameters
        rows = session.execute(query.where(LessonFact.id.in_(numbers[start : start + 1000]))).tuples()
        found.update({fact.id: (fact, owner) for fact, owner in rows})
    if missing := [number for number in numbers if number not in found]:
        raise NotFound(f"There is no fact {missing[0]}.")
    return found


def _digest(body: Any) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _of_key(session: Session, user_id: int, key: str, digest: str) -> Lesson | None:
    if not 0 < len(key) <= KEY_LENGTH:
        raise UserError(f"An idempotency key has 1 to {KEY_LENGTH} characters.")
    lesson = session.scalar(select(Lesson).where(Lesson.user_id == user_id, Lesson.key == key))
    if lesson is not None and lesson.digest != digest:
        raise UserError(f"The idempotency key {key!r} made lesson {lesson.id} of something else. Give a new key.")
    return lesson


def _add_passages(session: Session, lesson_id: int, passages: Any) -> dict[int, int]:
    """Their ids by their numbers."""
    if not passages:
        return {}
    rows = [{"lesson_id": lesson_id, "number": p["number"], "text": p["text"], "source": p["source"]} for p in passages]
    added = session.execute(insert(LessonPassage).returning(LessonPassage.number, LessonPassage.id), rows)
    return dict(added.tuples().all())


def _add_facts(session: Session, lesson: Lesson, facts: Any, passages: Mapping[int, int]) -> list[int]:
    """Adds a lesson's facts and ends those that they supersede, whose ids it returns."""
    if not facts:
        return []
    moment = now()
    texts = ("key", "subject", "attribute", "value", "question", "answer")
    rows = [{"lesson_id": lesson.id, "valid_from": moment, **{name: fact[name] for name in texts}} for fact in facts]
    for row, fact in zip(rows, facts, strict=True):
        number = fact.get("passage")
        row["passage_id"] = None if number is None else passages[number]
    ids = session.scalars(insert(LessonFact).returning(LessonFact.id, sort_by_parameter_order=True), rows).all()
    successors = {fact["supersedes"]: row for fact, row in zip(facts, ids) if fact.get("supersedes") is not None}
    return _supersede(session, lesson, successors, moment)


def _supersede(session: Session, lesson: Lesson, successors: Mapping[int, int], moment: datetime) -> list[int]:
    """Ends the facts that those of the lesson supersede, or what has superseded them since they were looked at.

    What somebody else shares stays as it is for everybody else; what was forgotten or reverted has ended already."""
    found = find_facts(session, successors, may_see(lesson.user_id))
    ended: list[int] = []
    for number, successor in successors.items():
        old, owner = found[number]
        while old.superseded_by is not None and (newer := session.get(LessonFact, old.superseded_by)) is not None:
            old = newer
        if owner == lesson.user_id and old.valid_until is None and old.lesson_id != lesson.id:
            old.valid_until, old.superseded_by = moment, successor
            ended.append(old.id)
    return ended
