"""What the process that makes a lesson is given: plain data out of the store. Loads no torch."""

from __future__ import annotations

from typing import Any

from nanohydra.errors import UserError
from nanohydra.hydra.material import Fact, Material, Passage
from nanohydra.store import Lesson, LessonFact, LessonPassage, Store

TAUGHT = "lessons"
"""The setting that names the lessons whose knowledge a consolidation holds."""


class NothingToTrain(UserError):
    """A lesson without facts: there is nothing to examine an adapter on."""


def job_of(store: Store, lesson: Lesson) -> dict[str, Any]:
    """The job of a lesson as its facts and settings are now. UserError where nothing is left to teach."""
    settings = {name: value for name, value in lesson.settings.items() if name != TAUGHT}
    job: dict[str, Any] = {
        "kind": lesson.kind,
        "lesson": str(lesson.id),
        "base": {"name": lesson.base_name, "id": lesson.base_id},
        "settings": settings,
    }
    if lesson.kind == "consolidation":
        parts = [taught(store, part) for part in taught_before(store, lesson) if part.id in lesson.settings[TAUGHT]]
        if len(parts) < 2:
            raise UserError("There are fewer than two published lessons to consolidate.")
        return {**job, "lessons": parts}
    material = material_of(store, lesson)
    if not material.facts:
        raise NothingToTrain("The lesson has no facts to train on; what its passages say is found by retrieval.")
    forgotten = [f for f in store.facts(lesson.user_id, lesson.id, current=False) if f.forgotten]
    return {
        **job,
        "material": material.to_data(),
        "forgotten": [as_fact(fact).to_data() for fact in forgotten],
        "earlier": [_as_served(store, lesson, other) for other in taught_before(store, lesson)],
    }


def taught_before(store: Store, lesson: Lesson) -> list[Lesson]:
    """The user's own other published lessons over the same base, oldest first: what must not be lost."""
    return [other for other in _published(store, lesson) if other.kind == "lesson" and other.id != lesson.id]


def _published(store: Store, lesson: Lesson) -> list[Lesson]:
    """All of the lesson's user's own over its base that have an adapter, consolidations too, oldest first."""
    listed = reversed(store.lessons(lesson.user_id, "published"))
    return [one for one in listed if one.user_id == lesson.user_id and one.base_id == lesson.base_id]


def _as_served(store: Store, lesson: Lesson, earlier: Lesson) -> dict[str, Any]:
    """An earlier lesson with the newest adapter that holds it: its own, or a consolidation's."""
    holders = [one for one in _published(store, lesson) if earlier.id in one.settings.get(TAUGHT, [one.id])]
    return {**taught(store, earlier), "folder": taught(store, holders[-1])["folder"]}


def material_of(store: Store, lesson: Lesson) -> Material:
    """What a lesson teaches: its current facts, and its passages."""
    passages = store.passages(lesson.user_id, lesson.id)
    numbers = {passage.id: passage.number for passage in passages}
    facts = store.facts(lesson.user_id, lesson.id)
    return Material(
        lesson.name,
        tuple(as_fact(fact, numbers) for fact in facts),
        tuple(as_passage(passage) for passage in passages),
    )


def as_fact(row: LessonFact, numbers: dict[int, int] | None = None) -> Fact:
    """A row of the store as a fact. numbers: of passages by their ids."""
    passage = None if numbers is None or row.passage_id is None else numbers.get(row.passage_id)
    return Fact(row.subject, row.attribute, row.value, row.question, row.answer, passage)


def as_passage(row: LessonPassage) -> Passage:
    """A row of the store as a passage."""
    return Passage(row.number, row.text, row.source)


def taught(store: Store, lesson: Lesson) -> dict[str, Any]:
    """A published lesson as those after it meet it."""
    folders = {adapter.name: adapter.folder for adapter in store.adapters(lesson.user_id)}
    return {
        "lesson": str(lesson.id),
        "name": lesson.name,
        "facts": [as_fact(fact).to_data() for fact in store.facts(lesson.user_id, lesson.id)],
        "holds": [str(number) for number in lesson.settings.get(TAUGHT, [lesson.id])],
        "folder": folders.get(lesson.adapter or ""),
    }
