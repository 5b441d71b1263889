"""The engine's own process: `python -m nanohydra.serve.engine_process` answers commands from stdin with events on stdout.

One thread drives the engine, one reads commands. Whatever goes wrong with one request is told to that request; anything else
ends the process, whose state is then not to be trusted: the client starts another. It ends too when stdin is closed, so it
never outlives the server.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, BinaryIO

from nanohydra import logs
from nanohydra.adapt.attach import Adapters
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine
from nanohydra.infer.request import Request
from nanohydra.jobs.bases import open_engine
from nanohydra.model.hub import base_id, find_base
from nanohydra.serve import protocol
from nanohydra.serve.protocol import Command, Failed, Finished, Message, Ready, Reply, Start, Token, Usage

log = logging.getLogger("nanohydra.serve.engine")

NO_EMBEDDER = "Texts cannot be embedded here: install the extra `teach`."
BEAT_SECONDS = 1.0
"""A step that tells nothing (a chunk of a long prompt) is followed by a sign of life this long after the last one."""


class Worker:
    """Commands in, events out, around one engine."""

    def __init__(self, engine: Engine, adapters: Adapters, output: BinaryIO, texts: Texts | None = None) -> None:
        self.engine = engine
        self.adapters = adapters
        self.output = output
        self.requests: dict[str, tuple[Request, str | None]] = {}
        """The open requests by id, each with the attached adapter that it uses."""
        self.names: dict[str, str] = {}
        """The names that requests may give, each with what is attached: an adapter's content hash names it there."""
        self.texts = texts
        self._ids: dict[Request, str] = {}
        self._told = time.monotonic()

    def run(self, commands: SimpleQueue[Command | None]) -> None:
        """Until the client hangs up (None)."""
        while True:
            for command in _waiting(commands, wait=self.engine.idle):
                if command is None:
                    return
                self._tell(self._answer(command))
            if not self.engine.idle:
                self._tell([event for request in self.engine.step() for event in self._events(request)])

    def _tell(self, messages: list[Message]) -> None:
        """Writes all of a step at once."""
        now = time.monotonic()
        if not messages and now - self._told < BEAT_SECONDS:
            return
        self._told = now
        self.output.write(b"".join(protocol.encode(message) for message in messages or [Reply("", {})]))
        self.output.flush()

    def _answer(self, command: Command) -> list[Message]:
        try:
            match command:
                case protocol.GenerateRequest():
                    return self._submit(command)
                case protocol.Abort(id):
                    self._abort(id)
                    return []
                case protocol.LoadAdapter(id, name, folder):
                    return [Reply(id, self._load(name, folder))]
                case protocol.UnloadAdapter(id, name):
                    self.names.pop(name, None)
                    self._collect()
                    return [Reply(id, {})]
                case protocol.EmbedRequest(id, prompts, adapter):
                    return [Reply(id, {"vectors": self.engine.embed(prompts, self._attached(adapter)).tolist()})]
                case protocol.EmbedTexts():
                    return self.texts.answer(command) if self.texts else [Failed(command.id, "invalid", NO_EMBEDDER)]
                case protocol.StatsRequest(id):
                    return [Reply(id, dict(self.engine.stats()))]
        except UserError as e:
            return [Failed(command.id, "invalid", str(e))]

    def _submit(self, command: protocol.GenerateRequest) -> list[Message]:
        adapter = self._attached(command.adapter)
        request = self.engine.submit(command.prompt, command.params, adapter, command.owner)
        self.requests[command.id] = request, adapter
        self._ids[request] = command.id
        return []

    def _attached(self, name: str | None) -> str | None:
        if name is not None and name not in self.names:
            raise UserError(f'There is no adapter "{name}" here (any more).')
        return None if name is None else self.names[name]

    def _abort(self, id: str) -> None:
        if id in self.requests:
            request, _ = self.requests.pop(id)
            del self._ids[request]
            self.engine.abort(request)
            self._collect()

    def _events(self, request: Request) -> Iterator[Message]:
        id = self._ids[request]
        for delta in request.take():
            if delta.text or delta.ids or delta.part:
                yield Token(id, delta.text, delta.ids, delta.logprobs, delta.part)
            if (done := delta.completion) is not None:
                usage = Usage(request.prompt_length, len(done.ids), done.cached_tokens)
                yield Finished(id, done.finish_reason, usage, done.timing)
                del self.requests[id], self._ids[request]
                self._collect()

    def _load(self, name: str, folder: str) -> dict[str, Any]:
        attached = self.adapters.load(folder)
        self.names[name] = attached
        self._collect()
        return {"content_id": self.adapters[attached].id}

    def _collect(self) -> None:
        """Detaches what no name and no open request means any more, nor an adapter that was trained on top of it."""
        if len(self.adapters.names) == len(set(self.names.values())):
            return
        wanted = {*self.names.values(), *(adapter for _, adapter in self.requests.values() if adapter)}
        below = {id for name in wanted for id in self.adapters[name].metadata.over}
        for name in self.adapters.names:
            if name not in wanted and self.adapters[name].id not in below:
                self.adapters.remove(name)


class Texts:
    """Embeds texts between the engine's steps. The embedder is loaded in a thread when it is first needed, which takes
    seconds: until then what is asked of it waits, and the engine goes on."""

    def __init__(self, commands: SimpleQueue[Command | None]) -> None:
        self._commands = commands
        self._waiting: list[protocol.EmbedTexts] = []
        self._embedder: Any = None
        self._error = ""
        self._loading: Thread | None = None
        self._lock = Lock()

    def answer(self, command: protocol.EmbedTexts) -> list[Message]:
        """The reply, or nothing yet: then the command comes again by itself."""
        with self._lock:
            if self._embedder is None and not self._error:
                self._waiting.append(command)
                if self._loading is None:
                    self._loading = Thread(target=self._load, daemon=True)
                    self._loading.start()
                return []
        if self._embedder is None:
            return [Failed(command.id, "invalid", self._error)]
        return [Reply(command.id, {"vectors": self._embedder.embed(command.texts).tolist()})]

    def _load(self) -> None:
        try:
            from nanohydra.agent.embedding import Embedder

            embedder, error = Embedder(), ""
            embedder.load()
        except Exception as e:  # optional: retrieval by words works without it
            embedder, error = None, str(e) if isinstance(e, UserError) else NO_EMBEDDER
            log.warning("no embedder", extra=logs.described(e))
        with self._lock:
            self._embedder, self._error = embedder, error
            for command in self._waiting:
                self._commands.put(command)
            self._waiting.clear()


def _waiting(commands: SimpleQueue[Command | None], wait: bool) -> Iterator[Command | None]:
    """What has come; with `wait`, at least one."""
    if wait:
        yield commands.get()
    while True:
        try:
            yield commands.get_nowait()
        except Empty:
            return


def _read(source: BinaryIO, commands: SimpleQueue[Command | None]) -> None:
    try:
        for line in source:
            commands.put(protocol.decode(line))
    finally:
        commands.put(None)


def _sampling(folder: Path) -> dict[str, Any]:
    """What the base's generation_config.json says of drawing, as far as it can be meant."""
    try:
        given = json.loads((folder / "generation_config.json").read_text(encoding="utf-8"))
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        found = {name: given[name] for name in names if isinstance(given.get(name), int | float)}
        SamplingParams(**found)
    except (OSError, ValueError, AttributeError, UserError):
        return {}
    return found


def main() -> int:
    """Loads what the first line says, tells Ready, then serves; or tells why it cannot and returns 1."""
    logs.set_up()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's to handle: it closes our stdin
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to the log
    source = sys.stdin.buffer
    start = protocol.decode(source.readline())
    assert isinstance(start, Start)
    try:
        folder = find_base(start.base)
        engine = open_engine(str(folder), int8=start.int8, config=start.engine, adapters=True, draft=start.draft)
    except UserError as e:
        output.write(protocol.encode(Failed("", "invalid", str(e))))
        output.flush()
        return 1
    ready = Ready(
        name=folder.resolve().name,
        folder=str(folder.resolve()),
        base_id=base_id(folder),
        max_seq_len=engine.max_seq_len,
        hidden_size=engine.model.config.hidden_size,
        parameters=engine.model.config.parameters(),
        sampling=_sampling(folder),
    )
    output.write(protocol.encode(ready))
    output.flush()
    commands: SimpleQueue[Command | None] = SimpleQueue()
    Thread(target=_read, args=(source, commands), daemon=True).start()
    assert engine.adapters is not None
    try:
        Worker(engine, engine.adapters, output, Texts(commands)).run(commands)
    except Exception as e:  # told without its message, which may quote a conversation
        log.critical("engine broke down", extra=logs.described(e))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
