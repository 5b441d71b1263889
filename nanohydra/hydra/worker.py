"""The worker: claims lessons from the store, has each made by a child process, and publishes what passes. Loads no torch.

    python -m nanohydra.hydra.worker --database URL

Whatever is killed, and whenever: the lesson's row is the job, its lease ends, and the next worker goes on. What the child has
finished lies in the lesson's folder, so a publish that was cut short is done again with the same bytes under the same name.
A lock keeps workers of one machine apart; the child holds it too, so that no second child begins before the first is gone.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from nanohydra import logs
from nanohydra.errors import UserError
from nanohydra.files import write_json
from nanohydra.hydra.lesson_job import NothingToTrain, job_of
from nanohydra.hydra.retest import Probe
from nanohydra.hydra.schedule import Schedule
from nanohydra.hydra.shelf import Shelf
from nanohydra.store import Lesson, Store

log = logging.getLogger("nanohydra.hydra.worker")

COMMAND = (sys.executable, "-m", "nanohydra.hydra.lesson_process")
JOB, OUTCOME, LOG = "job.json", "outcome.json", "log.txt"


@dataclass(frozen=True)
class WorkerConfig:
    """How lessons are made."""

    lease_seconds: float = 20.0
    """A lesson whose worker was not heard of for this long is taken over."""
    silence_seconds: float = 900.0
    """A child that tells nothing for this long is killed, and the attempt counts."""
    poll_seconds: float = 0.5
    """How often to look for a new lesson."""
    threads: int = 0
    """Threads that training may use (0: as many as there are processors)."""
    niceness: int = 10
    """How much lower than that of answers the priority of training is, 0 to 19."""


class ChildFailed(Exception):
    """The child ended without an outcome."""


class Stopped(Exception):
    """The worker is to end, or the lesson is no longer its own."""


class Worker:
    """Makes lessons, one at a time."""

    def __init__(self, store: Store, config: WorkerConfig | None = None, command: Sequence[str] = COMMAND) -> None:
        self.store = store
        self.config = config or WorkerConfig()
        self.command = tuple(command)
        self.name = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(3).hex()}"
        self.stop = Event()
        self.shelf = Shelf(store)
        self._lock: int | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def alone(self, wait: bool = True) -> Iterator[bool]:
        """Within, this is the machine's only worker; False where there is another and `wait` is False, or `stop` was set."""
        self.shelf.lessons.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(self.shelf.lessons / "worker.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            while not (locked := _lock(lock)) and wait and not self.stop.wait(self.config.poll_seconds):
                pass
            if locked:
                self._lock = lock
                self.shelf.repair()
            yield locked
        finally:
            self._lock = None
            os.close(lock)

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        """Until `stop` is set. between: called whenever there is no lesson to make."""
        with self.alone() as first:
            while first and not self.stop.is_set():
                if not self.work_once():
                    self.shelf.tidy()
                    between()
                    self.stop.wait(self.config.poll_seconds)

    def work_once(self) -> bool:
        """Makes the next lesson, if there is one."""
        lesson = self.store.claim(self.name, self.config.lease_seconds)
        if lesson is None:
            return False
        log.info("lesson begins", extra={"lesson": lesson.id, "attempt": lesson.attempt})
        try:
            outcome = self._outcome(lesson)
        except Stopped:
            if self.stop.is_set():
                self.store.release(lesson.id, self.name)
            else:
                self.store.finish(lesson.id, self.name, "cancelled")
            return True
        except ChildFailed as e:
            log.warning("child lost", extra={"lesson": lesson.id, "reason": str(e)})
            self.store.beat(lesson.id, self.name, {"stage": "waiting", "detail": str(e)}, 0.0)  # the attempt counts
            return True
        except UserError as e:
            outcome = {"state": "rejected" if isinstance(e, NothingToTrain) else "failed", "reason": str(e)}
        try:
            self._finish(lesson, outcome)
        except UserError as e:  # the disk is full, the adapter's name is taken
            self._finish(lesson, {"state": "failed", "reason": str(e)})
        return True

    # -- making a lesson ----------------------------------------------------------------------------------------------

    def _outcome(self, lesson: Lesson) -> dict[str, Any]:
        """What came of a lesson: from its child, or as an earlier child left it. UserError, ChildFailed, Stopped."""
        job = job_of(self.store, lesson)
        digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode()).hexdigest()
        folder = self.shelf.folder(lesson)
        done = read_outcome(folder)
        if done is None or done["job"] != digest:
            _cleared(folder)
            write_json(folder / JOB, {**job, "digest": digest})
            self._run_child(folder, lambda progress: self._beat(lesson, progress))
            done = read_outcome(folder)
        if done is None:
            raise ChildFailed("Its process ended without an outcome.")
        return done

    def _beat(self, lesson: Lesson, progress: Mapping[str, Any]) -> None:
        alive = self.store.beat(lesson.id, self.name, dict(progress), self.config.lease_seconds)
        if not alive or self.stop.is_set():
            raise Stopped

    def _run_child(self, folder: Path, beat: Callable[[Mapping[str, Any]], None]) -> None:
        """Runs the child on a folder to its end, and tells `beat` what it tells, at least three times a lease."""
        every = self.config.lease_seconds / 4
        lines: SimpleQueue[bytes | None] = SimpleQueue()
        with (folder / LOG).open("ab") as errors, self._child(folder, errors) as child:
            assert child.stdout is not None
            Thread(target=_pump, args=(child.stdout, lines), daemon=True).start()
            progress: dict[str, Any] = {"stage": "starting"}
            heard, told = time.monotonic(), 0.0
            while True:
                try:
                    line = lines.get(timeout=min(every, 0.5))
                    if line is None:
                        break
                    progress, heard = json.loads(line), time.monotonic()
                except Empty:
                    pass
                now = time.monotonic()
                if now - heard > self.config.silence_seconds:
                    raise ChildFailed(f"Its process was silent for {self.config.silence_seconds:g} seconds.")
                if now - told >= min(every, 1.0) or self.stop.is_set():
                    beat(progress)
                    told = now
            if (status := child.wait()) != 0 and not (folder / OUTCOME).exists():
                raise ChildFailed(_ending(status))

    @contextlib.contextmanager
    def _child(self, folder: Path, errors: Any) -> Iterator[subprocess.Popen[bytes]]:
        """A child that ends with us: its stdin is a pipe that only we hold."""
        assert self._lock is not None, "only the machine's one worker has children"
        threads = str(self.config.threads or os.cpu_count() or 1)
        child = subprocess.Popen(
            [*self.command, str(folder), "--niceness", str(self.config.niceness)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(self._lock,),
            process_group=0,  # a terminal's Ctrl-C is for us: we end the child
            env={"OMP_NUM_THREADS": threads, **os.environ},
        )
        try:
            yield child
        finally:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def probe(self, probe: Probe) -> dict[str, int] | None:
        """Asks facts again in a child, like a lesson: right answers by the facts' ids; None where it came to nothing."""
        folder = self.shelf.work("retest")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_json(folder / JOB, {**probe.job(self.store), "digest": ""})
        try:
            self._run_child(folder, self._unless_stopped)
        except (ChildFailed, Stopped) as e:
            log.warning("no re-test", extra={"reason": str(e)})
        done = read_outcome(folder) or {"state": "lost"}
        shutil.rmtree(folder, ignore_errors=True)
        right: dict[str, int] | None = done.get("right")
        return right

    def _unless_stopped(self, progress: Mapping[str, Any]) -> None:
        if self.stop.is_set():
            raise Stopped

    def _finish(self, lesson: Lesson, outcome: Mapping[str, Any]) -> None:
        """Puts the adapter on the shelf, then tells the store, in one transaction; only then the lesson's folder goes."""
        state = outcome["state"]
        adapter = self.shelf.put(lesson) if state == "published" else None
        receipt, reason = outcome.get("receipt"), outcome.get("reason") or None
        kept = self.store.finish(lesson.id, self.name, state, receipt=receipt, error=reason, adapter=adapter)
        log.info("lesson ends", extra={"lesson": lesson.id, "state": state if kept else "lost"})
        self.shelf.changed()


def main(argv: list[str] | None = None) -> int:
    """Works until a signal comes. The database's URL may come in NANOHYDRA_DATABASE, as it may hold a
    password and everybody can read a command line."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--database", default=os.environ.get("NANOHYDRA_DATABASE"), help="URL (default: in the home folder)")
    for field in fields(WorkerConfig):
        p.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    p.add_argument("--hour", type=int, help="of the day (local time) at which lessons are consolidated and asked again")
    p.add_argument("--until_stdin_ends", action="store_true", help="end with whoever holds the other end of stdin")
    args = vars(p.parse_args(argv))
    hour, until_stdin_ends = args.pop("hour"), args.pop("until_stdin_ends")
    logs.set_up()
    store = Store.open(args.pop("database"))
    worker = Worker(store, WorkerConfig(**args))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop.set())
    if until_stdin_ends:
        Thread(target=_stop_with_stdin, args=(worker,), daemon=True).start()
    try:
        worker.run(Schedule(worker, hour).look)
    finally:
        store.close()
    return 0


def _stop_with_stdin(worker: Worker) -> None:
    """Waits for the end of stdin: whoever started us is gone, however that came."""
    while os.read(0, 4096):  # not sys.stdin, whose lock a thread would hold at the end
        pass
    worker.stop.set()


def _cleared(folder: Path) -> None:
    """Makes a folder, or empties it of all but the log of earlier attempts."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != LOG:
            path.unlink()


def read_outcome(folder: Path) -> dict[str, Any] | None:
    """What a child has finished in a lesson's folder."""
    try:
        outcome: dict[str, Any] = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return outcome


def _lock(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pump(source: Any, lines: SimpleQueue[bytes | None]) -> None:
    with contextlib.suppress(ValueError, OSError):  # closed under us
        for line in source:
            lines.put(line)
    lines.put(None)


def _ending(status: int) -> str:
    return f"Its process was killed (signal {-status})." if status < 0 else f"Its process ended with status {status}."


if __name__ == "__main__":
    sys.exit(main())
