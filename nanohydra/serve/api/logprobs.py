"""Log-probabilities in the forms of the two endpoints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from nanohydra.data.tokenizer import END_OF_TEXT, Tokenizer
from nanohydra.infer.streaming import Logprob

LEAST = -9999.0
"""What stands for a probability of 0, which JSON cannot say."""


def spoken(tokenizer: Tokenizer, logprobs: Iterable[Logprob | None]) -> list[Logprob]:
    """Those of tokens that the model wrote itself, without the one that ends a turn."""
    ends = {tokenizer.eos_id, tokenizer.end_of_turn_id, tokenizer.special.get(END_OF_TEXT)}
    return [entry for entry in logprobs if entry is not None and entry.id not in ends]


def chat_logprobs(tokenizer: Tokenizer, logprobs: Sequence[Logprob]) -> dict[str, Any]:
    """As chat completions tell them."""

    def told(id: int, logprob: float) -> dict[str, Any]:
        raw = token_bytes(tokenizer, id)
        return {"token": raw.decode("utf-8", "replace"), "logprob": max(logprob, LEAST), "bytes": list(raw)}

    entries = [
        {**told(entry.id, entry.logprob), "top_logprobs": [told(*pair) for pair in entry.top]} for entry in logprobs
    ]
    return {"content": entries, "refusal": None}


def completion_logprobs(tokenizer: Tokenizer, logprobs: Sequence[Logprob], offset: int) -> dict[str, Any]:
    """As completions tell them; `offset`: how many characters of text stand before the first token."""
    tokens = [_text(tokenizer, entry.id) for entry in logprobs]
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [max(entry.logprob, LEAST) for entry in logprobs],
        "top_logprobs": [{_text(tokenizer, id): max(p, LEAST) for id, p in entry.top} for entry in logprobs],
        "text_offset": offsets,
    }


def token_bytes(tokenizer: Tokenizer, id: int) -> bytes:
    """What a token alone stands for."""
    return tokenizer.token_bytes(id) if tokenizer.has_fixed_bytes else tokenizer.decode([id]).encode()


def _text(tokenizer: Tokenizer, id: int) -> str:
    return token_bytes(tokenizer, id).decode("utf-8", "replace")
