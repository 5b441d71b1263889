"""Undoing: a lesson reverted, single facts forgotten. Nothing that an adapter still knows keeps its name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import select
from sqlalchemy.orm import Session

from nanohydra.store.database import Database, NotFound, one_at_a_time
from nanohydra.store.history import grown, write_line
from nanohydra.store.jobs import OPEN, free, lose_adapter, queue_anew
from nanohydra.store.lesson_models import Lesson, LessonFact, LessonPassage
from nanohydra.store.lessons import find_facts, own_lesson
from nanohydra.store.models import now


class Undoing(Database):
    """What is undone stays in the tables with its dates, and is found no more."""

    def revert(self, lesson_id: int, user_id: int) -> Lesson:
        """Ends a lesson in any state: its adapter's name, its facts and passages; those it superseded are current again.

        Lessons whose adapters hold its knowledge too (`settings["lessons"]`: consolidations) lose theirs and are reverted or,
        where they have facts of their own, taught again. NotFound. Reverting twice changes nothing."""
        with self._writing() as session:
            lesson = own_lesson(session, lesson_id, user_id)
            if lesson.state != "reverted":
                _revert(session, lesson)
                _undo_dependent(session, lesson, f"lesson {lesson_id} reverted")
                grown(session)
        return lesson

    def forget_facts(
        self, fact_ids: Iterable[int], user_id: int, reason: str, passages: Mapping[int, str] | None = None
    ) -> list[Lesson]:
        """Ends facts for good, and returns their lessons. passages: new texts by id, for those that told a fact.

        A lesson whose adapter knows such a fact, or is being taught it, loses the adapter's name at once and is queued anew
        (or reverted, where nothing of it is left); so do lessons that hold its knowledge too, as with `revert`. NotFound."""
        with self._writing() as session:
            one_at_a_time(session)
            facts = [fact for fact, _ in find_facts(session, fact_ids, Lesson.user_id == user_id).values()]
            lessons = {number: own_lesson(session, number, user_id) for number in {fact.lesson_id for fact in facts}}
            moment = now()
            for fact in facts:
                fact.forgotten, fact.valid_until = True, fact.valid_until or moment
            for passage_id, text in (passages or {}).items():
                passage = session.get(LessonPassage, passage_id)
                if passage is None or passage.lesson_id not in lessons:
                    raise NotFound(f"There is no passage {passage_id} of these facts.")
                passage.text, passage.vector = text, None
            for lesson in lessons.values():
                mine = [fact.id for fact in facts if fact.lesson_id == lesson.id]
                write_line(
                    session, user_id, "forgot", lesson.id, {"name": lesson.name, "facts": mine, "reason": reason}
                )
                if lesson.state in ("published", *OPEN):
                    _teach_the_rest(session, lesson, "facts forgotten")
                _undo_dependent(session, lesson, f"facts of lesson {lesson.id} forgotten")
            grown(session)
        return list(lessons.values())


def _revert(session: Session, lesson: Lesson) -> None:
    moment = now()
    facts = {fact.id: fact for fact in session.scalars(select(LessonFact).where(LessonFact.lesson_id == lesson.id))}
    _give_back(session, lesson, facts)
    for fact in facts.values():
        fact.valid_until = fact.valid_until or moment
    detail = {"name": lesson.name, "kind": lesson.kind, "was": lesson.state, **lose_adapter(session, lesson)}
    free(lesson)
    lesson.state, lesson.finished = "reverted", moment
    write_line(session, lesson.user_id, "reverted", lesson.id, detail)


def _give_back(session: Session, lesson: Lesson, facts: Mapping[int, LessonFact]) -> None:
    """What the lesson's facts superseded holds again or, where they were superseded themselves, held until then.

    A fact that was forgotten gives nothing back: what it replaced was not to be known any more."""
    mine = select(LessonFact.id).where(LessonFact.lesson_id == lesson.id, ~LessonFact.forgotten)
    query = select(LessonFact).join(Lesson, Lesson.id == LessonFact.lesson_id)
    query = query.where(LessonFact.superseded_by.in_(mine), ~LessonFact.forgotten, Lesson.state != "reverted")
    for old in session.scalars(query).all():
        newer = facts[old.superseded_by or 0]
        old.valid_until, old.superseded_by = newer.valid_until, newer.superseded_by


def _undo_dependent(session: Session, lesson: Lesson, reason: str) -> None:
    """Other lessons' adapters that hold the lesson's knowledge lose their names, whether published or under way."""
    query = select(Lesson).where(Lesson.user_id == lesson.user_id, Lesson.state.in_(("published", *OPEN)))
    for other in session.scalars(query.order_by(Lesson.id).with_for_update()).all():
        if other.id != lesson.id and lesson.id in other.settings.get("lessons", ()):
            _teach_the_rest(session, other, reason)


def _teach_the_rest(session: Session, lesson: Lesson, reason: str) -> None:
    """Queues a lesson anew with what is left of it; reverts one that holds nothing. One to be cancelled will end so.

    A fact that is superseded is left: it may hold again."""
    facts = select(LessonFact.id).where(LessonFact.lesson_id == lesson.id, ~LessonFact.forgotten)
    passages = select(LessonPassage.id).where(LessonPassage.lesson_id == lesson.id, LessonPassage.text != "")
    if any(session.scalar(query.limit(1)) is not None for query in (facts, passages)):
        if lesson.state != "queued" and not lesson.cancel:
            queue_anew(session, lesson, reason)
    else:
        _revert(session, lesson)
