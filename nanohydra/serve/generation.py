"""From the ids of a prompt to the events of its answer, counted: quota, queue, metrics. All ways to the engine lead here."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from threading import Lock

from nanohydra.infer.config import SamplingParams
from nanohydra.serve.adapters import Shelf
from nanohydra.serve.config import ServeConfig
from nanohydra.serve.engine_client import EngineClient
from nanohydra.serve.errors import ApiError, EngineBroke, TooMany, Unavailable
from nanohydra.serve.forms import FormChecker
from nanohydra.serve.metrics import Metrics
from nanohydra.serve.prompts import characters
from nanohydra.serve.protocol import Failed, Finished, GenerateRequest, Token
from nanohydra.store import Principal, Store

TOKEN_CHARACTERS = 16
"""More than a token stands for in any text that is no attack."""


@dataclass
class Account:
    """Tokens of one request, read and written together."""

    most: int
    """What its user's quota lets it use."""
    used: int = 0


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
        self._open: Counter[int] = Counter()  # requests by user
        self._keeping = Lock()
        self._paying: set[asyncio.Future[object]] = set()

    @property
    def defaults(self) -> SamplingParams:
        """How answers are drawn where a request leaves it open: as the base's generation_config.json says."""
        params = SamplingParams(max_tokens=self.config.max_tokens, temperature=self.config.temperature)
        return replace(params, **self.engine.base.sampling) if self.engine.base else params

    def check_text(self, *values: object) -> None:
        """Raises ApiError where texts, counted before time is spent on splitting them, have more characters than any context
        of tokens. values: strings, or what holds them."""
        if self.engine.base is None:
            raise Unavailable(self.engine.error or "The base is being loaded.")
        most, given = self.engine.base.max_seq_len * TOKEN_CHARACTERS, characters(*values)
        if given > most:
            message = f"The prompt has {given} characters: more than {most} do not fit the context."
            raise ApiError(message, code="context_length_exceeded", param="messages")

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
        end or not. The answer is cut short where the quota ends. Raises ApiError, or UserError where the answer's form is not
        taken.
        """
        self.check(prompt)
        room = self.engine.base.max_seq_len if self.engine.base else 0
        longest = min(len(prompt) + params.max_tokens, room)
        async with self.account(user, len(prompt) + 1, longest) as account:
            if account.most < longest:  # the quota ends first
                params = replace(params, max_tokens=account.most - len(prompt))
            await self.forms.check(params)
            if adapter is not None:
                await self.adapters.attach(adapter, user)
            request = GenerateRequest(self.engine.new_id(), prompt, params, adapter, str(user.user_id))
            told = self.metrics.begin(adapter)
            account.used = len(prompt)
            reason = "abort"
            try:
                async with aclosing(self.engine.generate(request)) as events:
                    async for event in events:
                        if isinstance(event, Failed):
                            raise _error(event)
                        if isinstance(event, Token):
                            account.used += len(event.ids)
                            told.tokens(len(event.ids))
                        else:
                            account.used = len(prompt) + event.usage.completion_tokens
                            reason = event.reason
                            if reason == "error":
                                raise ApiError(
                                    "No token of the model fits the form that was asked for, or it takes too long."
                                )
                        yield event
            finally:
                told.end(len(prompt), reason)

    @asynccontextmanager
    async def account(self, user: Principal, least: int, most: int) -> AsyncIterator[Account]:
        """Within: one open request of a user, for which `least` to `most` tokens of their quota are kept; what it has not
        used is given back. Raises TooMany where the server or the user has too many requests open, or less is left."""
        if self._open.total() >= self.config.max_waiting:
            raise TooMany("The server is busy: too many requests are waiting.", code="server_busy", retry_after=2)
        if self._open[user.user_id] >= self.config.max_open_per_user:
            message = f"At most {self.config.max_open_per_user} answers to one user at once: wait for some to end."
            raise TooMany(message, code="too_many_open", retry_after=2)
        account, kept = Account(most), 0
        self._open[user.user_id] += 1
        try:
            if user.quota is not None:
                account.most = kept = await self._keep(user, least, most)
            yield account
        finally:
            self._open[user.user_id] -= 1
            self.pay(user, account.used - kept)

    async def _keep(self, user: Principal, least: int, most: int) -> int:
        """Takes up to `most` tokens from a user's quota of today; how many. Raises TooMany below `least`."""

        def keep() -> int:
            with self._keeping:  # nobody else looks between looking and taking
                left = self.store.quota_left(user.user_id)
                kept = most if left is None else min(most, left)
                if kept >= least:
                    self.store.use_quota(user.user_id, kept)
                return kept

        keeping = asyncio.ensure_future(asyncio.to_thread(keep))
        try:
            kept = await asyncio.shield(keeping)
        except asyncio.CancelledError:  # the caller has gone: the thread takes the tokens all the same
            keeping.add_done_callback(lambda done: self.pay(user, -done.result() if done.result() >= least else 0))
            raise
        if kept < least:
            others = self._open[user.user_id] > 1  # which may give tokens back
            raise TooMany(
                f"Today's quota has {kept} tokens left, and this request needs at least {least}.",
                code="insufficient_quota",
                retry_after=2 if others else 86400 - time.time() % 86400,
            )
        return kept

    def pay(self, user: Principal, tokens: int) -> None:
        """Counts tokens (negative: gives them back), in a thread and not waited for: the caller may be gone."""
        if not tokens:
            return
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
