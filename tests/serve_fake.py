"""A stand-in for the engine's process that needs no model: it says what the prompt tells it to.

A prompt with `SAY:text` is answered with that text; others with `hello`. `SLOW:n` waits n milliseconds before each token,
`CRASH:n` ends the process after n tokens (once, if the file named by FAKE_ENGINE_ONCE is not there yet), `MUTE` never answers.
An adapter's name stands before the answer, as `name>`.
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.infer.streaming import Completion, FinishReason, Logprob, Timing, Transcript
from nanohydra.serve import protocol
from nanohydra.serve.protocol import Failed, Finished, Ready, Reply, Token, Usage

DIMENSIONS = 4
CONTEXT = 512


class Answer:
    def __init__(self, request: protocol.GenerateRequest, tokenizer: Tokenizer, adapter: str | None) -> None:
        prompt = tokenizer.decode(request.prompt)
        said = re.findall(r"SAY:(.*?)(?:<\|im_end\|>|$)", prompt, re.S)
        self.request = request
        text = (f"{adapter}>" if adapter else "") + (said[-1] if said else "hello")
        self.ids = [*tokenizer.encode(text), tokenizer.end_of_turn_id]
        self.slow = int(found[-1]) / 1000 if (found := re.findall(r"SLOW:(\d+)", prompt)) else 0.0
        self.crash = int(found[-1]) if (found := re.findall(r"CRASH:(\d+)", prompt)) else None
        self.mute = "MUTE" in prompt
        self.transcript = Transcript(tokenizer, request.params.stop)
        self.end = tokenizer.end_of_turn_id
        self.written = 0
        self.due = time.monotonic() + self.slow

    def step(self) -> list[Any]:
        if self.mute or time.monotonic() < self.due:
            return []
        if self.crash == self.written and crash_now():
            os._exit(9)
        self.due = time.monotonic() + self.slow
        id = self.ids[self.written]
        self.written += 1
        asked = self.request.params.logprobs
        entry = [] if asked is None else [Logprob(id, -0.5, tuple((id + i, -0.5 - i) for i in range(asked)))]
        reason: FinishReason | None = None
        self.transcript.record([id], entry)
        if id == self.end:
            reason = "stop"
        else:
            self.transcript.push(id)
        if self.transcript.stopped:
            reason = "stop"
        elif reason is None and self.written >= self.request.params.max_tokens:
            reason = "length"
        timing = Timing(0.01, 0.02, 100.0)
        if reason:
            self.transcript.flush()
            self.transcript.finish(Completion(self.ids[: self.written], self.transcript.parts, reason, timing))
        events: list[Any] = [Token(self.request.id, d.text, d.ids, d.logprobs, d.part) for d in self.transcript.take()]
        if reason:
            events.append(Finished(self.request.id, reason, Usage(len(self.request.prompt), self.written), timing))
        return events


def crash_now() -> bool:
    """Whether this is the crash that was asked for, or one after it."""
    once = os.environ.get("FAKE_ENGINE_ONCE")
    if once is None:
        return True
    try:
        Path(once).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def main() -> None:
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def tell(message: Any) -> None:
        output.write(protocol.encode(message))
        output.flush()

    if "FAKE_ENGINE_BROKEN" in os.environ:
        os._exit(9)
    start = protocol.decode(sys.stdin.buffer.readline())
    time.sleep(float(os.environ.get("FAKE_ENGINE_LOADS", "0")))
    if not (Path(start.base) / "tokenizer.json").is_file():
        tell(Failed("", "invalid", f'There is no base "{start.base}".'))
        return
    tokenizer = Tokenizer.load(Path(start.base))
    tell(Ready(Path(start.base).name, start.base, "b" * 64, CONTEXT, DIMENSIONS, 1000))
    commands: SimpleQueue[Any] = SimpleQueue()

    def read() -> None:
        for line in sys.stdin.buffer:
            commands.put(protocol.decode(line))
        commands.put(None)

    Thread(target=read, daemon=True).start()
    running: dict[str, Answer] = {}
    adapters: dict[str, str] = {}
    while True:
        try:
            command = commands.get(timeout=0.001 if running else None)
        except Empty:
            command = ()
        match command:
            case None:
                return
            case protocol.GenerateRequest():
                if command.adapter is not None and command.adapter not in adapters:
                    tell(Failed(command.id, "invalid", "No such adapter."))
                else:
                    running[command.id] = Answer(command, tokenizer, command.adapter)
            case protocol.Abort(id):
                running.pop(id, None)
            case protocol.LoadAdapter(id, name, folder):
                if (Path(folder) / "adapter_config.json").is_file():
                    adapters[name] = folder
                    tell(Reply(id, {"content_id": "a" * 64}))
                else:
                    tell(Failed(id, "invalid", f"{folder} holds no adapter."))
            case protocol.UnloadAdapter(id, name):
                adapters.pop(name, None)
                tell(Reply(id, {}))
            case protocol.EmbedRequest(id, prompts):
                vectors = [[0.5 if i == 0 else -0.5 for i in range(DIMENSIONS)] for _ in prompts]
                tell(Reply(id, {"vectors": vectors}))
            case protocol.EmbedTexts(id):
                tell(Failed(id, "invalid", "No embedder here."))
            case protocol.StatsRequest(id):
                tell(Reply(id, {"running": len(running), "waiting": 0, "kv_usage": 0.25, "prefix_hits": 3}))
        for id, answer in list(running.items()):
            for event in answer.step():
                tell(event)
                if isinstance(event, Finished):
                    del running[id]


if __name__ == "__main__":
    main()
