"""Forms of answers are tried out before the engine sees them: one that freezes a compiler freezes a process of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from contextlib import suppress

from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.serve.errors import TooMany

COMMAND = (sys.executable, "-m", "nanohydra.infer.forms")


class FormChecker:
    """Compiles each new form in a process that is thrown away. Belongs to one event loop.

    seconds: how long a form may wait for its verdict, on a busy machine.
    """

    KEPT = 1024
    """How many verdicts are remembered."""
    AT_ONCE = 2

    def __init__(self, seconds: float = 10.0) -> None:
        self._seconds = seconds
        self._turns = asyncio.Semaphore(self.AT_ONCE)
        self._verdicts: dict[bytes, asyncio.Task[str | None]] = {}
        """By the form's hash, the latest use last."""

    async def check(self, params: SamplingParams) -> None:
        """Raises UserError where the form cannot be followed or takes too long to compile, TooMany where there was no time to
        find out."""
        if params.form is None:
            return
        form = json.dumps(dict([params.form])).encode()
        key = hashlib.sha256(form).digest()
        task = self._verdicts.pop(key, None) or asyncio.create_task(self._verdict(form))
        self._verdicts[key] = task
        while len(self._verdicts) > self.KEPT:
            del self._verdicts[next(iter(self._verdicts))]
        problem = await asyncio.shield(task)  # others may wait for the same verdict
        if problem is None:
            if self._verdicts.get(key) is task:
                del self._verdicts[key]
            message = "The answer's form could not be checked just now: simplify it, or try again."
            raise TooMany(message, code="server_busy", retry_after=5)
        if problem:
            raise UserError(problem)

    async def _verdict(self, form: bytes) -> str | None:
        """What is wrong with a form ("": nothing), or None where that could not be found out."""
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(self._seconds), self._turns:
                return await _compiled(form)
        return None


async def _compiled(form: bytes) -> str | None:
    pipe, nothing = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(*COMMAND, stdin=pipe, stdout=pipe, stderr=nothing)
    try:
        told, _ = await process.communicate(form)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == -signal.SIGPROF:
        return "The answer's form takes too long to compile: simplify it."
    return told.decode() if process.returncode == 0 else None
