"""Making lessons in the foreground: the server's own worker in this process, and how far it is on the screen."""

from __future__ import annotations

import sys
import time
from threading import Thread
from typing import TYPE_CHECKING, Any

from nanohydra.train.signals import Interrupted, StopRequest

if TYPE_CHECKING:
    from nanohydra.hydra.worker import Worker
    from nanohydra.store import Lesson, Store

OVER = ("published", "rejected", "failed", "cancelled", "reverted")
STAGES = {
    "starting": "starting",
    "prepare": "writing wordings",
    "train": "training",
    "measure": "measuring",
    "judge": "judging",
    "save": "saving",
    "waiting": "waiting",
}
POLL_SECONDS = 0.2


def make(store: Store, lesson_ids: list[int], user_id: int) -> list[Lesson]:
    """Has lessons made, by this process or by a server's worker that is at it already, and returns them when they are over.

    Raises Interrupted at Ctrl-C: the lessons are queued then, and the next worker goes on.
    """
    from nanohydra.hydra.worker import Worker, WorkerConfig

    worker = Worker(store, WorkerConfig(niceness=0, poll_seconds=POLL_SECONDS))
    trouble: list[BaseException] = []
    thread = Thread(target=_work, args=(worker, trouble), daemon=True)
    thread.start()
    asked = StopRequest()  # remembered, not raised: in the middle of a transaction it would leave the database locked
    try:
        with asked.listening(speak=False), Bar() as bar:
            for lesson_id in lesson_ids:
                bar.begin(lesson_id)
                while (
                    (lesson := store.lesson(lesson_id, user_id)).state not in OVER and not trouble and not asked.signal
                ):
                    bar.show(lesson)
                    time.sleep(POLL_SECONDS)
    finally:
        worker.stop.set()
        thread.join()
    if asked.signal:
        running = any(store.lesson(lesson_id, user_id).state == "running" for lesson_id in lesson_ids)
        how = "The server goes on with it." if running else "The lesson stays queued. Go on with: nanohydra learn"
        raise Interrupted(how, 128 + asked.signal)
    if trouble:
        raise trouble[0]
    return [store.lesson(lesson_id, user_id) for lesson_id in lesson_ids]


def _work(worker: Worker, trouble: list[BaseException]) -> None:
    """Makes what is queued until told to stop; where another process is the machine's worker, waits for its turn."""
    try:
        with worker.alone() as first:
            while first and not worker.stop.is_set():
                if not worker.work_once():
                    worker.stop.wait(POLL_SECONDS)
    except BaseException as e:  # told to the person by the main thread
        trouble.append(e)


class Bar:
    """A lesson's stage, how far it is and the time left: a bar on a terminal, else a line for each stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"))
        self._bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self._task = self._bar.add_task("", total=1.0, text="") if self._bar else None
        self._said = ""
        self._title = ""

    def __enter__(self) -> Bar:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar:
            self._bar.stop()

    def begin(self, lesson_id: int) -> None:
        """Which lesson is waited for."""
        self._title = f"lesson {lesson_id}"

    def show(self, lesson: Lesson) -> None:
        """Shows what the lesson's worker told last."""
        progress: dict[str, Any] = lesson.progress or {}
        stage = progress.get("stage", "starting") if lesson.state == "running" else "queued"
        what = f"{self._title}: {STAGES.get(stage, stage)}"
        if self._bar and self._task is not None:
            share = progress.get("step", 0) / max(1, progress.get("of", 0) or 1)
            left = f"{max(0, round(progress['seconds_left']))} s left" if "seconds_left" in progress else ""
            text = "  ".join(filter(None, (left, progress.get("detail", ""))))
            self._bar.update(self._task, description=what, completed=min(1.0, share), text=text)
        elif what != self._said:
            print(what, file=sys.stderr, flush=True)
            self._said = what
