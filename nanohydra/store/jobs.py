"""The queue of lessons: a lesson's row is its job. Every step is one transaction, so nothing is ever half done."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nanohydra.errors import UserError
from nanohydra.store.adapters import take_away
from nanohydra.store.database import Database, one_at_a_time
from nanohydra.store.history import grown, write_line
from nanohydra.store.lesson_models import Lesson
from nanohydra.store.lessons import own_lesson
from nanohydra.store.models import Adapter, now

MAX_ATTEMPTS = 5
OPEN = ("queued", "running")
MEASURED = ("state", "measures", "seconds")
"""What the history keeps of a receipt."""
OUTCOMES = ("published", "rejected", "failed", "cancelled")


@dataclass(frozen=True)
class Published:
    """A published lesson, and where its adapter lies."""

    id: int
    user_id: int
    adapter: str
    adapter_folder: str


class Jobs(Database):
    """A worker claims a lesson for a time (a lease), beats to keep it, and finishes it. A worker's name is never used again."""

    def claim(self, worker: str, lease_seconds: float, max_attempts: int = MAX_ATTEMPTS) -> Lesson | None:
        """The oldest lesson that waits, or whose worker was not heard of for its lease; None where there is none.

        One that was cancelled meanwhile, or that `max_attempts` workers lost, ends here. No two workers get the same lesson."""
        self._end_lost(max_attempts)
        moment = now()
        free = (Lesson.state == "queued") | ((Lesson.state == "running") & (Lesson.lease <= moment))
        query = select(Lesson).where(free, ~Lesson.cancel, Lesson.attempt < max_attempts).order_by(Lesson.id).limit(1)
        with self._reading() as session:  # most often there is none: SQLite's writers need not wait for that
            if session.scalar(query) is None:
                return None
        with self._writing() as session:
            lesson = session.scalar(query.with_for_update(skip_locked=True))
            if lesson is not None:
                lesson.state, lesson.worker, lesson.lease = "running", worker, moment + timedelta(seconds=lease_seconds)
                lesson.attempt, lesson.progress, lesson.started = lesson.attempt + 1, {}, moment
        return lesson

    def beat(self, lesson_id: int, worker: str, progress: Mapping[str, Any], lease_seconds: float) -> bool:
        """Keeps the lease and tells how far it is. False: somebody else has the lesson, or it is to be cancelled: stop."""
        held = (Lesson.id == lesson_id, Lesson.worker == worker, Lesson.state == "running", ~Lesson.cancel)
        lease = now() + timedelta(seconds=lease_seconds)
        query = update(Lesson).where(*held).values(progress=dict(progress), lease=lease).returning(Lesson.id)
        with self._writing() as session:
            return session.scalar(query) is not None

    def release(self, lesson_id: int, worker: str) -> bool:
        """Gives a lesson back unfinished, to be claimed anew: this attempt does not count. False where the lease was lost."""
        with self._writing() as session:
            lesson = _held(session, lesson_id, worker)
            if lesson is None:
                return False
            _queue(lesson, lesson.attempt - 1)
        return True

    def finish(
        self,
        lesson_id: int,
        worker: str,
        state: str,
        receipt: Mapping[str, Any] | None = None,
        error: str | None = None,
        adapter: tuple[str, str, str, str] | None = None,
    ) -> bool:
        """Ends a lesson: its state, its adapter's name and the history's line, or nothing of it where the lease was lost.

        state: published (with adapter = name, folder, base's id, content id, whose owner is the user), rejected, failed or
        cancelled. A lesson that was cancelled meanwhile ends cancelled, and False says that its adapter has no name.
        UserError where the adapter's name is taken."""
        if state not in OUTCOMES or (state == "published") != (adapter is not None):
            raise ValueError(f"a lesson does not end as {state!r} with adapter {adapter}")
        with self._writing() as session:
            one_at_a_time(session)
            lesson = _held(session, lesson_id, worker)
            if lesson is None:
                return False
            kept = state if not lesson.cancel else "cancelled"
            named = None
            if adapter is not None and kept == state:
                name, folder, base, content_id = adapter
                if session.get(Adapter, name) is not None:
                    raise UserError(
                        f"There is an adapter {name!r} already. Unload it, so that the lesson can have the name."
                    )
                session.add(Adapter(name=name, folder=folder, base=base, content_id=content_id, owner=lesson.user_id))
                lesson.adapter = name
                named = {"adapter": name, "folder": folder, "content_id": content_id}
            lesson.receipt = None if receipt is None else dict(receipt)
            _end(session, lesson, kept, error, named)
        return kept == state

    def cancel(self, lesson_id: int, user_id: int) -> Lesson:
        """Stops a lesson's training, or takes it off the queue; what it holds can still be retrieved. NotFound, UserError."""
        with self._writing() as session:
            lesson = own_lesson(session, lesson_id, user_id)
            if lesson.state == "running":
                lesson.cancel = True
            elif lesson.state == "queued":
                _end(session, lesson, "cancelled", None)
            elif lesson.state != "cancelled":
                raise UserError(f"Lesson {lesson_id} is {lesson.state} already: there is nothing to stop.")
        return lesson

    def requeue(self, lesson_id: int, user_id: int, settings: Mapping[str, Any] | None = None) -> Lesson:
        """Teaches a lesson that has ended once more, with other settings where given; its adapter's name is taken away.

        What its receipt measured goes into the history. NotFound, UserError."""
        with self._writing() as session:
            lesson = own_lesson(session, lesson_id, user_id)
            if lesson.state in OPEN:
                raise UserError(f"Lesson {lesson_id} is {lesson.state} already. Wait for it, or cancel it.")
            if lesson.state == "reverted":
                raise UserError(f"Lesson {lesson_id} was reverted. Teach what it held anew.")
            if settings is not None:
                lesson.settings = dict(settings)
            queue_anew(session, lesson, "requested")
            grown(session)
        return lesson

    def open_lessons(self) -> list[Lesson]:
        """Every user's lessons that wait or run, oldest first."""
        with self._reading() as session:
            return list(session.scalars(select(Lesson).where(Lesson.state.in_(OPEN)).order_by(Lesson.id)))

    def published_lessons(self) -> list[Published]:
        """Every user's published lessons, oldest first, with the folders that must be there."""
        query = select(Lesson.id, Lesson.user_id, Adapter.name, Adapter.folder).join(
            Adapter, Adapter.name == Lesson.adapter
        )
        with self._reading() as session:
            return [Published(*row) for row in session.execute(query.order_by(Lesson.id)).tuples()]

    def adapter_folders(self) -> set[str]:
        """The folders of all adapters that have a name."""
        with self._reading() as session:
            return set(session.scalars(select(Adapter.folder)))

    def _end_lost(self, max_attempts: int) -> None:
        """Ends lessons whose worker is gone and that nobody is to claim any more."""
        gone = (Lesson.state == "running") & (Lesson.lease <= now())
        query = select(Lesson).where(gone, Lesson.cancel | (Lesson.attempt >= max_attempts)).order_by(Lesson.id)
        with self._reading() as session:
            if session.scalar(query.limit(1)) is None:
                return
        with self._writing() as session:
            one_at_a_time(session)
            for lesson in session.scalars(query.with_for_update(skip_locked=True)).all():
                state = "cancelled" if lesson.cancel else "failed"
                error = f"Its training ended {lesson.attempt} times without a result: killed, or out of memory. Teach it again."
                _end(session, lesson, state, None if lesson.cancel else error)


def queue_anew(session: Session, lesson: Lesson, reason: str) -> None:
    """Takes a lesson's adapter away and puts it back on the queue, whoever works on it. The caller has its turn.

    Of the receipt the history keeps what it measured: the rest quotes facts, which may be forgotten one day."""
    receipt = lesson.receipt and {name: lesson.receipt[name] for name in MEASURED if name in lesson.receipt}
    detail = {"name": lesson.name, "reason": reason, "receipt": receipt}
    write_line(session, lesson.user_id, "requeued", lesson.id, detail)
    lose_adapter(session, lesson)
    _queue(lesson, 0)
    lesson.receipt = lesson.error = lesson.started = lesson.finished = None


def lose_adapter(session: Session, lesson: Lesson) -> dict[str, Any]:
    """Takes the name of a lesson's adapter away, if it has one; what the history is to say of it."""
    adapter = None if lesson.adapter is None else take_away(session, lesson.adapter)
    lesson.adapter = None
    return (
        {} if adapter is None else {"adapter": adapter.name, "folder": adapter.folder, "content_id": adapter.content_id}
    )


def free(lesson: Lesson) -> None:
    """Ends the lease: whoever works on the lesson learns at the next beat that it is no longer theirs."""
    lesson.worker = lesson.lease = None
    lesson.cancel = False


def _queue(lesson: Lesson, attempt: int) -> None:
    free(lesson)
    lesson.state, lesson.attempt, lesson.progress = "queued", attempt, {}


def _held(session: Session, lesson_id: int, worker: str) -> Lesson | None:
    held = (Lesson.id == lesson_id, Lesson.worker == worker, Lesson.state == "running")
    return session.scalar(select(Lesson).where(*held).with_for_update())


def _end(
    session: Session, lesson: Lesson, state: str, error: str | None, adapter: Mapping[str, Any] | None = None
) -> None:
    free(lesson)
    lesson.state, lesson.error, lesson.finished = state, error, now()
    detail = {"name": lesson.name, "kind": lesson.kind, "error": error, **(adapter or {})}
    write_line(session, lesson.user_id, state, lesson.id, detail)
    grown(session)
