"""A server on a loopback port, in a thread, for tests that talk to it as its users do."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.infer.config import EngineConfig
from nanohydra.serve.app import create_app
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.protocol import Start
from nanohydra.serve.services import Services

FAKE = (sys.executable, str(Path(__file__).with_name("serve_fake.py")))


@dataclass
class Running:
    """A server that answers."""

    url: str
    services: Services

    def http(self, **options: Any) -> httpx.Client:
        """A client of it."""
        return httpx.Client(base_url=self.url, timeout=30, **options)


def fake_base(folder: Path) -> Path:
    """A folder with a tokenizer, for the fake engine."""
    texts = ["the quick brown fox jumps over the lazy dog. hello world!", '{"name": "x", "arguments": {}}'] * 3
    Tokenizer.train(texts, 320).save(folder)
    return folder


def fake_engine(base: Path, **options: Any) -> EngineClient:
    """A client of the stand-in."""
    options = {"command": FAKE, "delay": 0.05, **options}
    return EngineClient(Start(str(base), False, EngineConfig()), **options)


@contextmanager
def served(
    config: ServeConfig, engine: EngineClient | None = None, ready: bool = True, teach: bool = False
) -> Iterator[Running]:
    """The server, loaded unless `ready` is False; stopped at the end. teach: whether it makes lessons."""
    app = create_app(replace(config, teach=teach), engine)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, proxy_headers=False))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        try:
            wait_for(lambda: server.started)
            services: Services = app.state.services
            if ready:
                wait_for(lambda: services.engine.state in ("ready", "failed"), 600)
                assert services.engine.state == "ready", services.engine.error
            yield Running(url, services)
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def wait_for(condition: Any, seconds: float = 150.0) -> None:
    """Until it is true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
