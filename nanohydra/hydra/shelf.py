"""Where adapters of lessons lie, and where lessons are made: putting them there, mending what a kill left, clearing away. Loads
no torch.

An adapter's folder is named by its content, so that it can be put there twice; a mark in it tells whose it is, since several
databases may share a home.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from pathlib import Path

from nanohydra.files import atomic_folder, write_json
from nanohydra.home import home
from nanohydra.store import Lesson, Store

log = logging.getLogger("nanohydra.hydra.worker")

MARK = "lesson.json"
"""In an adapter's folder: the database that knows it, and its lesson."""


class Shelf:
    """The folders of one database's lessons."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.lessons = home() / "lessons"
        self.adapters = home() / "adapters"
        self._identity = ""
        self._tidied = -1

    @property
    def database(self) -> str:
        """The database's own name, drawn once: so that databases that share a home know what is theirs."""
        if not self._identity:
            if (known := self.store.setting("identity")) is None:
                self.store.set_setting("identity", os.urandom(16).hex())
                known = self.store.setting("identity")
            self._identity = str(known)
        return self._identity

    def work(self, name: str) -> Path:
        """A folder to work in."""
        return self.lessons / f"{self.database[:8]}-{name}"

    def folder(self, lesson: Lesson) -> Path:
        """Where a lesson is made."""
        return self.work(str(lesson.id))

    def put(self, lesson: Lesson) -> tuple[str, str, str, str]:
        """Puts a lesson's finished adapter in its place: its name, folder, base and content id. Twice comes to the same."""
        source = self.folder(lesson) / "adapter"
        content_id = content_hash(source)
        final = self.adapters / content_id
        if not final.exists():
            with atomic_folder(final) as temporary:
                shutil.copytree(source, temporary, dirs_exist_ok=True)
                temporary.chmod(0o700)  # its receipt quotes what was taught
                write_json(temporary / MARK, {"database": self.database, "lesson": lesson.id})
        return adapter_name(lesson), str(final), lesson.base_id, content_id

    def changed(self) -> None:
        """Says that `tidy` has something to look at."""
        self._tidied = -1

    def repair(self) -> list[str]:
        """Mends what a killed worker left: half-written folders go, and lessons whose adapter folder is missing are made
        again. Returns a line for each thing that was done. For the one worker alone, who may write here."""
        self.adapters.mkdir(parents=True, exist_ok=True)
        mended = []
        for folder in self.adapters.iterdir():
            if folder.name.startswith(".") and folder.name.endswith((".tmp", ".old")):
                shutil.rmtree(folder, ignore_errors=True)
                mended.append(f"half-written, removed: {folder.name}")
        for lesson in self.store.published_lessons():
            if not Path(lesson.adapter_folder).is_dir():
                self.store.requeue(lesson.id, lesson.user_id)
                mended.append(f"adapter lost, made again: lesson {lesson.id}")
        return self._told(mended + self._tidy())

    def tidy(self) -> list[str]:
        """Removes what no lesson needs any more, where the store has changed: adapters that lost their names (a lesson
        reverted, a fact forgotten, a publish that was cut short), and working folders of lessons that are over."""
        if self.store.version() == self._tidied:
            return []
        return self._told(self._tidy())

    def _tidy(self) -> list[str]:
        self._tidied = self.store.version()
        open_folders = {self.folder(lesson).name for lesson in self.store.open_lessons()}
        old = [f for f in self.lessons.glob(f"{self.database[:8]}-*") if f.name not in open_folders]
        named = {Path(folder).name for folder in self.store.adapter_folders()}
        old += [f for f in self.adapters.iterdir() if f.name not in named and self._ours(f)]
        for folder in old:
            shutil.rmtree(folder, ignore_errors=True)
        return [f"no longer needed, removed: {folder.name}" for folder in old]

    def _ours(self, folder: Path) -> bool:
        """Whether a lesson of this database was published as this folder: others may share the home."""
        try:
            mark = json.loads((folder / MARK).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return bool(mark.get("database") == self.database)

    def _told(self, mended: list[str]) -> list[str]:
        for line in mended:
            log.info("tidied", extra={"what": line})
        return mended


def adapter_name(lesson: Lesson) -> str:
    """The name of a lesson's adapter. People's own adapters cannot have such names."""
    return f"lesson-{lesson.id}"


def content_hash(folder: Path) -> str:
    """The id of an adapter folder, as adapt.folder.adapter_id computes it, without torch."""
    parts = (folder / name for name in ("adapter_config.json", "adapter_model.safetensors"))
    return hashlib.sha256(b"".join(hashlib.sha256(part.read_bytes()).digest() for part in parts)).hexdigest()
