"""One-by-one serving, to compare with: transformers' `generate` behind a lock, streamed as completions.

python bench/baseline_server.py BASE PORT [--dtype float32]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import JSONResponse, StreamingResponse
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.generation.streamers import BaseStreamer


class Pieces(BaseStreamer):
    """Hands each token's text to the event loop as it is written. The first call brings the prompt."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.loop = asyncio.get_running_loop()
        self.queue: asyncio.Queue[str | None] = asyncio.Queue()
        self.begun = False

    def put(self, value: torch.Tensor) -> None:
        if self.begun:
            self._hand(self.tokenizer.decode(value.tolist()))
        self.begun = True

    def end(self) -> None:
        self._hand(None)

    def _hand(self, piece: str | None) -> None:
        self.loop.call_soon_threadsafe(self.queue.put_nowait, piece)


def make_app(base: str, dtype: str) -> FastAPI:
    """One route, one lock."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, dtype)).eval()
    lock = threading.Lock()
    app = FastAPI()

    @app.get("/health")
    async def health() -> JSONResponse:
        return JSONResponse({})

    @app.post("/v1/completions")
    async def completions(request: Request) -> StreamingResponse:
        body = await request.json()
        pieces = Pieces(tokenizer)
        ids = torch.tensor([tokenizer.encode(body["prompt"], add_special_tokens=False)])

        def work() -> None:
            tokens = body["max_tokens"]
            with lock, torch.inference_mode():
                mask = torch.ones_like(ids)
                model.generate(
                    ids,
                    attention_mask=mask,
                    max_new_tokens=tokens,
                    min_new_tokens=tokens,
                    do_sample=False,
                    streamer=pieces,
                )

        threading.Thread(target=work, daemon=True).start()

        async def events() -> AsyncIterator[str]:
            while (piece := await pieces.queue.get()) is not None:
                yield "data: " + json.dumps({"choices": [{"text": piece, "finish_reason": None}]}) + "\n\n"
            yield "data: [DONE]\n\n"

        return StreamingResponse(events(), media_type="text/event-stream")

    return app


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("base")
    p.add_argument("port", type=int)
    p.add_argument("--dtype", default="float32")
    args = p.parse_args()
    uvicorn.run(make_app(args.base, args.dtype), port=args.port, log_level="warning")
