"""What the worker does by itself at night: lessons consolidated, facts asked again. Loads no torch."""

from __future__ import annotations

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from nanohydra.errors import UserError
from nanohydra.hydra import history, retest
from nanohydra.store import Lesson, Store, User

if TYPE_CHECKING:
    from nanohydra.hydra.worker import Worker

NIGHT, WANTED = "last night", "retest wanted"
log = logging.getLogger("nanohydra.hydra.schedule")


class Schedule:
    """Looks at the clock whenever the worker has nothing else to do.

    hour: of the day (local time) in which the night's work begins; None: never by itself."""

    def __init__(self, worker: Worker, hour: int | None, clock: Callable[[], datetime] = datetime.now) -> None:
        self._worker = worker
        self._store: Store = worker.store
        self._hour = hour
        self._clock = clock

    def look(self) -> None:
        """Does what is due: once a night, and whenever a re-test was asked for."""
        now = self._clock().astimezone()
        if now.hour == self._hour and self._store.setting(NIGHT) != now.date().isoformat():
            self._store.set_setting(NIGHT, now.date().isoformat())
            self._retest(now)
            for user in self._store.users():
                consolidate_new(self._store, user)
        elif self._store.setting(WANTED):
            wanted: dict[str, Any] = self._store.setting(WANTED)
            self._store.set_setting(WANTED, None)
            self._retest(now, wanted["user_id"], wanted["everything"])

    def _retest(self, now: datetime, user_id: int | None = None, everything: bool = False) -> None:
        for probe in retest.due(self._store, now, user_id, everything):
            right = self._worker.probe(probe)
            if right is not None:
                retest.record(self._store, probe, right, now)


def consolidate_new(store: Store, user: User) -> list[Lesson]:
    """Queues a consolidation over each base where lessons were published since the last one."""
    bases: dict[str, list[Lesson]] = defaultdict(list)
    for lesson in store.lessons(user.id, "published"):
        if lesson.user_id == user.id:
            bases[lesson.base_id].append(lesson)
    queued = []
    for lessons in bases.values():
        held = {part for one in lessons if one.kind == "consolidation" for part in one.settings["lessons"]}
        if {one.id for one in lessons if one.kind == "lesson"} - held:
            with contextlib.suppress(UserError):  # fewer than two lessons, or one under way
                queued.append(history.consolidate(store, user.id, lessons[0].base_id, lessons[0].base_name))
    return queued
