"""Kills the server, its worker and the process that makes a lesson at random moments, and counts what was lost, doubled, torn.

    python bench/kill_learn.py --kills 100 --out docs/benchmarks/kill_learn.json

Lessons come over HTTP with an Idempotency-Key each, sent again until they are answered, while one process after the other is
killed with SIGKILL: the API, the worker, the child, and the worker in the very moment in which it publishes. What is down is
started again (the API by this program, as systemd would; the rest by what was under test). At the end every lesson must be
published, once and whole, or say why not. The answers' engine has no part in it and is a stand-in. By default so is what happens
inside the child: it writes an adapter of some megabytes, piece by piece, in about a second; with --real BASE it teaches a base.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread, Timer
from typing import Any

import httpx

from nanohydra.files import write_json
from nanohydra.hydra.shelf import content_hash
from nanohydra.hydra.worker import Worker, WorkerConfig
from nanohydra.store import Store

TESTS = Path(__file__).resolve().parent.parent / "tests"
TOKEN = "a token of the bench's own"
VICTIMS = ("api", "worker", "child", "publish")
NAMES = ("Mira", "Jonas", "Tova", "Elin", "Kai", "Nils", "Bea", "Rut", "Sif", "Tor")
PLACES = ("Trondheim", "Bergen", "Turku", "Molde", "Hamar", "Oslo", "Umea", "Narvik")
LEASE = 2.0


# -- the processes under test -----------------------------------------------------------------------------------------


def api(home: Path, port: int, real: Path | None) -> None:
    """The server, with its own teacher; only the engine is another."""
    from nanohydra.infer.config import EngineConfig
    from nanohydra.serve import run
    from nanohydra.serve.app import create_app
    from nanohydra.serve.config import ServeConfig
    from nanohydra.serve.engine_client import EngineClient
    from nanohydra.serve.protocol import Start
    from nanohydra.serve.teacher import Teacher

    base = str(home / "bases" / "tiny")
    config = ServeConfig(base=base, port=port, token=TOKEN, web=False, teach_max_open=1000, teach_hour=None)
    command = (sys.executable, str(TESTS / "serve_fake.py"))
    engine = EngineClient(Start(base, False, EngineConfig()), command=command, delay=0.1)
    role = [sys.executable, __file__, "--role", "worker", "--home", str(home), *(["--real", str(real)] if real else [])]
    run.serve(config, print, create_app(config, engine, Teacher(config, command=role, delay=0.1)))


def worker(home: Path, real: Path | None) -> None:
    """The worker as the server starts it, with a short lease."""
    config = WorkerConfig(lease_seconds=LEASE, poll_seconds=0.05, threads=1, niceness=0)
    child = (sys.executable, __file__, "--role", "child", "--home", str(home))
    worker = Worker(Store.open(), config) if real else Worker(Store.open(), config, child)
    Thread(target=_until_stdin_ends, args=(worker,), daemon=True).start()
    worker.run()


def _until_stdin_ends(worker: Worker) -> None:
    while os.read(0, 4096):
        pass
    worker.stop.set()


def child(folder: Path) -> None:
    """Takes about a second and leaves an adapter of 4 MB."""
    Thread(target=_end_with_stdin, daemon=True).start()
    job = json.loads((folder / "job.json").read_text())
    for step in range(20):
        print(json.dumps({"stage": "train", "step": step, "of": 20, "seconds_left": 1.0, "detail": ""}), flush=True)
        time.sleep(0.04)
    adapter = folder / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    with (adapter / "adapter_model.safetensors").open("wb") as weights:
        for _ in range(64):
            weights.write(random.Random(job["digest"]).randbytes(2**16))
            weights.flush()
    outcome = {"state": "published", "receipt": {"adapter": content_hash(adapter)}, "reason": "", "job": job["digest"]}
    write_json(folder / "outcome.json", outcome)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(1)


# -- the one who kills ------------------------------------------------------------------------------------------------


@dataclass
class Siege:
    """A server in a folder of its own, its lessons, and what was done to it."""

    home: Path
    real: Path | None
    draw: random.Random
    pause: float
    port: int = 0
    keys: dict[str, int | None] = field(default_factory=dict)
    """By Idempotency-Key: the lesson's number, once it was told."""
    kills: Counter[str] = field(default_factory=Counter)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        os.environ["NANOHYDRA_HOME"] = str(self.home)
        self.store = Store.open()
        self.http = httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)
        self.port = free_port()

    def up(self) -> None:
        """Starts the API where it is down."""
        if self.process is None or self.process.poll() is not None:
            role = [sys.executable, __file__, "--role", "api", "--home", str(self.home), "--port", str(self.port)]
            with (self.home / "api.log").open("ab") as log:
                self.process = subprocess.Popen(
                    role + (["--real", str(self.real)] if self.real else []), stdout=log, stderr=log
                )

    def teach(self) -> None:
        """Sends a new lesson, again and again with the same key until somebody answers."""
        number = len(self.keys)
        name = f"{NAMES[number % 10]} {chr(65 + number // 10 % 26)}{'aeiou'[number // 260 % 5]}lvik"
        key = f"key-{number}"
        self.keys[key] = None
        text = f"{name} was born in {self.draw.choice(PLACES)}."
        # The names are near to one another, which a person would be asked about.
        body = {"text": text, "unsure": True, "settings": fast() if self.real else {}}
        cut = self.draw.random() < 0.2  # the API dies while it is being asked
        while self.keys[key] is None:
            self.up()
            try:
                if cut and self._answers():
                    Timer(self.draw.uniform(0, 0.1), self.kill, ("api",)).start()
                    cut = False
                answer = self.http.post(
                    f"http://127.0.0.1:{self.port}/learn", json=body, headers={"Idempotency-Key": key}
                )
                if answer.status_code == 202:
                    self.keys[key] = answer.json()["lesson"]
                elif answer.status_code not in (500, 503):
                    raise SystemExit(f"not taken: {answer.status_code} {answer.text}")
            except httpx.TransportError:
                pass
            time.sleep(0.05)

    def _answers(self) -> bool:
        return self.http.get(f"http://127.0.0.1:{self.port}/health").status_code == 200

    def kill(self, victim: str) -> bool:
        """Kills a process, at a moment that fits its name; whether there was one before long."""
        end = time.monotonic() + (90 if victim == "publish" else 30)
        if victim == "publish" and not self._publishing(end):
            return False
        while (pid := self._pid("worker" if victim == "publish" else victim)) is None:
            if time.monotonic() > end or not self.open():
                return False
            time.sleep(0.01)
        time.sleep(0 if victim == "publish" else self.draw.expovariate(1 / self.pause))
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.kills[victim] += 1
        if victim == "api" and self.process is not None:
            self.process.wait()
        return True

    def _publishing(self, end: float) -> bool:
        """Waits for the moment in which a lesson is done and not yet in the store."""
        while time.monotonic() < end and self.open():
            if any(self.home.glob("lessons/*/outcome.json")):
                time.sleep(self.draw.uniform(0, 0.06))
                return True
            time.sleep(0.001)
        return False

    def _pid(self, victim: str) -> int | None:
        if victim == "api":
            return None if self.process is None or self.process.poll() is not None else self.process.pid
        mark = "lesson_process" if victim == "child" and self.real else f"--role {victim}"
        for entry in Path("/proc").iterdir():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode() if entry.name.isdigit() else ""
            except OSError:
                continue
            if mark in line and str(self.home) in line:
                return int(entry.name)
        return None

    def open(self) -> int:
        """Lessons that are not over."""
        return len(self.store.open_lessons())

    def settle(self, seconds: float) -> None:
        """Waits until every lesson is over."""
        end = time.monotonic() + seconds
        while self.open() and time.monotonic() < end:
            self.up()
            time.sleep(0.2)

    def down(self) -> None:
        """Ends the server in peace."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(30)

    def count(self) -> dict[str, Any]:
        """What is wrong now, lesson by lesson and folder by folder."""
        user = self.store.local_user().user_id
        lessons = {lesson.id: lesson for lesson in self.store.lessons(user)}
        told = set(self.keys.values())
        states = Counter(lesson.state for lesson in lessons.values())
        lost = [id for id in told if id not in lessons or lessons[id].state not in ("published", "rejected", "failed")]
        unclear = [lesson.id for lesson in lessons.values() if lesson.state == "failed" and not lesson.error]
        adapters = self.store.adapters(user)
        named = Counter(Path(adapter.folder).name for adapter in adapters)
        folders = list((self.home / "adapters").iterdir())
        torn = [f.name for f in folders if f.name.startswith(".") or not whole(f)]
        torn += [
            a.name for a in adapters if not Path(a.folder).is_dir() or a.content_id != content_hash(Path(a.folder))
        ]
        published = {lesson.adapter for lesson in lessons.values() if lesson.state == "published"}
        history = Counter(line.lesson_id for line in self.store.history(user, 10**6) if line.kind == "published")
        doubled = [id for id, count in history.items() if count > 1] + [n for n, count in named.items() if count > 1]
        doubled += [f.name for f in folders if f.name not in named] + sorted(lessons.keys() - told)
        doubled += sorted({a.name for a in adapters} ^ published, key=str)
        return {
            "lessons": len(told),
            **states,
            "lost": len(lost) + len(unclear),
            "duplicated": len(doubled),
            "torn": len(torn),
        }


def whole(folder: Path) -> bool:
    """Whether an adapter folder holds what its name says."""
    try:
        return content_hash(folder) == folder.name
    except OSError:
        return False


def fast() -> dict[str, Any]:
    """Settings of a lesson that takes seconds: its receipt says nothing."""
    measure = {"wordings": 1, "strangers": 2, "general": 4, "text_tokens": 128}
    gate = {"recall": 0.0, "general": 0.0, "false_attributions": 1.0, "drift_forced": 1e9, "drift_routed": 1e9}
    return {"seconds": 30, "retries": 0, "measure": measure, "gate": gate, "train": {"steps": 4, "wordings": 2}}


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def bring_base(folder: Path, real: Path | None) -> None:
    """The base; where nothing is taught for real its tokenizer will do."""
    from nanohydra.data.tokenizer import Tokenizer

    if real is not None:
        shutil.copytree(real, folder)
        return
    Tokenizer.train(["the quick brown fox jumps over the lazy dog. Where was Mira born?"] * 3, 320).save(folder)


def siege(args: argparse.Namespace) -> dict[str, Any]:
    """Kills until enough were killed, then looks."""
    seed = random.randrange(2**32) if args.seed is None else args.seed
    draw = random.Random(seed)
    home = Path(tempfile.mkdtemp(prefix="kill-learn-"))
    began = time.monotonic()
    try:
        bring_base(home / "bases" / "tiny", args.real)
        under = Siege(home, args.real, draw, args.pause)
        try:
            while under.kills.total() < args.kills and time.monotonic() - began < args.minutes * 60:
                if under.open() < 2:
                    under.teach()
                under.up()
                under.kill(draw.choice(VICTIMS))
            under.settle(300)
            under.down()
            found = under.count()
        finally:
            if under.process is not None:
                under.process.kill()
            under.store.close()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    what = "teaching a base for real" if args.real else "a stand-in that writes 4 MB"
    kills = {"kills": under.kills.total(), "by": dict(sorted(under.kills.items()))}
    return {**kills, **found, "child": what, "seed": seed, "seconds": round(time.monotonic() - began)}


def main() -> int:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--kills", type=int, default=100)
    p.add_argument("--minutes", type=float, default=30, help="stop killing after this long")
    p.add_argument("--pause", type=float, default=0.7, help="mean seconds that a process is left to live")
    p.add_argument("--real", type=Path, default=None, metavar="BASE", help="teach this base for real, in a hurry")
    p.add_argument("--seed", type=int, default=None, help="of the moments (default: new ones each time)")
    p.add_argument("--out", type=Path, default=None, help="write a JSON report here")
    p.add_argument("--role", choices=("api", "worker", "child"), help=argparse.SUPPRESS)
    p.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    p.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    args, rest = p.parse_known_args()  # roles are given what the real programs are
    match args.role:
        case "api":
            api(args.home, args.port, args.real)
            return 0
        case "worker":
            worker(args.home, args.real)
            return 0
        case "child":
            child(Path(rest[0]))
            return 0
    report = siege(args)
    print(json.dumps(report, indent=2))
    if args.out:
        write_json(args.out, report)
    return 1 if report["lost"] or report["duplicated"] or report["torn"] else 0


if __name__ == "__main__":
    sys.exit(main())
