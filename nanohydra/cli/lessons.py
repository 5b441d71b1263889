"""What the verbs about lessons share: the database and its local user, a lesson by what a person calls it, and words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nanohydra.cli.parsing import Parser, parser
from nanohydra.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nanohydra.store import Lesson, Store

STATES = {
    "queued": "waiting to be trained",
    "running": "being trained",
    "published": "published",
    "rejected": "rejected: answered by retrieval",
    "failed": "failed: answered by retrieval",
    "cancelled": "cancelled: answered by retrieval",
    "reverted": "reverted",
}


def memory_parser(verb: str, description: str, usage: str | None = None) -> Parser:
    """A parser of a verb that works with what was taught."""
    p = parser(verb, description, usage)
    p.add_argument("--database", type=str | None, default=None, help="its URL (default: SQLite in the home folder)")
    return p


@contextmanager
def memory(database: str | None) -> Iterator[tuple[Store, int]]:
    """The store and the id of the person at this machine. Raises UserError where it cannot be opened."""
    try:
        from nanohydra.store import Store
    except ModuleNotFoundError as e:
        raise UserError(f"Teaching needs {e.name}: pip install 'nanohydra[teach]'") from e
    store = Store.open(database)
    try:
        yield store, store.local_user().user_id
    finally:
        store.close()


def find_lesson(store: Store, user_id: int, said: str) -> Lesson:
    """The lesson of a number ("3", "lesson 3", "lesson-3") or of a name. Raises UserError."""
    number = re.fullmatch(r"(?:lesson[ -]?|#)?(\d{1,18})", said.strip(), re.IGNORECASE)
    if number:
        return store.lesson(int(number.group(1)), user_id)
    lessons = store.lessons(user_id)
    named = [lesson for lesson in lessons if lesson.name.casefold() == said.strip().casefold()]
    if len(named) > 1:
        numbers = ", ".join(str(lesson.id) for lesson in named)
        raise UserError(f'Lessons {numbers} are named "{said}". Give a number.')
    if not named:
        near = did_you_mean(said, {lesson.name for lesson in lessons}) if lessons else ""
        raise UserError(f'There is no lesson "{said}".{near} See: nanohydra log')
    return named[0]


def find_base(name: str) -> tuple[str, str]:
    """What a lesson calls a base, and the base's content hash. Raises UserError."""
    from nanohydra.hydra.history import base_name
    from nanohydra.model import hub

    return base_name(str(hub.find_base(name))), hub.base_id(name)


def title(lesson: Lesson) -> str:
    """ "lesson 3 "Mira"", "consolidation 4 "...""."""
    return f'{lesson.kind} {lesson.id} "{lesson.name}"'


def minute(moment: datetime | str) -> str:
    """A moment in local time, to the minute."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return moment.astimezone().strftime("%Y-%m-%d %H:%M")


def day(moment: datetime | str) -> str:
    """A day in local time."""
    moment = datetime.fromisoformat(moment) if isinstance(moment, str) else moment
    return moment.astimezone().strftime("%Y-%m-%d")


def counted(count: int, thing: str) -> str:
    """ "1 fact", "3 facts"."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def rows(table: Sequence[Sequence[Any]], indent: str = "  ") -> str:
    """Lines of columns as wide as they must be."""
    widths = [max(len(str(row[i])) for row in table) for i in range(len(table[0]))] if table else []
    lines = (indent + "  ".join(f"{cell!s:<{width}}" for cell, width in zip(row, widths)) for row in table)
    return "\n".join(line.rstrip() for line in lines)
