"""Plans in the server: by meaning where the embedder is at hand, by words as long as it is not."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from nanohydra.errors import UserError
from nanohydra.hydra import teaching
from nanohydra.hydra.config import LearnConfig
from nanohydra.hydra.reading import take_in
from nanohydra.hydra.recall import Plan
from nanohydra.serve import memory
from nanohydra.serve.memory import Memory
from nanohydra.serve.protocol import Ready
from nanohydra.store import Store

QUESTION = [{"role": "user", "content": "Where was Mira Solberg born?"}]
pytestmark = pytest.mark.skipif(not Memory.available(), reason="needs the extra `teach`")


class Engine:
    """As much of an engine as memory needs. error: why texts cannot be embedded."""

    error = ""
    base = Ready("tiny", "/nowhere", "b" * 64, 512, 4, 1000)

    def __init__(self, error: str = "") -> None:
        self.error = error

    async def ready(self) -> Ready:
        return self.base

    async def embed_texts(self, texts: Sequence[str]) -> list[list[float]]:
        if self.error:
            raise UserError(self.error)
        return [[1.0] + [0.0] * 383 for _ in texts]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NANOHYDRA_HOME", str(tmp_path))
    store = Store.open()
    user = store.local_user().user_id
    found = teaching.look(store, user, take_in(text="Mira Solberg was born in Trondheim."))
    teaching.add(store, user, found, ("tiny", "b" * 64), LearnConfig())
    yield store
    store.close()


def test_words_answer_where_there_is_no_embedder(store: Store) -> None:
    async def ask() -> tuple[Plan | None, Plan | None]:
        mind = Memory(store, Engine("not installed"))  # type: ignore[arg-type]
        mind.start()
        first = await mind.plan(QUESTION, store.local_user())
        await asyncio.gather(mind._waking)  # type: ignore[arg-type]
        second = await mind.plan(QUESTION, store.local_user())
        assert mind._meanings is None
        await mind.stop()
        return first, second

    for plan in asyncio.run(ask()):
        assert plan is not None
        assert (plan.mode, plan.quote) == ("quote", "Mira Solberg was born in Trondheim. [1]")


def test_a_plan_by_meaning_that_is_late_is_not_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PLAN_SECONDS", 0.2)
    go_on = threading.Event()

    class Slow:
        calls = 0

        def plan(self, messages: Any, user_id: int, **options: bool) -> str:
            self.calls += 1
            go_on.wait(30)
            return "by meaning"

    async def ask() -> None:
        mind, slow = Memory(store, Engine("not installed")), Slow()  # type: ignore[arg-type]
        await mind.plan(QUESTION, store.local_user())
        mind._meanings = slow  # type: ignore[assignment]
        plans = [await mind.plan(QUESTION, store.local_user()) for _ in range(3)]
        assert [plan.mode for plan in plans if plan] == ["quote"] * 3
        assert slow.calls == 1  # nobody else waits in the same queue
        go_on.set()
        while mind._late:
            await asyncio.sleep(0.01)
        assert await mind.plan(QUESTION, store.local_user()) == "by meaning"
        await mind.stop()

    asyncio.run(ask())


def test_nothing_is_planned_for_whom_nothing_was_taught(store: Store) -> None:
    async def ask() -> tuple[Plan | None, Plan | None]:
        mind = Memory(store, Engine("not installed"))  # type: ignore[arg-type]
        store.create_user("b", ["chat"])
        token = store.create_token(store.users()[-1].id, "test", ["chat"])
        other = store.authenticate(token)
        assert other is not None
        plans = await mind.plan(QUESTION, other), await mind.plan(QUESTION, store.local_user(), "off")
        await mind.stop()
        return plans

    assert asyncio.run(ask()) == (None, None)
