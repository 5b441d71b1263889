"""The look that all pages share, and the parts they are made of: native HTML elements, dressed by static/style.css."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from nicegui import ui
from nicegui.element import Element
from nicegui.elements.mixins.text_element import TextElement

from nanohydra.serve.web.icons import MARK, icon

STATIC = Path(__file__).parent / "static"
BUILD_SECONDS = 30.0
"""How long a page may take to be built, on a machine that is busy with something else."""
Handler = Callable[..., Any] | Callable[..., Awaitable[Any]]

PAGES = (
    ("chat", "Chat", "/"),
    ("teach", "Teach", "/teach"),
    ("memory", "Memory", "/memory"),
    ("forgetting", "Forgetting", "/forgetting"),
    ("runs", "Runs", "/runs"),
    ("models", "Models", "/models"),
    ("settings", "Settings", "/settings"),
)

# Before the first paint: the theme that this browser chose, else the system's.
_EARLY = """<script>
document.documentElement.dataset.theme = localStorage.getItem("theme") ||
  (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
</script>"""


@cache
def head_html() -> str:
    """What every page's head needs. The version in the addresses lets browsers keep the files for good."""
    files = ("style.css", "teach.css", "app.js", "teach.js")
    version = hashlib.sha256(b"".join((STATIC / name).read_bytes() for name in files)).hexdigest()[:12]
    links = (f'<link rel="stylesheet" href="/_web/{name}?{version}">' for name in files if name.endswith(".css"))
    scripts = (f'<script defer src="/_web/{name}?{version}"></script>' for name in files if name.endswith(".js"))
    return _EARLY + "".join(links) + "".join(scripts)


def body_html() -> str:
    """What is painted before any script runs: the frame with the name, which the page then fills."""
    brand = f'<div class="brand"><span class="mark">{MARK}</span><span>nanohydra</span></div>'
    return f'<div class="shell splash" aria-hidden="true"><div class="sidebar">{brand}</div></div>'


# -- parts ------------------------------------------------------------------------------------------------------------


def el(tag: str, classes: str = "", text: str = "", **attributes: Any) -> TextElement:
    """A native element. Attributes: True is a bare one, None and False leave it out, `_` stands for `-`, a last `_` falls."""
    element = TextElement(tag=tag, text=text)
    if classes:
        element.classes(classes)
    for name, value in attributes.items():
        if value is not None and value is not False:
            element.props[name.rstrip("_").replace("_", "-")] = "" if value is True else value
    return element


def raw(html: str, classes: str = "", tag: str = "div") -> ui.html:
    """HTML of our own making, or of `markdown.to_html`, which is safe as it is."""
    element = ui.html(html, sanitize=False, tag=tag)
    return element.classes(classes) if classes else element


def mark(classes: str = "mark") -> None:
    """The three-headed mark."""
    raw(MARK, classes, "span")


def button(
    text: str = "", symbol: str | None = None, on_click: Handler | None = None, classes: str = "", **attributes: Any
) -> Element:
    """A button. Without text give `aria_label`: it is shown as a tooltip too."""
    if not text:
        attributes.setdefault("title", attributes.get("aria_label"))
    made = el("button", classes or ("quiet" if text else "quiet square"), type="button", **attributes)
    with made:
        if symbol:
            raw(icon(symbol), tag="span")
        if text:
            el("span", text=text)
    if on_click is not None:
        made.on("click", on_click, args=[])
    return made


@contextmanager
def labelled(label: str, hint: str = "") -> Iterator[Element]:
    """A field with its label above and a hint below; put the control inside."""
    with el("label", "field") as made:
        el("span", text=label)
        yield made
        if hint:
            el("small", "soft", hint)


def choice(options: dict[str, str], value: str, on_change: Handler, **attributes: Any) -> TextElement:
    """A native select; `on_change` gets the chosen key."""
    with el("select", **attributes) as made:
        for key, text in options.items():
            el("option", text=text, selected=key == value, **{"^value": key})
    return made.on("change", lambda e: on_change(e.args), js_handler="e => emit(e.target.value)")


class Dialog:
    """A native dialog: it traps the focus and closes by Esc, as browsers do. Use it as a context to fill it."""

    def __init__(self, title: str, classes: str = "") -> None:
        self.box = el("dialog", f"panel {classes}".strip(), aria_label=title)
        with self.box, el("header"):
            el("h2", text=title)
            button(symbol="close", aria_label="Close").on("click", js_handler="e => e.target.closest('dialog').close()")
        with self.box:
            self.body = el("div", "dialog-body")

    def __enter__(self) -> Dialog:
        self.body.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.body.__exit__(*_)

    def open(self) -> None:
        """Shows it."""
        self.box.client.run_javascript(f"document.getElementById('{self.box.html_id}').showModal()")

    def close(self) -> None:
        """Hides it."""
        self.box.client.run_javascript(f"document.getElementById('{self.box.html_id}').close()")


@contextmanager
def menu(label: str, symbol: str) -> Iterator[None]:
    """A small menu behind a button; a click anywhere, or Esc, closes it."""
    with el("details", "menu"):
        with el("summary", "quiet square", aria_label=label, title=label):
            raw(icon(symbol), tag="span")
        with el("div", "panel menu-items"):
            yield


def toast(text: str) -> None:
    """A word at the lower edge, also spoken by screen readers."""
    ui.run_javascript(f"nanohydra.toast({json.dumps(text)})")


# -- pages ------------------------------------------------------------------------------------------------------------


def _ground() -> None:
    """The toolkit puts the whole page into a `main`: it is ours to say which part is the main one."""
    slot = ui.context.client.content.parent_slot
    if slot is not None:
        slot.parent.props["role"] = "none"


def bare_page() -> None:
    """The ground of a page without navigation."""
    _ground()
    _toasts()


def _toasts() -> None:
    el("div", "toasts", role="status", aria_live="polite")


@contextmanager
def page(active: str, user: str, signed_in: bool) -> Iterator[Element]:
    """Navigation at the side and a main region; yields the sidebar's own region, for what a page adds there."""
    _ground()
    el("a", "skip", "Skip to the content", href="#main")
    with el("div", "shell"):
        el("div", "scrim", data_sidebar="")
        with el("aside", "sidebar", aria_label="Sidebar"):
            with el("a", "brand", href="/", aria_label="nanohydra, to the chat"):
                mark()
                el("span", text="nanohydra")
            with el("nav", "nav", aria_label="Pages"):
                for key, title, address in PAGES:
                    with el("a", href=address, aria_current="page" if key == active else None):
                        raw(icon(key), tag="span")
                        el("span", text=title)
            own = el("div", "sidebar-own")
            with el("footer", "sidebar-foot"):
                el("span", "soft who", user)
                if signed_in:
                    with el("form", method="post", action="/logout"):
                        el("button", "quiet", "Sign out", type="submit")
                button(symbol="theme", aria_label="Light or dark", data_theme_toggle="")
        with el("main", "main", id_="main", tabindex="-1"):
            yield own
    _toasts()


@contextmanager
def sheet(title: str, lead: str = "") -> Iterator[None]:
    """A page to be read: one column with a heading. On a phone it has the button that opens the navigation."""
    with el("div", "sheet"):
        with el("header", "sheet-head"):
            button(symbol="menu", aria_label="Open the navigation", classes="quiet square only-phone", data_sidebar="")
            el("h1", text=title)
        if lead:
            el("p", "lead", lead)
        yield


def empty(text: str, command: str = "") -> None:
    """What stands where there is nothing yet, and the command that changes that."""
    with el("div", "empty"):
        mark()
        el("p", text=text)
        if command:
            el("code", "command", command)


def size(count: float) -> str:
    """Bytes as a person says them."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.2f} GB" if count < 1000 else f"{count / 1000:.2f} TB"


def pace(speed: float) -> str:
    """Tokens a second: 48, or 3.5."""
    return f"{speed:.0f}" if speed >= 10 else f"{speed:.1f}"


def short_number(count: float) -> str:
    """135,000,000 as 135M."""
    for unit in ("", "K", "M"):
        if abs(count) < 1000:
            return f"{count:.3g}{unit}"
        count /= 1000
    return f"{count:.3g}B"
