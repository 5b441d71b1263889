"""The adapters that requests may name, and the settings of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from nanohydra.errors import UserError
from nanohydra.store.accounts import find_user, visible
from nanohydra.store.database import Database, NotFound, one_at_a_time
from nanohydra.store.lesson_models import Lesson
from nanohydra.store.models import Adapter, Setting, User


class Shelf(Database):
    """An adapter's folder is immutable; registering its name again points it to another folder."""

    def register_adapter(
        self, name: str, folder: Path | str, base: str, content_id: str, owner: int | None = None
    ) -> Adapter:
        """Names an adapter folder; `base` and `content_id` are content hashes. Without an owner it is everybody's.

        UserError where the name is somebody else's, NotFound without the owner."""
        adapter = Adapter(name=name, folder=str(folder), base=base, content_id=content_id, owner=owner)
        with self._writing() as session:
            one_at_a_time(session)
            if owner is not None:
                find_user(session, owner, lock=True)
            old = session.get(Adapter, name)
            if old is not None and old.owner != owner:
                raise UserError(f"There is an adapter {name!r} already. Choose another name.")
            _refuse_lessons_own(session, name)
            return session.merge(adapter)

    def adapters(self, user_id: int) -> list[Adapter]:
        """The adapters that a user may name, their own, everybody's and those of shared lessons, by name."""
        with self._reading() as session:
            return list(session.scalars(select(Adapter).where(visible(user_id)).order_by(Adapter.name)))

    def remove_adapter(self, name: str) -> None:
        """Takes a name away (the folder stays); users whose default it was get the base. NotFound; UserError for a lesson's."""
        with self._writing() as session:
            one_at_a_time(session)
            _refuse_lessons_own(session, name)
            if take_away(session, name) is None:
                raise NotFound(f"There is no adapter {name!r}.")

    def setting(self, key: str) -> Any:
        """A setting of the server, as plain data; None where it was never set."""
        with self._reading() as session:
            return session.scalar(select(Setting.value).where(Setting.key == key))

    def set_setting(self, key: str, value: Any) -> None:
        """Keeps a setting: plain data that JSON can hold."""
        with self._writing() as session:
            one_at_a_time(session)
            session.merge(Setting(key=key, value=value))


def take_away(session: Session, name: str) -> Adapter | None:
    """Takes a name away; users whose default it was get the base. None where there is no such name."""
    adapter = session.get(Adapter, name)
    if adapter is not None:
        session.delete(adapter)
        session.execute(update(User).where(User.default_adapter == name).values(default_adapter=None))
    return adapter


def _refuse_lessons_own(session: Session, name: str) -> None:
    """A lesson has its adapter as long as it is published: only the lesson's way changes that."""
    lesson = session.scalar(select(Lesson.id).where(Lesson.adapter == name))
    if lesson is not None:
        raise UserError(f"The adapter {name!r} is that of lesson {lesson}. Revert the lesson instead.")
