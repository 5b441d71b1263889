"""POST /v1/completions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.infer.streaming import Logprob
from nanohydra.serve.api.answers import Json, stream
from nanohydra.serve.api.caller import MayChat, Works
from nanohydra.serve.api.logprobs import completion_logprobs, spoken
from nanohydra.serve.api.merge import merged
from nanohydra.serve.api.schemas import CompletionBody
from nanohydra.serve.api.usage import Bill
from nanohydra.serve.errors import ApiError
from nanohydra.serve.protocol import Finished, Token
from nanohydra.serve.services import Services
from nanohydra.store import Principal

router = APIRouter()


@router.post("/v1/completions")
async def completions(body: CompletionBody, request: Request, works: Works, user: MayChat) -> Response:
    """The continuation of one text or many, whole or as it is written."""
    if body.suffix:
        raise ApiError("suffix is not offered here: leave it out.", param="suffix")
    if body.best_of is not None and body.best_of != body.choices:
        raise ApiError("best_of is offered only where it equals n.", param="best_of")
    if body.echo and body.logprobs is not None:
        raise ApiError("echo with logprobs is not offered here: leave one out.", param="echo")
    prompts = await prompts_of(body.prompt, works, document=True)
    if not 1 <= len(prompts) * body.choices <= works.config.max_choices:
        message = f"{len(prompts)} prompts with n = {body.choices}: at least 1 and at most {works.config.max_choices} answers."
        raise ApiError(message, param="prompt")
    adapter = await works.adapters.resolve(body.model, user)
    answer = Answer(body, works, adapter, request, prompts)
    events = merged([answer.choice(number, user) for number in range(len(prompts) * body.choices)])
    if body.stream:
        return await stream(answer.chunks(events), works.config.ping_seconds)
    return Json(await answer.whole(events))


async def prompts_of(
    given: str | list[str] | list[int] | list[list[int]], works: Services, document: bool
) -> list[list[int]]:
    """Texts or ids as prompts. An empty text is the beginning of a `document`: the end of the one before."""
    if isinstance(given, str):
        given = [given]
    works.generation.check_text(max((item for item in given if isinstance(item, str)), key=len, default=""))
    return await asyncio.to_thread(_encoded, given, works.tokenizer, document)


def _encoded(given: list[str] | list[int] | list[list[int]], tokenizer: Tokenizer, document: bool) -> list[list[int]]:
    prompts: list[list[int]] = []
    if given and isinstance(given[0], int):
        prompts.append([id for id in given if isinstance(id, int)])
    else:
        for item in given:
            ids = tokenizer.encode(item) if isinstance(item, str) else item if isinstance(item, list) else []
            prompts.append(ids or ([tokenizer.eos_id] if document else []))
    return prompts


class Answer:
    """One request's continuations. Choice number i continues prompt i // n."""

    def __init__(
        self,
        body: CompletionBody,
        works: Services,
        adapter: str | None,
        request: Request,
        prompts: Sequence[list[int]],
    ) -> None:
        self.body = body
        self.works = works
        self.adapter = adapter
        self.prompts = prompts
        self.tokenizer = works.tokenizer
        self.bill = Bill(request.state.facts, adapter)
        assert works.engine.base is not None
        self.head = {
            "id": f"cmpl-{request.state.request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": adapter or works.engine.base.name,
            "system_fingerprint": works.engine.base.base_id[:12],
        }

    def choice(self, number: int, user: Principal) -> AsyncGenerator[Token | Finished, None]:
        """The events of one continuation."""
        seed = number % self.body.choices
        params = self.body.params(self.works.generation.defaults, seed, self.body.max_tokens, self.body.logprobs)
        return self.works.generation.run(self._prompt(number), params, self.adapter, user)

    async def whole(self, events: AsyncGenerator[tuple[int, Token | Finished], None]) -> dict[str, Any]:
        """The continuations when all are finished."""
        count = len(self.prompts) * self.body.choices
        texts = [self._echo(number) for number in range(count)]
        logprobs: list[list[Logprob]] = [[] for _ in texts]
        reasons = [""] * count
        async with aclosing(events):
            async for number, event in events:
                if isinstance(event, Token):
                    texts[number] += event.text
                    logprobs[number] += spoken(self.tokenizer, event.logprobs)
                else:
                    reasons[number] = event.reason
                    self.bill.add(number // self.body.choices, event.usage, event.reason)
        choices = [
            self._choice(number, texts[number], self._logprobs(logprobs[number], 0), reasons[number])
            for number in range(count)
        ]
        return {**self.head, "choices": choices, "usage": self.bill.usage()}

    async def chunks(
        self, events: AsyncGenerator[tuple[int, Token | Finished], None]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The continuations as they are written."""
        written = [0] * len(self.prompts) * self.body.choices
        begun: set[int] = set()
        async with aclosing(events):
            async for number, event in events:
                text, logprobs, reason = "", None, None
                if number not in begun:
                    begun.add(number)
                    text = self._echo(number)
                if isinstance(event, Token):
                    text += event.text
                    logprobs = self._logprobs(spoken(self.tokenizer, event.logprobs), written[number])
                    written[number] += len(event.text)
                else:
                    reason = event.reason
                    self.bill.add(number // self.body.choices, event.usage, event.reason)
                if text or logprobs or reason:
                    chunk = {**self.head, "choices": [self._choice(number, text, logprobs, reason)]}
                    yield chunk | {"usage": None} if self.body.tells_usage else chunk
        if self.body.tells_usage:
            yield {**self.head, "choices": [], "usage": self.bill.usage()}

    def _prompt(self, number: int) -> list[int]:
        return self.prompts[number // self.body.choices]

    def _echo(self, number: int) -> str:
        return self.tokenizer.decode(self._prompt(number)) if self.body.echo else ""

    def _logprobs(self, logprobs: list[Logprob], offset: int) -> dict[str, Any] | None:
        return None if self.body.logprobs is None else completion_logprobs(self.tokenizer, logprobs, offset)

    def _choice(self, number: int, text: str, logprobs: dict[str, Any] | None, reason: str | None) -> dict[str, Any]:
        return {"index": number, "text": text, "logprobs": logprobs, "finish_reason": reason}
