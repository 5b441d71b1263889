"""From the messages and tools of a request to the ids of a prompt. What a person writes never becomes a special token."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nanohydra.data.chat import Message, render_chat
from nanohydra.data.templates import encode_rendered, hide_special, render_template
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.serve.tools import CALL_BEGIN, Tool, ToolCall, call_text, instructions


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[Tool] = (),
    forced: bool = False,
    generate: bool = True,
) -> list[int]:
    """The ids of a conversation, up to where the assistant takes over.

    messages: role, content, and of assistants `tool_calls` (a list of ToolCall). tools: what the model is told that it may
    call: by its own template where that knows tools, else in the system message. forced: the answer begins inside a call.
    Raises UserError where the template refuses the conversation.
    """
    calls = any(message.get("tool_calls") or message["role"] == "tool" for message in messages)
    if (tools or calls) and "tools" in (tokenizer.chat_template or ""):
        ids = _by_template(tokenizer, messages, tools, generate)
    else:
        ids, _ = render_chat(tokenizer, _written_out(messages, tools), add_generation_prompt=generate)
    return [*ids, *tokenizer.encode(CALL_BEGIN + "\n")] if forced else ids


def characters(*values: object) -> int:
    """Of all strings in messages, tools, and what holds them, however deep."""
    count, left = 0, [*values]
    while left:
        value = left.pop()
        if isinstance(value, str):
            count += len(value)
        elif isinstance(value, Mapping):
            left += [*value, *value.values()]
        elif isinstance(value, list | tuple):
            left += value
        elif isinstance(value, Tool | ToolCall):
            left.append(vars(value))
    return count


def _by_template(
    tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool], generate: bool
) -> list[int]:
    def hidden(value: Any) -> Any:
        if isinstance(value, str):
            return hide_special(tokenizer, value)
        if isinstance(value, Mapping):
            return {hidden(key): hidden(item) for key, item in value.items()}
        return [hidden(item) for item in value] if isinstance(value, list) else value

    told = [
        {**message, "tool_calls": [_openai(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else {key: value for key, value in message.items() if key != "tool_calls"}
        for message in messages
    ]
    offered = [hidden({"type": "function", "function": tool.described()}) for tool in tools] or None
    return encode_rendered(tokenizer, render_template(tokenizer, hidden(told), generate, offered))[0]


def _openai(call: ToolCall) -> dict[str, Any]:
    try:
        arguments = json.loads(call.arguments)
    except ValueError:  # cut off by max_tokens: told as it is
        arguments = call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _written_out(messages: Sequence[Mapping[str, Any]], tools: Sequence[Tool]) -> list[Message]:
    """For a template that knows no tools: calls become text, and the first system message tells of the tools."""
    written: list[Message] = []
    for message in messages:
        content = message["content"]
        for call in message.get("tool_calls") or ():
            content = f"{content}\n{call_text(call)}" if content else call_text(call)
        written.append({"role": message["role"], "content": content})
    if tools:
        if written and written[0]["role"] == "system":
            head = written.pop(0)["content"]
            start = f"{head}\n\n"
        else:
            start = ""
        written.insert(0, {"role": "system", "content": start + instructions(tools)})
    return written
