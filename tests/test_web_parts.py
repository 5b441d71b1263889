"""The web app's parts that need no browser: markdown, the tree of messages, run folders, charts, pulls, answers."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import re
import struct
import sys
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.testclient import TestClient
from web_server import ToldEngine
from web_toy import make_run

from nanohydra.data.chat import calculator_part, text_part
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.streaming import Timing
from nanohydra.serve.app import create_app
from nanohydra.serve.auth import Auth
from nanohydra.serve.chat import ChatDelta, Finish
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.errors import EngineBroke
from nanohydra.serve.protocol import Usage
from nanohydra.serve.rates import Rates
from nanohydra.store import Message, Principal, Store
from nanohydra.store.models import now

pytest.importorskip("nicegui", reason="the web app needs nicegui: pip install 'nanohydra[serve]'")

from nicegui import ui

from nanohydra.serve.web import charts, chat, model_files, run_files, settings, tokens, visitors
from nanohydra.serve.web.answers import NO_RIGHT, Answer, Answers, messages_for_model
from nanohydra.serve.web.chat_settings import checked, params_of
from nanohydra.serve.web.chat_turn import parts_html
from nanohydra.serve.web.markdown import to_html
from nanohydra.serve.web.pulls import Pulls
from nanohydra.serve.web.theme import STATIC, short_number, size
from nanohydra.serve.web.tree import newest_leaf, shown_turns
from nanohydra.serve.web.uploads import Uploads
from nanohydra.serve.web.visitors import COOKIE, Visitor, Web

# -- markdown ---------------------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    """Collects what a browser would do: the tags, and the addresses that it would fetch or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name.startswith("on") or name == "style":
                self.handlers.append(name)
            if name in ("src", "srcset", "data", "action", "background", "poster"):
                self.fetched.append(value or "")
            if name == "href":
                self.links.append(value or "")


PIECES = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "![x](http://a.b/c.png)",
    '![a](b "c" onload=x)',
    "[a]: http://a.b\n![a]",
    "[x](javascript:alert(1))",
    "[x](data:text/html,<b>)",
    "<http://a.b>",
    "|a|b|\n|-|-|\n|1|2|",
    *("```", "```html\n", "`", "<", ">", '"', "'", "&", "\n", "\n\n", "# ", "> ", "- ", "word", "\ue0000\ue001"),
)
DANGEROUS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@given(DANGEROUS | st.text(max_size=80))
def test_nothing_in_an_answer_runs_or_fetches(text: str) -> None:
    seen = Tags(parts_html([text_part(text), calculator_part(text, text)]))
    assert not seen.handlers
    assert not seen.fetched
    assert not seen.tags & {
        "script",
        "img",
        "iframe",
        "svg",
        "object",
        "style",
        "form",
        "input",
        "link",
        "meta",
        "base",
    }
    assert all(not link.lower().lstrip().startswith(("javascript:", "data:", "vbscript:")) for link in seen.links)


def test_code_is_coloured_and_can_be_copied() -> None:
    html = to_html("```python\nprint('<b>')\n```")
    assert '<span class="nb">print</span>' in html
    assert "&lt;b&gt;" in html
    assert "data-copy" in html
    assert "no-such-language" in to_html("```no-such-language\nx\n```")
    assert "<code>x = 1" in to_html("```python\nx = 1").replace('<span class="n">', "").replace("</span>", "").replace(
        '<span class="o">', ""
    ).replace('<span class="mi">', ""), "a fence that is still open is code already"


def test_a_tool_call_stands_where_it_happened() -> None:
    html = parts_html([text_part("It is **"), calculator_part("6*7", "42"), text_part("**, yes.")])
    assert re.search(r"<strong><span class=\"tool\".*6\*7.*<b>42</b></span></strong>, yes\.", html)


# -- the tree ---------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 30), max_size=30), st.data())
def test_turns_are_the_path_to_the_head(parents: list[int], data: st.DataObject) -> None:
    messages: list[Any] = []
    for id, parent in enumerate(parents, 1):
        messages.append(SimpleNamespace(id=id, parent_id=parent if 0 < parent < id else None))
    assert shown_turns(messages, None) == []
    if not messages:
        return
    head = data.draw(st.sampled_from(messages)).id
    turns = shown_turns(messages, head)
    assert turns[-1].message.id == head
    assert turns[0].message.parent_id is None
    for before, after in pairwise(turns):
        assert after.message.parent_id == before.message.id
    for turn in turns:
        assert turn.siblings[turn.place] == turn.message.id
        assert set(turn.siblings) == {m.id for m in messages if m.parent_id == turn.message.parent_id}
    leaf = newest_leaf(messages, head)
    assert head in [turn.message.id for turn in shown_turns(messages, leaf)]
    assert leaf not in {m.parent_id for m in messages}


# -- run folders ------------------------------------------------------------------------------------------------------


def test_runs_are_found_wherever_they_lie(tmp_path: Path) -> None:
    make_run(tmp_path / "alone")
    make_run(tmp_path / "lab" / "runs" / "wide-1f" / "seed-0", finished=False)
    (tmp_path / "alone" / "checkpoints" / "x").mkdir(parents=True)
    (tmp_path / "alone" / "checkpoints" / "x" / "config.yaml").write_text("a: 1")
    found = {run.name: run for run in run_files.find_runs(tmp_path)}
    assert set(found) == {"alone", "lab/runs/wide-1f/seed-0"}
    assert found["alone"].state == "finished"
    assert found["lab/runs/wide-1f/seed-0"].state == "training"
    assert found["alone"].last["step"] == 40
    assert run_files.find_runs(tmp_path / "nothing") == []


@pytest.mark.parametrize("name", ["../secret", "..", "alone/../../secret", "/etc"])
def test_no_run_lies_outside_the_runs_folder(tmp_path: Path, name: str) -> None:
    make_run(tmp_path / "runs" / "alone")
    make_run(tmp_path / "secret")
    assert run_files.open_run(tmp_path / "runs", name) is None
    assert run_files.open_run(tmp_path / "runs", "alone") is not None


def test_a_growing_file_is_read_piece_by_piece(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    tail = run_files.Tail(path)
    assert not tail.read()
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert tail.read()
    assert tail.series("step", "loss") == [(1, 2.0)]
    assert not tail.read(), "the line that is being written waits"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n{"step": 3, "loss": NaN}\n')
    assert tail.read()
    assert tail.series("step", "loss") == [(1, 2.0), (2, 1.0)]
    path.write_text('{"step": 1, "loss": 9.0}\n')
    assert tail.read(), "a resumed run cut its metrics"
    assert tail.series("step", "loss") == [(1, 9.0)]


@given(st.lists(st.tuples(st.floats(0, 1e6), st.floats(-5, 5)), max_size=60), st.integers(1, 20))
def test_thinning_keeps_the_ends(points: list[tuple[float, float]], limit: int) -> None:
    thin = run_files.thinned(points, limit)
    assert len(thin) <= limit + 1
    assert thin[:1] == points[:1]
    assert thin[-1:] == points[-1:]


# -- charts -----------------------------------------------------------------------------------------------------------


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.integers(2, 10))
def test_ticks_are_round_and_inside(low: float, span: float, count: int) -> None:
    ticks = charts.ticks(low, low + span, count)
    assert len(ticks) <= 2 * count + 1
    assert all(low - 1e-6 * span <= t <= low + span + 1e-6 * span for t in ticks)


FLOATS = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9)


@given(st.lists(st.lists(st.tuples(FLOATS, FLOATS), max_size=20), max_size=4), st.booleans(), st.booleans())
def test_every_chart_is_well_formed(lines: list[list[tuple[float, float]]], log_y: bool, small: bool) -> None:
    import xml.etree.ElementTree as ElementTree

    series = [charts.Series(f'<{i}> & "x"', points, i, faint=i == 1) for i, points in enumerate(lines)]
    html = charts.line_chart(series, "step", "loss", log_y=log_y, small=small)
    root = ElementTree.fromstring(f"<div>{html}</div>")
    paths = root.findall(".//path")
    drawn = [s for s in series if any(y > 0 or not log_y for _, y in s.points)]
    assert len(paths) == len(drawn)
    if drawn:
        plot = json.loads(root.find("div").get("data-plot"))  # type: ignore[union-attr, arg-type]
        assert [line["name"] for line in plot["lines"]] == [s.name for s in drawn if not s.faint]


def test_a_heat_map_is_a_png_of_its_shape() -> None:
    address = charts.heat_map([[0, 1, 1000], [1000, 10, 0]])
    png = base64.b64decode(address.partition(",")[2])
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (2, 3)
    at = png.index(b"IDAT")
    data = zlib.decompress(png[at + 4 : at + 4 + struct.unpack(">I", png[at - 4 : at])[0]])
    assert data == bytes([0, 255, 0, 0, 0, 85, 0, 0, 255])


# -- the look ---------------------------------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(theme: int) -> None:
    block = re.findall(r":root(?:\[data-theme=\"dark\"\])? \{(.*?)\}", (STATIC / "style.css").read_text("utf-8"), re.S)[
        theme
    ]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))
    pairs = [
        (text, ground)
        for text in ("ink", "soft", "accent", "danger", "loud")
        for ground in ("paper", "surface", "sunken")
    ]
    pairs += [("on-accent", "accent"), ("ink", "tint"), ("accent-deep", "tint"), ("on-accent", "accent-deep")]
    pairs += [(f"c{i}", ground) for i in range(6) for ground in ("sunken",)]  # colours of code
    for text, ground in pairs:
        a, b = sorted((luminance(colours[text]), luminance(colours[ground])))
        assert (b + 0.05) / (a + 0.05) >= 4.5, (text, ground)


def test_numbers_are_said_shortly() -> None:
    assert [size(n) for n in (0, 999, 1500, 270_000_000, 1_200_000_000)] == [
        "0 B",
        "999 B",
        "2 KB",
        "270 MB",
        "1.20 GB",
    ]
    assert [short_number(n) for n in (7, 134_515_008, 2_600_000_000)] == ["7", "135M", "2.6B"]


# -- models -----------------------------------------------------------------------------------------------------------


def test_a_base_is_described_without_its_weights(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "small"
    folder.mkdir()
    save_file({"a.weight": torch.zeros(3, 4), "b": torch.zeros(5)}, folder / "model.safetensors")
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 8, "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "source.json").write_text('{"source": "org/small", "license": "mit"}')
    (base,) = model_files.find_bases(tmp_path)
    assert (base.name, base.parameters, base.layers, base.width, base.context) == ("small", 17, 2, 8, 64)
    assert base.source["license"] == "mit"
    (folder / "model.safetensors").write_bytes(b"torn")
    assert model_files.read_base(folder).parameters == 0


def pulling(code: str) -> Pulls:
    return Pulls((sys.executable, "-c", code))


async def pulled(pulls: Pulls, source: str = "org/model") -> None:
    await pulls.start(source)
    while pulls.current is not None and not pulls.current.done:
        await asyncio.sleep(0.02)


def test_a_pull_tells_how_far_it_is_and_why_it_failed() -> None:
    good = pulling("import sys; sys.stderr.write('Fetching 8 files:  38%|###'); sys.stderr.flush()")
    asyncio.run(pulled(good))
    assert good.current is not None
    assert (good.current.share, good.current.error) == (0.38, "")
    bad = pulling("import sys; sys.exit('nanohydra pull: The hub has no such model.')")
    asyncio.run(pulled(bad))
    assert bad.current is not None
    assert bad.current.error == "The hub has no such model."


@pytest.mark.parametrize("source", ["/etc", "../x", "x", "a/b/c", "--help", "-x/y", "a/b --name=c"])
def test_only_hub_ids_are_pulled_from_the_page(source: str) -> None:
    with pytest.raises(UserError, match="hub id"):
        asyncio.run(pulling("").start(source))


def test_one_pull_at_a_time_and_it_ends_with_the_server() -> None:
    async def twice() -> None:
        pulls = pulling("import time; time.sleep(60)")
        await pulls.start("org/model")
        with pytest.raises(UserError, match="Wait"):
            await pulls.start("org/other")
        await asyncio.wait_for(pulls.close(), 10)
        assert pulls.current is not None
        assert pulls.current.done

    asyncio.run(twice())


# -- settings ---------------------------------------------------------------------------------------------------------


def test_settings_become_sampling() -> None:
    defaults = SamplingParams(max_tokens=100, temperature=0.7, top_p=0.9)
    assert params_of({}, defaults) == defaults
    params = params_of({"temperature": 0, "seed": 3, "top_p": None, "stop": "a\n\nb", "adapter": "poet"}, defaults)
    assert (params.temperature, params.seed, params.top_p, params.stop) == (0, 3, 0.9, ("a", "b"))
    assert checked({"temperature": 1}, defaults) == ""
    assert "max_tokens" in checked({"max_tokens": 0}, defaults)


# -- answers ----------------------------------------------------------------------------------------------------------


class Told:
    """A chat service that says words until it is stopped, then ends as it was told to."""

    def __init__(self, words: int, end: Exception | None = None, pause: float = 0.0) -> None:
        self.words, self.end, self.pause, self.closed = words, end, pause, False

    async def stream(self, *_: Any, **__: Any) -> AsyncIterator[ChatDelta]:
        try:
            for i in range(self.words):
                await asyncio.sleep(self.pause)
                yield ChatDelta(text=f"w{i} ", ids=(i,))
            if self.end is not None:
                raise self.end
            yield ChatDelta(finish=Finish("stop", Usage(5, self.words), Timing(0.1, 1.0, 9.0)))
        finally:
            self.closed = True


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = Store.open(f"sqlite:///{tmp_path / 'web.db'}")
    yield store
    store.close()


async def begun(answers: Answers, store: Store) -> tuple[Answer, Principal, int]:
    """An answer to one message of a new conversation."""
    user = store.local_user()
    conversation = store.create_conversation(user.user_id, "t")
    asked = store.add_message(conversation.id, user.user_id, None, "user", "hi")
    answer = await answers.start(user, conversation.id, [], asked.id, SamplingParams(), {"base": "tiny"})
    return answer, user, conversation.id


def last(store: Store, conversation_id: int, user: Principal) -> Message:
    return store.messages(conversation_id, user.user_id)[-1]


@pytest.mark.parametrize(
    ("end", "state", "error"),
    [
        (None, "done", None),
        (EngineBroke("The engine broke down."), "failed", "The engine broke down."),
        (ValueError("secret"), "failed", "Something broke while answering. Ask again."),
    ],
)
def test_an_answer_is_kept_however_it_ends(store: Store, end: Exception | None, state: str, error: str | None) -> None:
    async def run() -> None:
        answers = Answers(Told(3, end), store)  # type: ignore[arg-type]
        answer, user, conversation = await begun(answers, store)
        with pytest.raises(UserError, match="Stop it first"):
            await answers.start(user, conversation, [], None, SamplingParams(), {})
        while answers.live(conversation):
            await asyncio.sleep(0.01)
        kept = last(store, conversation, user)
        assert kept.content == "w0 w1 w2 "
        assert (kept.provenance["state"], kept.provenance.get("error")) == (state, error)
        assert answer.done
        assert answers.changes(conversation) == 2

    asyncio.run(run())


@pytest.mark.parametrize("wait", [0.0, 0.15])
def test_a_stopped_answer_keeps_what_was_written_and_frees_the_engine(store: Store, wait: float) -> None:
    async def run() -> None:
        told = Told(10_000, pause=0.01)
        answers = Answers(told, store)  # type: ignore[arg-type]
        _, user, conversation = await begun(answers, store)
        await asyncio.sleep(wait)
        await answers.close()
        assert answers.live(conversation) is None
        if wait:
            assert told.closed
            kept = last(store, conversation, user)
            assert kept.provenance["state"] == "stopped"
            assert kept.content.startswith("w0 w1")

    asyncio.run(run())


def test_a_conversation_that_is_deleted_in_mid_answer_ends_it(store: Store) -> None:
    async def run() -> None:
        answers = Answers(Told(3, pause=0.05), store)  # type: ignore[arg-type]
        _, user, conversation = await begun(answers, store)
        store.delete(conversation, user.user_id)
        async with asyncio.timeout(5):
            while answers.live(conversation):
                await asyncio.sleep(0.01)

    asyncio.run(run())


# -- rights -----------------------------------------------------------------------------------------------------------


class Screen:
    """What a page asks of the browser, noted in the place of a browser."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.went: list[str] = []
        self.said: list[str] = []
        self.scripts: list[str] = []
        patch.setattr(ui.navigate, "to", self.went.append)
        patch.setattr(ui, "run_javascript", self.scripts.append)
        for module in (chat, settings, visitors):
            patch.setattr(module, "toast", self.said.append)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    return Screen(monkeypatch)


def visitor_with(store: Store, token: str) -> Visitor:
    """Someone who opened a page of a server that asks for tokens."""
    services: Any = SimpleNamespace(
        store=store,
        auth=Auth(ServeConfig(base="tiny", host="0.0.0.0"), store),
        rates=Rates(0),
        generation=SimpleNamespace(defaults=SamplingParams()),
        engine=SimpleNamespace(base=SimpleNamespace(name="tiny", base_id="b" * 64)),
    )
    web = Web(services, Answers(Told(1), store), Pulls(), Uploads())  # type: ignore[arg-type]
    request = Request(
        {"type": "http", "headers": [(b"cookie", f"{COOKIE}={token}".encode())], "client": ("10.0.0.9", 1)}
    )
    principal = store.authenticate(token)
    assert principal is not None
    return Visitor(web, principal, request)


def test_a_token_without_the_right_to_chat_asks_nothing(store: Store, screen: Screen) -> None:
    user = store.create_user("ada", ["chat", "teach"])
    visitor = visitor_with(store, store.create_token(user.id, "loads adapters", ["teach"]))
    asyncio.run(chat.ChatPage(visitor).send("hi"))
    assert screen.said == [NO_RIGHT]
    assert any("giveBack" in script for script in screen.scripts)
    assert store.conversations(user.id) == []
    conversation = store.create_conversation(user.id, "t")
    with pytest.raises(UserError, match="no right to chat"):
        asyncio.run(visitor.web.answers.start(visitor.principal, conversation.id, [], None, SamplingParams(), {}))
    assert store.messages(conversation.id, user.id) == []


DEEDS: dict[str, Callable[[chat.ChatPage, int], Awaitable[Any]]] = {
    "open": lambda page, _: page.open(None),
    "send": lambda page, _: page.send("more"),
    "stop": lambda page, _: page.stop(),
    "switch": lambda page, message: page.switch(message),
    "rename": lambda page, _: page.rename("other"),
    "delete": lambda page, _: page.delete(),
    "set": lambda page, _: page.set("temperature", 0.1),
    "system": lambda page, _: page.set("system", "Be rude."),
    "look": lambda page, _: page._look(),
}


@pytest.mark.parametrize("deed", DEEDS)
def test_a_revoked_token_ends_an_open_page(store: Store, screen: Screen, deed: str) -> None:
    async def run() -> None:
        user = store.create_user("ada", ["chat"])
        visitor = visitor_with(store, store.create_token(user.id, "phone", ["chat"]))
        conversation = store.create_conversation(user.id, "t")
        asked = store.add_message(conversation.id, user.id, None, "user", "hi")
        answers = visitor.web.answers = Answers(Told(10_000, pause=0.01), store)  # type: ignore[arg-type]
        page = chat.ChatPage(visitor)
        await page._read(conversation.id)

        def kept() -> dict[str, Any]:
            return {**store.export(conversation.id, user.id), "exported": None}

        if deed == "stop":
            await answers.start(visitor.principal, conversation.id, [], asked.id, SamplingParams(), {})
        else:
            store.add_message(conversation.id, user.id, asked.id, "assistant", "said elsewhere")
            answers.changed(conversation.id)
        before, page._checked = kept(), float("-inf")
        store.revoke_token(store.tokens(user.id)[0].id)
        await DEEDS[deed](page, asked.id)
        await page._look()
        assert screen.went == ["/login"]
        assert kept() == before
        assert [message.id for message in page.messages] == [asked.id], "nothing new is shown"
        assert (answers.live(conversation.id) is not None) == (deed == "stop")
        await answers.close()

    asyncio.run(run())


def test_a_page_of_a_revoked_token_looks_no_more(store: Store, screen: Screen, monkeypatch: pytest.MonkeyPatch) -> None:
    user = store.create_user("ada", ["chat"])
    visitor = visitor_with(store, store.create_token(user.id, "phone", ["chat"]))
    timers: list[Any] = []

    def timer(seconds: float, look: Callable[[], Awaitable[None]]) -> Any:
        timers.append(SimpleNamespace(look=look, cancelled=False))
        timers[-1].cancel = lambda: setattr(timers[-1], "cancelled", True)
        return timers[-1]

    monkeypatch.setattr(ui, "timer", timer)
    looked: list[str] = []

    async def look() -> None:
        looked.append("news")

    visitor.watch(1.0, look)
    asyncio.run(timers[0].look())
    store.revoke_token(store.tokens(user.id)[0].id)
    asyncio.run(timers[0].look())
    assert (looked, screen.went, timers[0].cancelled) == (["news"], ["/login"], True)
    assert not asyncio.run(visitor.act(look))
    assert looked == ["news"]


def test_what_refreshes_on_a_page_looks_for_its_visitor_first() -> None:
    """A plain timer would go on for a token that was revoked; the chat's own looks at its visitor itself."""
    with_timers = {file.name for file in STATIC.parent.glob("*.py") if "ui.timer(" in file.read_text("utf-8")}
    assert with_timers == {"visitors.py", "chat.py"}


def test_a_token_gives_no_more_than_it_has(store: Store) -> None:
    user = store.create_user("ada", ["chat", "teach"])
    whole = store.create_token(user.id, "whole", ["chat", "teach"])
    end = now() + timedelta(days=7)
    small = store.authenticate(store.create_token(user.id, "small", ["chat"], end))
    assert small is not None
    for scopes, expires, kept in (
        (["chat"], None, end),
        (["chat"], now() + timedelta(days=30), end),
        (["chat"], (soon := now() + timedelta(days=1)), soon),
    ):
        tokens.make_token(store, small, user.id, "made", scopes, expires)
        assert store.tokens(user.id)[-1].expires == kept
    for scopes in (["chat", "teach"], []):
        with pytest.raises(UserError, match=r"more rights|at least one"):
            tokens.make_token(store, small, user.id, "more", scopes, None)
    first, *_, last = store.tokens(user.id)
    assert (first.name, last.name) == ("whole", "made")
    with pytest.raises(UserError, match="more rights"):
        tokens.revoke_token(store, small, user.id, first.id)
    tokens.revoke_token(store, small, user.id, last.id)
    maker = store.authenticate(whole)
    assert maker is not None
    tokens.make_token(store, maker, user.id, "for ever", ["teach"], None)
    assert [(t.name, t.expires) for t in store.tokens(user.id)][-1] == ("for ever", None)
    gone = dataclasses.replace(small, token_id=last.id)
    with pytest.raises(UserError, match="Sign in again"):
        tokens.make_token(store, gone, user.id, "too late", ["chat"], None)
    admin = store.local_user()
    tokens.make_token(store, admin, user.id, "from the admin", ["chat"], None)
    tokens.revoke_token(store, admin, user.id, first.id)
    assert store.authenticate(whole) is None


def test_the_settings_page_keeps_to_the_limits_of_its_token(store: Store, screen: Screen) -> None:
    user = store.create_user("ada", ["chat", "teach"])
    whole = store.create_token(user.id, "whole", ["chat", "teach"])
    visitor = visitor_with(store, store.create_token(user.id, "small", ["chat"], now() + timedelta(days=7)))
    page = settings.SettingsPage(visitor)
    page._expires = ""
    event = SimpleNamespace(args={"name": "more", "number": "", "scopes": ["chat", "teach"]})
    asyncio.run(page._create_token(event))
    asyncio.run(page._revoke(store.tokens(user.id)[0].id))
    assert len(screen.said) == 2
    assert [token.name for token in store.tokens(user.id)] == ["whole", "small"]
    assert store.authenticate(whole) is not None


# -- what the model reads ---------------------------------------------------------------------------------------------


def test_the_model_reads_calls_as_calls_and_no_empty_answers() -> None:
    def message(role: str, content: str, **provenance: Any) -> Any:
        return SimpleNamespace(role=role, content=content, provenance=provenance)

    parts = [text_part("It is "), calculator_part("1+1", "2")]
    path = [
        message("user", "a"),
        message("assistant", ""),
        message("user", "b"),
        message("assistant", "It is 2", parts=parts),
    ]
    assert messages_for_model("Be brief.", path) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a"},
        {"role": "user", "content": "b"},
        {"role": "assistant", "content": parts},
    ]
    assert messages_for_model(" ", path[:1]) == [{"role": "user", "content": "a"}]


# -- the server -------------------------------------------------------------------------------------------------------


def test_servers_in_one_process_keep_apart(tmp_path: Path) -> None:
    """NiceGUI has one application in a process; each request brings its own server's services."""
    apps = []
    for name in ("first", "second"):
        database = f"sqlite:///{tmp_path / name}.db"
        app = create_app(ServeConfig(base="tiny", database=database), ToldEngine(tmp_path))
        store = app.state.services.store
        store.create_conversation(store.local_user().user_id, f"only in the {name}")
        apps.append((app, name))
    for (app, name), other in zip((*apps, apps[0]), ("second", "first", "second"), strict=True):
        with TestClient(app, base_url="http://127.0.0.1", client=("127.0.0.1", 5000)) as client:
            page = client.get("/")
            assert page.status_code == 200
            assert f"only in the {name}" in page.text
            assert f"only in the {other}" not in page.text
            assert "default-src 'self'" in page.headers["content-security-policy"]
            missing = client.get("/v1/nothing")
            assert (missing.status_code, missing.headers["content-type"]) == (404, "application/json")
