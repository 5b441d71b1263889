"""POST /v1/embeddings, /tokenize and /detokenize: texts as vectors, and as ids and back."""

from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from nanohydra.serve.api.answers import Json
from nanohydra.serve.api.caller import MayChat, Works
from nanohydra.serve.api.chat import messages_of, tools_of
from nanohydra.serve.api.completions import prompts_of
from nanohydra.serve.api.logprobs import token_bytes
from nanohydra.serve.api.schemas import DetokenizeBody, EmbeddingBody, TokenizeBody
from nanohydra.serve.errors import ApiError
from nanohydra.serve.prompts import chat_prompt

router = APIRouter()

MOST_INPUTS = 256
"""Texts that one request may have embedded."""


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingBody, request: Request, works: Works, user: MayChat) -> Response:
    """A vector of length 1 for each text: the mean of the base's last hidden states."""
    adapter = await works.adapters.resolve(body.model, user)
    prompts = await prompts_of(body.input, works, document=False)
    if not 1 <= len(prompts) <= MOST_INPUTS:
        raise ApiError(f"{len(prompts)} inputs: give 1 to {MOST_INPUTS}.", param="input")
    for prompt in prompts:
        works.generation.check(prompt)
    size = works.engine.base.hidden_size if works.engine.base else 0
    if body.dimensions not in (None, size):
        raise ApiError(f"This base's vectors have {size} dimensions, not {body.dimensions}.", param="dimensions")
    read = sum(map(len, prompts))
    async with works.generation.account(user, read, read) as account:
        if adapter is not None:
            await works.adapters.attach(adapter, user)
        account.used = read
        vectors = await works.engine.embed(prompts, adapter)
    request.state.facts["prompt_tokens"] = read
    data = [
        {
            "object": "embedding",
            "index": i,
            "embedding": _packed(vector) if body.encoding_format == "base64" else vector,
        }
        for i, vector in enumerate(vectors)
    ]
    name = adapter or (works.engine.base.name if works.engine.base else "")
    return Json({"object": "list", "model": name, "data": data, "usage": {"prompt_tokens": read, "total_tokens": read}})


@router.post("/tokenize")
async def tokenize(body: TokenizeBody, works: Works, user: MayChat) -> Response:
    """The ids of a text, or of a conversation as the model sees it."""
    tokenizer = works.tokenizer
    if (body.prompt is None) == (body.messages is None):
        raise ApiError("Give either prompt or messages.", param="prompt")
    works.generation.check_text(body.prompt or "")
    if body.messages is not None:
        messages, tools = messages_of(body.messages), tools_of(body.tools)
        works.generation.check_text(messages, tools)
        ids = await asyncio.to_thread(chat_prompt, tokenizer, messages, tools, generate=body.add_generation_prompt)
    else:
        ids = await asyncio.to_thread(tokenizer.encode, body.prompt or "")
    room = works.engine.base.max_seq_len if works.engine.base else 0
    answer: dict[str, Any] = {"count": len(ids), "max_model_len": room, "tokens": ids}
    if body.return_token_strs:
        answer["token_strs"] = [token_bytes(tokenizer, id).decode("utf-8", "replace") for id in ids]
    return Json(answer)


@router.post("/detokenize")
async def detokenize(body: DetokenizeBody, works: Works, user: MayChat) -> Response:
    """The text of ids."""
    return Json({"prompt": await asyncio.to_thread(works.tokenizer.decode, body.tokens)})


def _packed(vector: list[float]) -> str:
    """As OpenAI's clients ask for it: little-endian float32, in base64."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
