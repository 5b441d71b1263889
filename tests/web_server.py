"""The whole server with an engine that is told what to say: what the browser tests look at.

    python tests/web_server.py PORT HOME

Prints one line of JSON (a token each of two users) when it listens. What is asked decides the answer: see `answer_to`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from threading import Thread

import uvicorn

from nanohydra.data.chat import calculator_part
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.hydra.worker import Worker, WorkerConfig
from nanohydra.infer.config import EngineConfig
from nanohydra.infer.streaming import Timing
from nanohydra.serve.app import create_app
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.protocol import Event, Failed, Finished, GenerateRequest, Ready, Start, Token, Usage

LESSONS = Path(__file__).with_name("web_lessons.py")
CODE = """Here is **one** way:

```python
def count_words(text: str) -> int:
    # split() knows all white space
    return len(text.split())
```

| text | words |
|---|---|
| a b | 2 |

- quick
- plain
"""
PICTURE = "![a picture](http://example.org/x.png) <img src=http://example.org/y.png> [a page](http://example.org/)"


def answer_to(asked: str) -> str:
    """The answer's text; CALL stands for a call of the calculator."""
    if "code" in asked:
        return CODE
    if "picture" in asked:
        return PICTURE
    if "slow" in asked:
        return " ".join(f"word{i}" for i in range(3000))
    return "That makes CALL , I think." if "sum" in asked else f"You said: {asked}"


def learned(folder: Path | None, asked: str) -> str:
    """What an adapter of web_lessons.py knows: the answer to a question that was taught."""
    file = None if folder is None else folder / "adapter_model.safetensors"
    if file is None or not file.exists():
        return ""
    facts = json.loads(file.read_text())["facts"]
    return next((str(fact["answer"]) for fact in facts if fact["question"] == asked), "")


class ToldEngine(EngineClient):
    """An engine without a process."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Start("tiny", False, EngineConfig()))
        self.tokenizer = Tokenizer.train(["user assistant system You said: word0 word1 hello there again"] * 20, 320)
        self.base = Ready("tiny", str(folder / "bases" / "tiny"), "b" * 64, 4096, 64, 1000)
        self.state = "ready"

    async def start(self) -> None:
        """Nothing is loaded."""

    async def stop(self) -> None:
        """Nothing runs."""

    async def load_adapter(self, name: str, folder: Path) -> str:
        """Any folder will do."""
        self.adapters[name] = folder
        return "c" * 64

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Says what `answer_to` tells, word by word."""
        assert self.tokenizer is not None
        prompt = self.tokenizer.decode(request.prompt)
        asked = prompt.rpartition("user\n")[2].partition("<|im_end|>")[0].strip()
        if "broken" in asked:
            yield Failed(request.id, "engine", "The engine broke down while it answered. Ask again.")
            return
        text = f"{request.adapter}: {answer_to(asked)}" if request.adapter else answer_to(asked)
        text = learned(self.adapters.get(request.adapter or ""), asked) or text
        for i, word in enumerate(text.split(" ")):
            await asyncio.sleep(0.05 if "slow" in asked else 0.001)
            if word == "CALL":
                yield Token(request.id, "42", [i], part=calculator_part("12+30", "42"))
            else:
                yield Token(request.id, f"{word} ", [i])
        usage = Usage(len(request.prompt), len(text.split(" ")))
        yield Finished(request.id, "stop", usage, Timing(0.01, 1.0, 48.0))


def main() -> None:
    port, home = int(sys.argv[1]), Path(sys.argv[2])
    os.environ["NANOHYDRA_HOME"] = str(home)
    config = ServeConfig(base="tiny", port=port, temperature=0.5, teach_worker=False)
    app = create_app(config, ToldEngine(home))
    store = app.state.services.store
    store.register_adapter("poet", home / "adapters" / "poet", "b" * 64, "c" * 64)
    tokens = {}
    for name in ("ada", "ben"):
        user = store.create_user(name, ["chat", "teach"])
        tokens[name] = store.create_token(user.id, "browser", ["chat", "teach"])
    worker = Worker(store, WorkerConfig(poll_seconds=0.3, niceness=0), (sys.executable, str(LESSONS)))
    Thread(target=worker.run, daemon=True).start()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning"))

    async def run() -> None:
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.02)
        print(json.dumps(tokens), flush=True)
        await task

    asyncio.run(run())


if __name__ == "__main__":
    main()
