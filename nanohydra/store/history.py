"""The history: what was taught, published, reverted, forgotten, and when. Lines are only ever added."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from nanohydra.store.database import Database, one_at_a_time
from nanohydra.store.lesson_models import HistoryLine, Lesson
from nanohydra.store.models import Setting

VERSION = "lessons' version"  # the setting that counts changes


class History(Database):
    """A line holds numbers and names, never what a fact says: a fact that is forgotten is in no line."""

    def history(self, user_id: int, limit: int = 100, before: int | None = None) -> list[HistoryLine]:
        """The newest lines, newest first, of the user and of lessons shared with them; `before`: older than that line."""
        shared = select(Lesson.id).where(Lesson.shared)
        query = select(HistoryLine).where((HistoryLine.user_id == user_id) | HistoryLine.lesson_id.in_(shared))
        if before is not None:
            query = query.where(HistoryLine.id < before)
        with self._reading() as session:
            return list(session.scalars(query.order_by(HistoryLine.id.desc()).limit(limit)))

    def note(self, user_id: int, kind: str, detail: Mapping[str, Any], lesson_id: int | None = None) -> None:
        """Adds a line of the caller's: a probe of old facts, the proof that a fact is forgotten."""
        with self._writing() as session:
            one_at_a_time(session)
            write_line(session, user_id, kind, lesson_id, detail)

    def version(self) -> int:
        """A number that grows with each change of lessons, facts or passages: what was read before is to be read again."""
        with self._reading() as session:
            return int(session.scalar(select(Setting.value).where(Setting.key == VERSION)) or 0)


def write_line(session: Session, user_id: int, kind: str, lesson_id: int | None, detail: Mapping[str, Any]) -> None:
    """Adds a line to the transaction that does what it tells of."""
    session.add(HistoryLine(user_id=user_id, kind=kind, lesson_id=lesson_id, detail=dict(detail)))


def grown(session: Session) -> None:
    """Counts a change. The transaction has called `one_at_a_time`, so numbers grow in the order of the changes."""
    row = session.get(Setting, VERSION)
    if row is None:
        session.add(Setting(key=VERSION, value=1))
    else:
        row.value += 1
