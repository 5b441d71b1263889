"""What was taught, as the server recalls it: a plan for each answer. Embeddings come from the engine's process."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nanohydra.errors import UserError
from nanohydra.hydra.attributes import Vectors
from nanohydra.hydra.recall import Plan, Recall
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError
from nanohydra.store import Principal, Store

Use = Literal["on", "off", "weights", "retrieval"]
"""What of memory a request may use: all, nothing, adapters alone, quotations alone."""
PLAN_SECONDS = 5.0
"""Longest wait for a plan that compares meanings; then words alone decide."""
EMBED_SECONDS = 60.0

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
        if self._meanings is not None:
            planning = asyncio.to_thread(self._meanings.plan, messages, user.user_id, **options)
            try:
                return await asyncio.wait_for(planning, PLAN_SECONDS)
            except (TimeoutError, UserError, ApiError) as e:  # the engine starts again, or is too busy
                log.warning("planned by words", extra={"reason": type(e).__name__})
        return await asyncio.to_thread(words.plan, messages, user.user_id, **options)

    async def stop(self) -> None:
        """Ends what is being loaded."""
        if self._waking is not None:
            self._waking.cancel()
            await asyncio.gather(self._waking, return_exceptions=True)

    def _by_words(self) -> Recall:
        if self._words is None:
            self._words = self._recall(None)
        return self._words

    def _recall(self, embed: Any) -> Recall:
        base = self._engine.base
        assert base is not None
        return Recall(self._store, base.base_id, base.parameters, embed)

    def _wake(self) -> None:
        if self._waking is None:
            self._waking = asyncio.create_task(self._load(asyncio.get_running_loop()))

    async def _load(self, loop: asyncio.AbstractEventLoop) -> None:
        def embed(texts: Sequence[str]) -> Vectors:
            asked = asyncio.run_coroutine_threadsafe(self._engine.embed_texts(list(texts)), loop)
            return np.asarray(asked.result(EMBED_SECONDS), np.float32)

        meanings = self._recall(embed)
        try:
            await asyncio.to_thread(meanings.warm)
        except (TimeoutError, UserError, ApiError) as e:
            log.warning("no embedder", extra={"reason": str(e)})
        else:
            self._meanings = meanings
