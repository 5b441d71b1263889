"""What was taught, in the terminal's chat: who answers a question, and the sources below the answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Literal

from nanohydra.cli.lessons import find_base
from nanohydra.home import home

if TYPE_CHECKING:
    from nanohydra.data.chat import Message
    from nanohydra.hydra.recall import Plan, Source
    from nanohydra.infer.engine import Engine
    from nanohydra.store import Store

Mode = Literal["on", "weights", "retrieval", "off"]


class Recalling:
    """Plans answers over one base for the person at this machine."""

    def __init__(self, store: Store, user_id: int, base: str, parameters: int, mode: Mode) -> None:
        from nanohydra.agent.embedding import Embedder
        from nanohydra.hydra.recall import Recall, RecallConfig

        self.store, self.user_id, self.mode = store, user_id, mode
        self.base = find_base(base)
        embed = Embedder().embed if Embedder.available() else None
        config = RecallConfig(weights=mode in ("on", "weights"), retrieval=mode in ("on", "retrieval"))
        self._recall = Recall(store, self.base[1], parameters, embed, config, home() / "cache")

    def warm(self) -> None:
        """Loads meanwhile what the first question would wait some seconds for, where anything was taught."""
        if self.store.version():
            Thread(target=self._recall.warm, daemon=True).start()

    def plan(self, messages: Sequence[Message]) -> Plan:
        """How to answer the last message."""
        return self._recall.plan(messages, self.user_id)

    def attach(self, engine: Engine, plan: Plan) -> str | None:
        """Makes sure that the engine has the plan's adapter; the name it has there: a lesson's name can be given anew."""
        if plan.adapter is None or engine.adapters is None:
            return None
        shelf = {adapter.name: adapter for adapter in self.store.adapters(self.user_id)}
        adapter = shelf[plan.adapter]
        if adapter.content_id not in engine.adapters.names:
            engine.adapters.load(Path(adapter.folder), adapter.content_id)
        return adapter.content_id

    def cited(self, sources: Sequence[Source]) -> list[str]:
        """A line for each source."""
        names = {lesson.id: lesson.name for lesson in self.store.lessons(self.user_id)}
        return [cited(source, names.get(source.lesson_id, "")) for source in sources]


def cited(source: Source, lesson: str) -> str:
    """ "[1] lesson 3 "Mira", notes.pdf, page 3: Mira was born in Oslo."."""
    where = f", {source.where}" if source.where not in ("", lesson) else ""
    text = " ".join(source.text.split())
    text = text if len(text) <= 200 else text[:199].rsplit(" ", 1)[0] + " …"
    return f'[{source.n}] lesson {source.lesson_id} "{lesson}"{where}: {text}'
