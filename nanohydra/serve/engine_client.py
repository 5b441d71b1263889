"""The API's side of the engine's process: starts it, talks to it, starts it again when it dies. Loads no torch."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.serve import protocol
from nanohydra.serve.errors import Unavailable
from nanohydra.serve.protocol import Event, Failed, Finished, GenerateRequest, Ready, Reply, Start, Token

State = Literal["loading", "ready", "restarting", "failed"]

COMMAND = (sys.executable, "-m", "nanohydra.serve.engine_process")
QUIET_THREADS = {"GOMP_SPINCOUNT": "0"}
"""The engine's threads sleep while they wait: spinning, they would take from the server the cores on which it hands on tokens."""
LINE_BYTES = 2**27
"""Longest line from the engine: a batch of embeddings."""
EMBED_BATCH = 8
"""Prompts embedded at once, between two steps of the answers that are being written."""
FIRST_LOADS = 3
"""How often loading may break down before the server gives up, and later before those who wait are sent away."""
STEADY_SECONDS = 60.0
"""An engine that ran this long starts again without delay."""

log = logging.getLogger(__name__)


@dataclass
class _Open:
    """A command without its last event."""

    command: Any
    events: asyncio.Queue[Event | Reply] = field(default_factory=asyncio.Queue)
    sent: bool = False
    started: bool = False
    """Whether a token of it was told: it cannot be tried again unnoticed."""
    retried: bool = False


class EngineClient:
    """One engine process. Belongs to one event loop.

    start: what to load. delay: seconds before the first restart, doubled with each further one up to 30. stall: seconds of
    silence, with requests open, after which the process is taken for dead.
    """

    def __init__(
        self, start: Start, *, command: Sequence[str] = COMMAND, delay: float = 0.5, stall: float = 120.0
    ) -> None:
        self.state: State = "loading"
        self.error = ""
        """Why the state is "failed"."""
        self.base: Ready | None = None
        """What is loaded, once it is."""
        self.tokenizer: Tokenizer | None = None
        """The base's, once it is loaded."""
        self.since = 0
        """When it was loaded (seconds since 1970)."""
        self.restarts = 0
        self.adapters: dict[str, Path] = {}
        """The adapters that requests may name. A restarted engine loads them again."""
        self.changed = asyncio.Event()
        """Set, and replaced by a new one, each time the state changes."""
        self._start = start
        self._command = tuple(command)
        self._delay = delay
        self._stall = stall
        self._open: dict[str, _Open] = {}
        self._numbers = itertools.count()
        self._process: asyncio.subprocess.Process | None = None
        self._task: asyncio.Task[None] | None = None

    # -- life ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begins to load; returns at once (see `ready`)."""
        self._task = asyncio.create_task(self._supervise())

    async def ready(self) -> Ready:
        """Waits until the base is loaded. Raises UserError where it cannot be."""
        while self.state != "ready":
            if self.state == "failed":
                raise UserError(self.error)
            await self.changed.wait()
        assert self.base is not None
        return self.base

    async def stop(self) -> None:
        """Ends the process and every open request."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        for id in list(self._open):
            self._end(id, "unavailable", "The server is stopping.")

    @property
    def pid(self) -> int | None:
        """The engine's process, where it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def open_requests(self) -> int:
        """Prompts that wait or run."""
        return sum(isinstance(open.command, GenerateRequest) for open in self._open.values())

    # -- work ---------------------------------------------------------------------------------------------------------

    def new_id(self) -> str:
        """An id for a request, unlike all others of this client."""
        return f"r{next(self._numbers)}"

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event, None]:
        """The events of a request, the last one Finished or Failed. Closing the iterator aborts the request."""
        if self.state in ("loading", "failed"):
            yield Failed(request.id, "unavailable", self.error or "The base is being loaded.")
            return
        open = self._submit(request)
        try:
            while True:
                event = await open.events.get()
                assert not isinstance(event, Reply)
                yield event
                if isinstance(event, Finished | Failed):
                    return
        finally:
            if self._open.pop(request.id, None) is not None and open.sent:
                self._send(protocol.Abort(request.id))

    async def load_adapter(self, name: str, folder: Path) -> str:
        """Attaches the adapter of a PEFT folder, in place of what had the name; returns its content hash. UserError."""
        value = await self._ask(protocol.LoadAdapter(self.new_id(), name, str(folder)))
        self.adapters[name] = folder
        return str(value["content_id"])

    async def unload_adapter(self, name: str) -> None:
        """Detaches an adapter; requests under way keep it to their end."""
        self.adapters.pop(name, None)
        await self._ask(protocol.UnloadAdapter(self.new_id(), name))

    async def embed(self, prompts: Sequence[list[int]], adapter: str | None = None) -> list[list[float]]:
        """A vector of length 1 for each prompt (ids). Raises UserError, or Unavailable."""
        vectors: list[list[float]] = []
        for at in range(0, len(prompts), EMBED_BATCH):
            batch = list(prompts[at : at + EMBED_BATCH])
            vectors += (await self._ask(protocol.EmbedRequest(self.new_id(), batch, adapter)))["vectors"]
        return vectors

    async def embed_texts(self, texts: Sequence[str]) -> list[list[float]]:
        """A vector of length 1 for each text, for retrieval; not the base's. Raises UserError where the embedder is not
        installed, or Unavailable."""
        vectors: list[list[float]] = []
        for at in range(0, len(texts), EMBED_BATCH):
            command = protocol.EmbedTexts(self.new_id(), list(texts[at : at + EMBED_BATCH]))
            vectors += (await self._ask(command))["vectors"]
        return vectors

    async def stats(self) -> dict[str, Any]:
        """The engine's numbers (infer.engine.Engine.stats); empty while it is not there or too busy to tell."""
        if self.state != "ready":
            return {}
        try:
            return await asyncio.wait_for(self._ask(protocol.StatsRequest(self.new_id())), 2.0)
        except (TimeoutError, Unavailable):
            return {}

    # -- inside -------------------------------------------------------------------------------------------------------

    async def _ask(self, command: Any) -> dict[str, Any]:
        if self.state in ("loading", "failed"):
            raise Unavailable(self.error or "The base is being loaded.")
        open = self._submit(command)
        try:
            event = await open.events.get()
        finally:
            self._open.pop(command.id, None)
        if isinstance(event, Reply):
            return event.value
        assert isinstance(event, Failed)
        raise UserError(event.message) if event.kind == "invalid" else Unavailable(event.message)

    def _submit(self, command: Any) -> _Open:
        open = self._open[command.id] = _Open(command)
        if self.state == "ready":
            self._send(command)
            open.sent = True
        return open

    def _send(self, message: protocol.Message) -> None:
        if self._process is not None and self._process.stdin is not None and not self._process.stdin.is_closing():
            self._process.stdin.write(protocol.encode(message))

    def _change(self, state: State, error: str = "") -> None:
        self.state, self.error = state, error
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    async def _supervise(self) -> None:
        crashes = 0
        while True:
            began = time.monotonic()
            if not await self._live():
                break
            crashes = 1 if time.monotonic() - began > STEADY_SECONDS else crashes + 1
            self._lost()
            if self.base is None:
                if crashes == FIRST_LOADS:
                    self._change("failed", f"The engine's process broke down {crashes} times while it loaded the base.")
                    break
            else:
                self._change("restarting")
            if crashes >= FIRST_LOADS:  # nobody waits for what may never come back
                for id in list(self._open):
                    self._end(id, "unavailable", "The engine does not start again. Try later.")
            self.restarts += 1
            delay = min(30.0, self._delay * 2 ** (crashes - 1))
            log.warning("engine lost", extra={"restarts": self.restarts, "delay": delay})
            await asyncio.sleep(delay)
        for id in list(self._open):
            self._end(id, "unavailable", self.error)

    async def _live(self) -> bool:
        """One process from its start to its end; whether another would do better."""
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES,
            env={**QUIET_THREADS, **os.environ},
        )
        self._process = process
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            self._send(self._start)
            while line := await self._line(process.stdout):
                self._take(protocol.decode(line))
        except (ValueError, TimeoutError) as e:  # not our protocol, or silent
            log.error("engine out of order", extra={"kind": type(e).__name__})
            process.kill()
        finally:
            self._process = None
            process.stdin.close()
            try:
                await asyncio.wait_for(process.wait(), 5.0)
            except (TimeoutError, asyncio.CancelledError):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return self.state != "failed"

    async def _line(self, source: asyncio.StreamReader) -> bytes:
        """The next line, b"" at the end. TimeoutError where requests are open and nothing comes."""
        while True:
            try:
                async with asyncio.timeout(self._stall):
                    return await source.readline()
            except TimeoutError:
                if any(open.sent for open in self._open.values()):
                    raise

    def _take(self, message: Any) -> None:
        if isinstance(message, Ready):
            self._arrived(message)
        elif isinstance(message, Failed) and not message.id:
            self._change("failed", message.message)
        elif (open := self._open.get(message.id)) is not None:
            open.started |= isinstance(message, Token)
            if not isinstance(message, Token):
                del self._open[message.id]
            open.events.put_nowait(message)
        elif isinstance(message, Failed):  # a restarted engine could not load an adapter again
            log.error("adapter lost", extra={"adapter": message.id.removeprefix("adapter:")})
            self.adapters.pop(message.id.removeprefix("adapter:"), None)

    def _arrived(self, ready: Ready) -> None:
        if self.tokenizer is None:
            self.tokenizer = Tokenizer.load(Path(ready.folder))
        self.base, self.since = ready, int(time.time())
        for name, folder in self.adapters.items():
            self._send(protocol.LoadAdapter(f"adapter:{name}", name, str(folder)))
        for open in self._open.values():
            self._send(open.command)
            open.sent = True
        self._change("ready")

    def _lost(self) -> None:
        """The process is gone: what had told nothing is tried once more, the rest ends."""
        for id, open in list(self._open.items()):
            if open.started or open.retried:
                self._end(id, "engine", "The engine broke down while it answered. Ask again.")
            elif open.sent:
                open.sent, open.retried = False, True

    def _end(self, id: str, kind: protocol.FailureKind, message: str) -> None:
        self._open.pop(id).events.put_nowait(Failed(id, kind, message))
