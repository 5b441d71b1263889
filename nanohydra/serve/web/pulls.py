"""Bringing bases while the server runs: `nanohydra pull` in a process of its own, and how far it is."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from nanohydra.errors import UserError
from nanohydra.home import bases_dir

_PERCENT = re.compile(r"(\d{1,3})%\|")  # how the hub's download bars begin


@dataclass
class Pull:
    """One base on its way."""

    source: str
    began: float = field(default_factory=time.monotonic)
    share: float | None = None
    """Between 0 and 1, where the download tells."""
    done: bool = False
    error: str = ""
    """Why it failed."""

    @property
    def seconds(self) -> float:
        """How long it has been under way."""
        return time.monotonic() - self.began

    @property
    def bytes(self) -> int:
        """What has arrived so far: `pull` fills a hidden folder beside the target, and renames it at the end."""
        found = 0
        for folder in (*bases_dir().glob(".*.tmp"), *bases_dir().parent.glob("tmp*")):
            for file in folder.rglob("*"):
                with contextlib.suppress(OSError):
                    found += file.stat().st_size
        return found


class Pulls:
    """One pull at a time: two would only share the line."""

    def __init__(self, command: tuple[str, ...] = (sys.executable, "-m", "nanohydra", "pull")) -> None:
        self._command = command
        self._task: asyncio.Task[None] | None = None
        self.current: Pull | None = None
        """The one under way, or the last one."""

    async def start(self, source: str, name: str = "") -> None:
        """Begins to bring `source`: a hub id, or smollm2. UserError for anything else, or where one is under way."""
        if self.current is not None and not self.current.done:
            raise UserError(f"{self.current.source} is being pulled. Wait for it.")
        if not re.fullmatch(r"smollm2|[A-Za-z0-9][\w.-]*/[\w.-]+", source):
            # Folders and files of the server's disk are for its own command line.
            raise UserError('Give a hub id such as "Qwen/Qwen3-0.6B", or smollm2.')
        if name and not re.fullmatch(r"\w[\w.-]*", name):
            raise UserError('A name has letters, digits, ".", "-" and "_".')
        if Path(source).is_dir():
            raise UserError(f'"{source}" is a folder here: pull it from the command line.')
        self.current = Pull(source)
        self._task = asyncio.create_task(self._run(self.current, [source, *(["--name", name] if name else [])]))

    async def close(self) -> None:
        """Ends the one under way; nothing half is left."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            if self.current is not None:
                self.current.done = True  # a task that was stopped before its first step cannot say so

    async def _run(self, pull: Pull, arguments: list[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            *self._command,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        assert process.stderr is not None
        try:
            said = ""
            while chunk := await process.stderr.read(4096):
                said = (said + chunk.decode("utf-8", "replace"))[-4000:]
                if found := _PERCENT.findall(said):
                    pull.share = int(found[-1]) / 100
            if await process.wait() != 0:
                last = said.strip().splitlines()[-1] if said.strip() else "It failed without a word."
                pull.error = last.removeprefix("nanohydra pull: ")
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
            pull.done = True
