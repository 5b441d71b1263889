"""Trials between adapters as the chat runs them: which adapter a conversation meets. What they mean is hydra.trials'."""

from __future__ import annotations

import asyncio
from typing import Any

from nanohydra.hydra.trials import adapter_of, arm_of
from nanohydra.store import Principal, Store


class Trials:
    """The trials under way of each user."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def meet(
        self, adapter: str | None, user: Principal, conversation: str | None
    ) -> tuple[str | None, dict[str, Any] | None]:
        """The adapter for a conversation that would be answered by `adapter`, and the trial that decided it, if one did: a
        trial in which `adapter` takes part decides, the newest first. Without a conversation, or for the base, none does."""
        if conversation is None or adapter is None:
            return adapter, None
        for trial in await asyncio.to_thread(self._store.trials, user.user_id):
            if trial.ended is None and adapter in (trial.a, trial.b):
                arm = arm_of(trial.id, user.user_id, conversation)
                return adapter_of(trial, arm), {"id": trial.id, "name": trial.name, "unit": conversation, "arm": arm}
        return adapter, None
