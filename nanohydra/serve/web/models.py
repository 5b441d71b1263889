"""The models page: bases and adapters on this machine, where they came from, and bringing another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nicegui import ui
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from nanohydra.home import bases_dir
from nanohydra.serve.web.model_files import BaseInfo, adapter_facts, find_bases, folder_bytes
from nanohydra.serve.web.theme import BUILD_SECONDS, button, el, empty, labelled, page, sheet, short_number, size
from nanohydra.serve.web.visitors import Visitor, sign_in, visitor_of
from nanohydra.store import Adapter

LOOK_SECONDS = 1.0


@ui.page("/models", title="Models · nanohydra", response_timeout=BUILD_SECONDS)
async def models_page(request: Request) -> Response | None:
    """Bases, adapters, pull."""
    visitor = await visitor_of(request)
    if visitor is None:
        return sign_in(request)
    signed_in = visitor.principal.token_id is not None
    lead = "A base is frozen weights; an adapter is what was taught on top of one."
    with page("models", visitor.principal.name, signed_in), sheet("Models", lead):
        await ModelsPage(visitor).build()
    return None


class ModelsPage:
    """One open page."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor = visitor
        self.services = visitor.web.services

    async def build(self) -> None:
        """Fills the page."""
        el("h2", text="Bases")
        self.bases = el("div", "cards")
        await self._show_bases()
        if self.visitor.may("admin"):
            self._pull_form()
        el("h2", text="Adapters")
        self.adapters = el("div", "cards")
        await self._show_adapters()

    async def _show_bases(self) -> None:
        found = await run_in_threadpool(find_bases, bases_dir())
        served = self.services.engine.base
        self.bases.clear()
        with self.bases:
            for base in found:
                self._base(
                    base, served is not None and Path(served.folder).resolve() == (bases_dir() / base.name).resolve()
                )
            if not found:
                empty("There is no base here yet.", "nanohydra pull smollm2")

    def _base(self, base: BaseInfo, served: bool) -> None:
        with el("article", "card", aria_label=base.name):
            with el("div", "row"):
                el("h3", text=base.name)
                if served:
                    el("span", "badge good", "answers now")
            source = base.source
            facts = {
                "parameters": short_number(base.parameters) if base.parameters else "",
                "on disk": size(base.bytes),
                "shape": f"{base.family}, {base.layers} layers × {base.width}" if base.layers else base.family,
                "context": f"{base.context:,} tokens" if base.context else "",
                "from": str(source.get("source", "trained or copied here")),
                "package": str(source.get("package", "")),
                "revision": str(source.get("revision", ""))[:12],
                "license": str(source.get("license", "")),
                "pulled": str(source.get("pulled", ""))[:10],
            }
            _facts(facts)
            if not served:
                el("code", "command", f"nanohydra serve --base {base.name}")

    def _pull_form(self) -> None:
        with el("section", "card", aria_label="Pull a base"):
            el("h3", text="Pull a base")
            el("p", "soft", "The download goes from the hub to this machine; nothing else on this page leaves it.")
            with el("div", "row pull"):
                with labelled("Hub id, or smollm2"):
                    source = el("input", type="text", placeholder="Qwen/Qwen3-0.6B", name="source", spellcheck="false")
                with labelled("Name (optional)"):
                    el("input", type="text", name="name", spellcheck="false")
                go = button("Pull", "export", classes="primary")
            take = "emit(...['source', 'name'].map(n => document.querySelector(`.pull input[name=${n}]`).value.trim()))"
            go.on("click", self._pull, js_handler=f"() => {take}")
            source.on("keydown.enter", self._pull, js_handler=f"() => {take}")
            self.progress = el("div", role="status")
        self._shown: Any = None
        self._show_progress()
        self.visitor.watch(LOOK_SECONDS, self._look)

    async def _pull(self, event: Any) -> None:
        source, name = (str(value) for value in event.args)
        if await self.visitor.act(lambda: self.visitor.web.pulls.start(source, name), "admin"):
            self._show_progress()

    async def _look(self) -> None:
        pull = self.visitor.web.pulls.current
        if pull is None:
            return
        if pull.done and self._shown != (pull, True):
            self._show_progress()
            await self._show_bases()
        elif not pull.done:
            self._show_progress()

    def _show_progress(self) -> None:
        pull = self.visitor.web.pulls.current
        if pull is None:
            return
        if self._shown != (pull, pull.done):
            self._shown = (pull, pull.done)
            self.progress.clear()
            with self.progress:
                if pull.done:
                    if pull.error:
                        el("p", "error", pull.error)
                    else:
                        el("p", text=f"{pull.source} is here.")
                else:
                    self._words = el("p", "soft")
                    self._bar = el("progress", max=1, aria_label=f"Pulling {pull.source}")
        if not pull.done:
            done = f"{pull.share:.0%}, " if pull.share is not None else ""
            self._words.set_text(f"Pulling {pull.source}: {done}{size(pull.bytes)} so far, {pull.seconds:.0f} s")
            if pull.share is not None:
                self._bar.props["value"] = pull.share

    async def _show_adapters(self) -> None:
        found = await run_in_threadpool(self.services.store.adapters, self.visitor.user_id)
        default = self.visitor.principal.default_adapter
        self.adapters.clear()
        with self.adapters:
            for adapter in found:
                self._adapter(adapter, adapter.name == default)
            if not found:
                el(
                    "p",
                    "soft",
                    "None yet. An adapter folder is loaded with POST /v1/load_lora_adapter, and then chosen in a chat.",
                )

    def _adapter(self, adapter: Adapter, default: bool) -> None:
        served = self.services.engine.base
        fits = served is not None and served.base_id == adapter.base
        with el("article", "card", aria_label=adapter.name):
            with el("div", "row"):
                el("h3", text=adapter.name)
                if default:
                    el("span", "badge good", "your default")
                elif not fits:
                    el("span", "badge", "for another base")
            folder = Path(adapter.folder)
            _facts(
                {
                    "base": adapter.base[:12],
                    "content": adapter.content_id[:12],
                    "on disk": size(folder_bytes(folder)),
                    **adapter_facts(folder),
                    "whose": "everybody's" if adapter.owner is None else "yours",
                    "since": adapter.created.strftime("%Y-%m-%d"),
                }
            )
            if fits or default:
                words = "Use the base by default" if default else "Use by default"
                button(words, on_click=lambda: self._set_default(None if default else adapter.name))

    async def _set_default(self, name: str | None) -> None:
        async def keep() -> None:
            await run_in_threadpool(self.services.store.set_default_adapter, self.visitor.user_id, name)

        await self.visitor.act(keep)
        await self.visitor.act(self._show_adapters)  # reads the principal again


def _facts(facts: dict[str, str]) -> None:
    with el("dl", "facts"):
        for name, value in facts.items():
            if value:
                el("dt", text=name)
                el("dd", text=value)
