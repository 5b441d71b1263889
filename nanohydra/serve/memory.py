"""What was taught, as the server recalls it: a plan for each answer. Embeddings come from the engine's process."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np

from nanohydra.errors import UserError
from nanohydra.home import home
from nanohydra.hydra.attributes import Vectors
from nanohydra.hydra.recall import Plan, Recall
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError
from nanohydra.store import Principal, Store

Use = Literal["on", "off", "weights", "retrieval"]
"""What of memory a request may use: all, nothing, adapters alone, quotations alone."""
PLAN_SECONDS = 5.0
"""Longest wait for a plan that compares meanings; then words alone decide."""
EMBED_SECONDS = 300.0
"""Longest wait for the embedder to be loaded, on a busy machine."""

log = logging.getLogger(__name__)


class Memory:
    """Plans for one base. Belongs to one event loop.

    The embedder takes seconds to load, in the engine's process, and is loaded once somebody has taught something: until then,
    and where it is not installed, words alone are compared."""

    def __init__(self, store: Store, engine: EngineClient) -> None:
        self._store = store
        self._engine = engine
        self._words: Recall | None = None
        self._meanings: Recall | None = None
        self._waking: asyncio.Task[None] | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._late: set[asyncio.Future[Plan]] = set()
        # Of its own, lest plans that wait for the engine take the threads that the store needs.
        self._pool = ThreadPoolExecutor(2, "recall")
        self._stopped = False

    @staticmethod
    def available() -> bool:
        """Whether what it needs is installed."""
        return all(importlib.util.find_spec(name) is not None for name in ("bm25s", "Stemmer", "faiss"))

    async def plan(self, messages: Sequence[Mapping[str, Any]], user: Principal, use: Use = "on") -> Plan | None:
        """How to answer a conversation; None where its user may recall nothing."""
        if use == "off" or self._engine.base is None:
            return None
        words = self._by_words()
        if (await asyncio.to_thread(words.memory, user.user_id)).empty:
            return None
        self._wake()
        options = {"weights": use != "retrieval", "retrieval": use != "weights"}
        if self._meanings is not None and not self._late:
            plan = partial(self._meanings.plan, messages, user.user_id, **options)
            planning = asyncio.ensure_future(asyncio.get_running_loop().run_in_executor(self._pool, plan))
            done, _ = await asyncio.wait({planning}, timeout=PLAN_SECONDS)
            try:
                if done:
                    return planning.result()
            except (TimeoutError, UserError, ApiError) as e:  # the engine starts again
                log.warning("planned by words", extra={"reason": type(e).__name__})
            else:  # much is new, or the engine is too busy: nobody waits until that is over
                self._late.add(planning)
                planning.add_done_callback(self._caught_up)
        return await asyncio.to_thread(words.plan, messages, user.user_id, **options)

    def start(self) -> None:
        """Gets ready for what was taught before, if anything was."""
        self._loop = asyncio.get_running_loop()
        self._preparing = asyncio.create_task(self._prepare())

    def taught(self, user: Principal) -> None:
        """Reads anew what a user may recall, in the background, so that the first question need not wait for it. From any
        thread."""
        if self._loop is not None:
            asyncio.run_coroutine_threadsafe(self._read(user.user_id), self._loop)

    async def stop(self) -> None:
        """Ends what is being loaded."""
        self._stopped = True
        tasks = [task for task in (self._preparing, self._waking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _caught_up(self, planning: asyncio.Future[Plan]) -> None:
        self._late.discard(planning)
        if not planning.cancelled():
            planning.exception()  # looked at, so that nobody complains

    def _by_words(self) -> Recall:
        if self._words is None:
            self._words = self._recall(None)
        return self._words

    def _recall(self, embed: Any) -> Recall:
        base = self._engine.base
        assert base is not None
        return Recall(self._store, base.base_id, base.parameters, embed, cache=home() / "cache")

    async def _prepare(self) -> None:
        with contextlib.suppress(UserError):  # the base cannot be loaded: told elsewhere
            await self._engine.ready()
            if await asyncio.to_thread(self._store.version):
                self._wake()

    async def _read(self, user_id: int) -> None:
        if self._engine.base is not None:
            await asyncio.to_thread(self._by_words().memory, user_id)
            self._wake()
            if self._meanings is not None:
                with contextlib.suppress(TimeoutError, UserError, ApiError):
                    loop = asyncio.get_running_loop()
                    await loop.run_in_executor(self._pool, self._meanings.memory, user_id)

    def _wake(self) -> None:
        if self._waking is None:
            self._waking = asyncio.create_task(self._load(asyncio.get_running_loop()))

    async def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        def embed(texts: Sequence[str]) -> Vectors:
            if self._stopped:
                raise UserError("The server is stopping.")
            asked = asyncio.run_coroutine_threadsafe(self._engine.embed_texts(list(texts)), loop)
            return np.asarray(asked.result(EMBED_SECONDS), np.float32)

        meanings = self._recall(embed)
        try:
            await loop.run_in_executor(self._pool, meanings.warm)
        except UserError as e:  # not installed: words it is
            log.warning("no embedder", extra={"reason": str(e)})
        except (TimeoutError, ApiError) as e:  # the engine starts again, or is too busy: the next plan tries anew
            log.warning("no embedder yet", extra={"reason": type(e).__name__})
            self._waking = None
        else:
            self._meanings = meanings
