"""Conversations to token ids and back, with the marks of which tokens the assistant learns to write."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any, Literal, NotRequired, TypedDict

from nanohydra.data.templates import encode_rendered, hide_special, render_template
from nanohydra.data.tokenizer import CALC, CHATML, END_CALC, RESULT, TURN_END, TURN_START, Tokenizer
from nanohydra.errors import UserError, did_you_mean

ROLES = ("system", "user", "assistant", "tool")


class Part(TypedDict):
    """A piece of a message: `text`, or a calculator call with its `expression` and `result`."""

    type: Literal["text", "calculator"]
    text: NotRequired[str]
    expression: NotRequired[str]
    result: NotRequired[str]


class Message(TypedDict):
    """One turn of a conversation."""

    role: str
    content: str | list[Part]


def text_part(text: str) -> Part:
    """A part that is plain text."""
    return {"type": "text", "text": text}


def calculator_part(expression: str, result: str) -> Part:
    """A part in which the assistant calls the calculator."""
    return {"type": "calculator", "expression": expression, "result": result}


def plain_text(content: str | Sequence[Part]) -> str:
    """A message's content as a person reads it: a calculator call shows its result."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] if part["type"] == "text" else part["result"] for part in content)


def render_chat(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool = False
) -> tuple[list[int], list[bool]]:
    """The ids of a conversation, and for each whether the assistant learns to write it.

    Learned are the assistant's own tokens and the end of its turn; not the headers, and not the calculator's results,
    which the engine forces in. Special tokens spelled out in a content stay plain text. The ids equal those of
    transformers' `apply_chat_template` for contents without such tokens (in our own template, also without a line break
    at the very start of an assistant's content, which here is never merged with the header's own).
    Raises UserError for an unknown role or a tokenizer without a chat template.
    """
    for message in messages:
        if message["role"] not in ROLES:
            raise UserError(
                f'Unknown role "{message["role"]}" in a conversation.{did_you_mean(message["role"], ROLES)}'
            )
    if tokenizer.chat_template is None:
        raise UserError(
            "This tokenizer has no chat template. Use an instruction-tuned base, or add chat_template.jinja."
        )
    if tokenizer.chat_template == CHATML and TURN_START in tokenizer.special and CALC in tokenizer.special:
        return _render_chatml(tokenizer, messages, add_generation_prompt)
    return _render_foreign(tokenizer, messages, add_generation_prompt)


def parse_assistant(tokenizer: Tokenizer, ids: Sequence[int]) -> list[Part]:
    """The parts of an assistant's turn from the ids that it generated, up to the end of the turn or of the text.

    A call that is not whole (cut off, or out of order) stays as text, so nothing of what was written is hidden.
    """
    ends = {tokenizer.end_of_turn_id, tokenizer.eos_id}
    stop = next((i for i, id in enumerate(ids) if id in ends), len(ids))
    turn = list(ids[:stop])
    parts: list[Part] = []
    start = at = 0
    while at < len(turn):
        call = _call_at(tokenizer, turn, at)
        if call is None:
            at += 1
            continue
        middle, end = call
        if at > start:
            parts.append(text_part(tokenizer.decode(turn[start:at])))
        parts.append(calculator_part(tokenizer.decode(turn[at + 1 : middle]), tokenizer.decode(turn[middle + 1 : end])))
        start = at = end + 1
    if start < len(turn):
        parts.append(text_part(tokenizer.decode(turn[start:])))
    return parts


def _call_at(tokenizer: Tokenizer, ids: list[int], at: int) -> tuple[int, int] | None:
    """Where the result and the end of a whole calculator call lie that starts at `at`, or None."""
    calc, result, end_calc = (tokenizer.special.get(token) for token in (CALC, RESULT, END_CALC))
    if calc is None or ids[at] != calc:
        return None
    marks = [(i, id) for i, id in enumerate(ids[at + 1 :], at + 1) if id in (calc, result, end_calc)][:2]
    if [id for _, id in marks] != [result, end_calc]:
        return None
    return marks[0][0], marks[1][0]


def _render_chatml(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool
) -> tuple[list[int], list[bool]]:
    special = tokenizer.special
    pieces: list[tuple[int | str, bool]] = []  # a special token's id or a stretch of text, and whether it is learned
    for message in messages:
        own = message["role"] == "assistant"
        pieces += [(special[TURN_START], False), (message["role"] + "\n", False)]
        content = message["content"]
        for part in [text_part(content)] if isinstance(content, str) else content:
            if part["type"] == "calculator":
                pieces += [(special[CALC], own), (part["expression"], own), (special[RESULT], own)]
                pieces += [(part["result"], False), (special[END_CALC], False)]
            else:
                pieces.append((part["text"], own))
        pieces += [(special[TURN_END], own), ("\n", False)]
    if add_generation_prompt:
        pieces += [(special[TURN_START], False), ("assistant\n", False)]

    ids: list[int] = []
    trained: list[bool] = []
    # Neighbouring texts are encoded as one, but never across the point where the assistant takes over.
    for (is_text, learned), run in groupby(pieces, key=lambda piece: (isinstance(piece[0], str), piece[1])):
        values = [value for value, _ in run]
        tokens = tokenizer.encode("".join(map(str, values))) if is_text else [v for v in values if isinstance(v, int)]
        ids += tokens
        trained += [learned] * len(tokens)
    return ids, trained


def _render_foreign(
    tokenizer: Tokenizer, messages: Sequence[Message], add_generation_prompt: bool
) -> tuple[list[int], list[bool]]:
    """Another family's template. An assistant's turn runs from where its generation prompt ends to the end of turn."""
    hidden = [{**m, "content": hide_special(tokenizer, _written_out(m["content"]))} for m in messages]
    text = render_template(tokenizer, hidden, add_generation_prompt)
    ids, starts = encode_rendered(tokenizer, text)
    trained = [False] * len(ids)
    ends = {tokenizer.end_of_turn_id, tokenizer.eos_id}
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        begin = _assistant_begin(tokenizer, hidden[:i], text)
        for k in range(bisect_left(starts, begin), len(ids)):
            trained[k] = True
            if ids[k] in ends:
                break
    return ids, trained


def _written_out(content: str | Sequence[Part]) -> str:
    """A content for a model without calculator tokens: a call becomes an equation."""
    if isinstance(content, str):
        return content
    return "".join(
        part["text"] if part["type"] == "text" else f"{part['expression']} = {part['result']}" for part in content
    )


def _assistant_begin(tokenizer: Tokenizer, before: Sequence[Mapping[str, Any]], text: str) -> int:
    """The character of the rendered `text` at which the assistant takes over after the messages `before`."""
    prompt = render_template(tokenizer, before, add_generation_prompt=True)
    if text.startswith(prompt):
        return len(prompt)
    # A generation prompt may hold more than the header (an opened thought): up to there both must agree.
    begin = next((i for i, (a, b) in enumerate(zip(prompt, text)) if a != b), len(text))
    if before and begin <= len(render_template(tokenizer, before, add_generation_prompt=False)):
        raise UserError(
            "The tokenizer's chat template rewrites earlier turns, so the assistant's tokens cannot be told apart. "
            "Split the conversation after each answer, or use another template."
        )
    return begin
