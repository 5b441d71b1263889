"""The worker that makes lessons, as the server keeps it: started, watched, started again. Loads no torch."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from typing import Literal

from nanohydra.serve.config import ServeConfig

COMMAND = (sys.executable, "-m", "nanohydra.hydra.worker")
STEADY_SECONDS = 60.0
"""A worker that ran this long starts again without delay."""
END_SECONDS = 5.0
"""How long a worker may take to let go of its lesson."""

log = logging.getLogger(__name__)


class Teacher:
    """One worker process. Belongs to one event loop. Its stdin is a pipe: it ends when the server does, however that ends."""

    def __init__(self, config: ServeConfig, *, command: Sequence[str] = COMMAND, delay: float = 1.0) -> None:
        self.state: Literal["off", "running", "restarting"] = "off"
        self.restarts = 0
        self._command = (*command, "--until_stdin_ends", "--threads", str(config.teach_threads))
        if config.teach_hour is not None:
            self._command += ("--hour", str(config.teach_hour))
        # Not an argument: the URL may hold a password, and everybody on the machine can read a command line.
        self._database = {} if config.database is None else {"NANOHYDRA_DATABASE": config.database}
        self._delay = delay
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The worker's process, where it runs."""
        return self._process.pid if self._process is not None else None

    async def start(self) -> None:
        """Starts the worker; returns at once."""
        self._task = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """Ends the worker; its lesson goes back to the queue."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self.state = "off"

    async def _supervise(self) -> None:
        crashes = 0
        while True:
            began = time.monotonic()
            self.state = "running"
            status = await self._live()
            crashes = 1 if time.monotonic() - began > STEADY_SECONDS else crashes + 1
            self.state = "restarting"
            self.restarts += 1
            delay = min(30.0, self._delay * 2 ** (crashes - 1))
            log.warning("worker lost", extra={"status": status, "restarts": self.restarts, "delay": delay})
            await asyncio.sleep(delay)

    async def _live(self) -> int:
        """One process from its start to its end."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env={**os.environ, **self._database},
        )
        self._process = process
        try:
            return await process.wait()
        finally:
            self._process = None
            if process.returncode is None:
                assert process.stdin is not None
                process.stdin.close()
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()  # heard at once also while it starts
                try:
                    await asyncio.wait_for(process.wait(), END_SECONDS)
                except (TimeoutError, asyncio.CancelledError):
                    with contextlib.suppress(ProcessLookupError):
                        process.kill()
                    await process.wait()
