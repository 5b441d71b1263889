"""A server and a Chromium for the tests of the web app: what the browser tests share.

The server is the real one over a real store; only the engine's words are told beforehand (web_server.py), and a stand-in makes
lessons (web_lessons.py). Modules that import this are skipped where there is no Chromium or no playwright.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from web_toy import make_run

CHROMIUM = shutil.which("chromium-headless-shell") or shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium on this machine: apt-get install chromium", allow_module_level=True)
pytest.importorskip("nicegui", reason="the web app needs nicegui: pip install 'nanohydra[serve]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need: pip install playwright")
from playwright.sync_api import Browser, BrowserContext, Page, expect  # noqa: E402

expect.set_options(timeout=120_000)  # milliseconds; as long as a busy machine may take
DESK: Any = {"width": 1280, "height": 800}
SEND, STOP = "button[aria-label='Send']", "[data-stop]"


@dataclass
class Site:
    """The server under test."""

    url: str
    home: Path
    tokens: dict[str, str]
    pid: int


@contextmanager
def running(home: Path) -> Iterator[Site]:
    """A server over a home folder with three runs, a base and an adapter."""
    make_run(home / "runs" / "toy")
    make_run(home / "runs" / "lab" / "runs" / "wide" / "seed-0", lr=0.2)
    make_run(home / "runs" / "live", steps=10, finished=False)
    base = home / "bases" / "tiny"
    base.mkdir(parents=True)
    (base / "config.json").write_text('{"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64}')
    (base / "source.json").write_text('{"source": "org/tiny", "license": "mit"}')
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("web_server.py")), str(port), str(home)]
    environment = {**os.environ, "NANOHYDRA_HOME": str(home)}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stdout is not None
        tokens = json.loads(server.stdout.readline() or '"the server did not start"')
        yield Site(f"http://127.0.0.1:{port}", home, tokens, server.pid)
    finally:
        server.kill()
        server.wait()


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser that can reach this machine only."""
    with sync_api.sync_playwright() as playwright:
        # Every name but loopback's is unknown: what wants to leave the machine fails, and is seen by the tests.
        rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
        arguments = ["--no-sandbox", "--disable-gpu", "--in-process-gpu", "--disable-dev-shm-usage", rules]
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)


@dataclass
class Visit:
    """A page with what went wrong on it and what it asked for."""

    page: Page
    site: Site
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, path: str) -> Page:
        self.page.goto(self.site.url + path)
        self.page.wait_for_function("window.did_handshake")
        return self.page

    def ask(self, text: str) -> None:
        self.page.fill("[data-composer]", text)
        self.page.press("[data-composer]", "Enter")
        expect(self.page.locator(".turn.user").last).to_contain_text(text)

    def answer(self) -> Any:
        """The last answer, once it is finished."""
        expect(self.page.locator(SEND)).to_be_visible()
        return self.page.locator(".turn.assistant").last


def visit(context: BrowserContext, site: Site) -> Visit:
    """A watched page."""
    made = Visit(context.new_page(), site)
    made.page.set_default_timeout(120_000)
    made.page.on("console", lambda m: made.errors.append(m.text) if m.type in ("error", "warning") else None)
    made.page.on("pageerror", lambda e: made.errors.append(str(e)))
    made.page.on("request", lambda r: made.requests.append(r.url))
    made.page.on("websocket", lambda w: made.requests.append(w.url))
    return made


def sign_in(browser: Browser, site: Site, name: str) -> Visit:
    """A browser of a user's own."""
    made = visit(browser.new_context(), site)
    made.page.goto(site.url + "/login?to=/settings")
    made.page.get_by_label("Token").fill(site.tokens[name])
    made.page.get_by_role("button", name="Sign in").click()
    expect(made.page).to_have_url(site.url + "/settings")
    return made


def waiting() -> float:
    """How many times longer than its own work a process takes here now: 1 on an idle machine."""
    wall, own = time.perf_counter(), time.process_time()
    while time.process_time() - own < 0.1:
        pass
    return (time.perf_counter() - wall) / 0.1
