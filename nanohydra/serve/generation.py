"""From the ids of a prompt to the events of its answer, counted: quota, queue, metrics. All ways to the engine lead here."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from nanohydra.infer.config import SamplingParams
from nanohydra.serve.adapters import Shelf
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError, EngineBroke, TooMany, Unavailable
from nanohydra.serve.forms import FormChecker
from nanohydra.serve.metrics import Metrics
from nanohydra.serve.protocol import Failed, Finished, GenerateRequest, Token
from nanohydra.serve.store import Principal, Store


class Generation:
    """What the API and the web app ask for answers."""

    def __init__(
        self, config: ServeConfig, engine: EngineClient, store: Store, adapters: Shelf, metrics: Metrics
    ) -> None:
        self.config = config
        self.engine = engine
        self.store = store
        self.adapters = adapters
        self.metrics = metrics
        self.forms = FormChecker()
        self._paying: set[asyncio.Future[object]] = set()

    @property
    def defaults(self) -> SamplingParams:
        """How answers are drawn where a request leaves it open: as the base's generation_config.json says."""
        params = SamplingParams(max_tokens=self.config.max_tokens, temperature=self.config.temperature)
        return replace(params, **self.engine.base.sampling) if self.engine.base else params

    def check(self, prompt: list[int]) -> None:
        """Raises ApiError where a prompt is empty or leaves no room for an answer, Unavailable while nothing is loaded."""
        if self.engine.base is None:
            raise Unavailable(self.engine.error or "The base is being loaded.")
        room = self.engine.base.max_seq_len
        if not prompt:
            raise ApiError("The prompt is empty: give at least one token.")
        if len(prompt) >= room:
            message = f"The prompt has {len(prompt)} tokens and the context holds {room}, one of them for the answer."
            raise ApiError(message, code="context_length_exceeded", param="messages")

    async def run(
        self, prompt: list[int], params: SamplingParams, adapter: str | None, user: Principal
    ) -> AsyncGenerator[Token | Finished, None]:
        """The events of an answer, Finished the last. Closing the iterator takes the request back.

        user: sees the adapter, and their quota pays; what was read and written counts, whether the answer was heard to its
        end or not. Raises ApiError, or UserError where the answer's form is not taken.
        """
        self.check(prompt)
        if self.engine.open_requests >= self.config.max_waiting:
            raise TooMany("The server is busy: too many requests are waiting.", code="server_busy", retry_after=2)
        await self.afford(user)
        await self.forms.check(params)
        if adapter is not None:
            await self.adapters.attach(adapter, user)
        request = GenerateRequest(self.engine.new_id(), prompt, params, adapter, str(user.user_id))
        told = self.metrics.begin(adapter)
        written, finished = 0, None
        try:
            async with aclosing(self.engine.generate(request)) as events:
                async for event in events:
                    if isinstance(event, Failed):
                        raise _error(event)
                    if isinstance(event, Token):
                        written += len(event.ids)
                        told.tokens(len(event.ids))
                    else:
                        finished = event
                        if event.reason == "error":
                            raise ApiError(
                                "No token of the model fits the form that was asked for, or it takes too long."
                            )
                    yield event
        finally:
            told.end(len(prompt), "abort" if finished is None else finished.reason)
            self.pay(user, len(prompt) + (written if finished is None else finished.usage.completion_tokens))

    async def afford(self, user: Principal) -> None:
        """Raises TooMany where a user's quota of today is used up."""
        if user.quota is not None and await asyncio.to_thread(self.store.quota_left, user.user_id) == 0:
            midnight = 86400 - time.time() % 86400
            raise TooMany("Today's quota of tokens is used up.", code="insufficient_quota", retry_after=midnight)

    def pay(self, user: Principal, tokens: int) -> None:
        """Counts tokens, in a thread and not waited for: the caller may be gone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[object] = loop.run_in_executor(None, self.store.use_quota, user.user_id, tokens)
        self._paying.add(future)
        future.add_done_callback(self._paying.discard)


def _error(failed: Failed) -> ApiError:
    match failed.kind:
        case "invalid":
            return ApiError(failed.message)
        case "engine":
            return EngineBroke(failed.message, code="engine_restarted")
        case "unavailable":
            return Unavailable(failed.message)
