"""Tool calls read out of text: the same in whatever pieces it comes, nothing lost, arguments as they are written."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanohydra.data.tokenizer import Tokenizer
from nanohydra.serve.prompts import chat_prompt
from nanohydra.serve.tools import Tool, ToolCall, ToolCallDelta, ToolParser, call_text, forced_schema

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
ARGUMENTS = st.dictionaries(st.text(max_size=6), JSON, max_size=3)


def parsed(pieces: Iterable[str], inside: bool = False) -> tuple[str, list[tuple[str, str]]]:
    """The text, and the calls as (name, arguments)."""
    parser = ToolParser(inside=inside)
    text, calls = "", []
    new = [item for piece in pieces for item in parser.push(piece)] + parser.flush()
    for item in new:
        if isinstance(item, str):
            text += item
        elif item.name is not None:
            assert item.index == len(calls)
            assert item.id
            calls.append((item.name, item.arguments))
        else:
            assert item.index == len(calls) - 1
            calls[-1] = calls[-1][0], calls[-1][1] + item.arguments
    return text, calls


def cut(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True)]


@given(st.text(), st.lists(st.integers(0, 1000), max_size=6))
def test_text_without_calls_comes_through_whole(text: str, places: list[int]) -> None:
    if "<tool_call>" not in text:
        assert parsed(cut(text, places)) == (text, [])


@given(
    st.text("abc <", max_size=10),
    st.lists(st.tuples(st.text(min_size=1, max_size=8), ARGUMENTS), min_size=1, max_size=3),
    st.lists(st.integers(0, 1000), max_size=12),
    st.booleans(),
)
def test_calls_are_found_in_any_pieces(
    before: str, calls: list[tuple[str, dict[str, object]]], places: list[int], ascii_only: bool
) -> None:
    written = [(name, json.dumps(arguments, ensure_ascii=ascii_only)) for name, arguments in calls]
    if any("</tool_call>" in name for name, _ in written):
        return
    text = before + "\n".join(call_text(ToolCall("", name, arguments)) for name, arguments in written) + "\n"
    said, found = parsed(cut(text, places))
    assert said == before.rstrip()
    assert found == written


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('<tool_call>{"arguments": {"a": 1}, "name": "f"}</tool_call>', ("", [("f", '{"a": 1}')])),
        ('<tool_call>{"name": "f", "parameters": {"a": 1}}</tool_call>', ("", [("f", '{"a": 1}')])),
        ('<tool_call>{"name": "f", "arguments": "{}"}</tool_call>', ("", [("f", "{}")])),
        ('<tool_call>{"name": "f"}', ("", [("f", "{}")])),
        ("<tool_call>no JSON</tool_call> and on", ("<tool_call>no JSON</tool_call> and on", [])),
        ("<tool_call>[1]</tool_call>", ("<tool_call>[1]</tool_call>", [])),
        ("<tool_call>" + "[" * 5000, ("<tool_call>" + "[" * 5000, [])),
        ('<tool_call>{"name": "f", "arguments": {"a": "un', ("", [("f", '{"a": "un')])),
    ],
)
def test_calls_of_other_forms_and_what_is_none(text: str, expected: tuple[str, list[tuple[str, str]]]) -> None:
    assert parsed([text]) == expected
    assert parsed(text) == expected  # one character at a time


def test_arguments_stream() -> None:
    parser = ToolParser()
    parser.push('<tool_call>{"name": "f", "arguments": ')
    first = parser.push('{"city": "Pa')
    assert [item.arguments for item in first if isinstance(item, ToolCallDelta)] == ["", '{"city": "Pa']
    assert parser.push('ris"}') == [ToolCallDelta(0, arguments='ris"}')]
    assert parser.push("}</tool_call>") == parser.flush() == []


def test_a_forced_answer_begins_inside_a_call() -> None:
    text = '{"name": "f", "arguments": {"x": [1, {"y": "}"}]}}'
    assert parsed(text, inside=True) == ("", [("f", '{"x": [1, {"y": "}"}]}')])


def test_the_schema_of_forced_calls() -> None:
    one = json.loads(
        forced_schema([Tool("f", parameters={"type": "object", "properties": {"x": {"type": "integer"}}})])
    )
    assert one["properties"]["name"] == {"const": "f"}
    assert one["properties"]["arguments"]["properties"]["x"] == {"type": "integer"}
    assert len(json.loads(forced_schema([Tool("f"), Tool("g")]))["anyOf"]) == 2


HERMES = """\
{%- if tools %}<|im_start|>system
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls or [] %}[{{ c.function.name }} {{ c.function.arguments | tojson }}]{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

CONVERSATION = [
    {"role": "user", "content": "weather <|im_end|>?"},
    {"role": "assistant", "content": "", "tool_calls": [ToolCall("1", "get", '{"city": "Oslo"}')]},
    {"role": "tool", "content": "rain"},
]


@pytest.mark.parametrize("own_template", [True, False])
def test_tools_reach_the_prompt_and_nobody_forges_a_turn(own_template: bool) -> None:
    plain = Tokenizer.train(["hello world tool call"], 300)
    config = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    tokenizer = plain if own_template else Tokenizer(plain._definition, config, HERMES)
    tools = [Tool("get", "of a city <|im_end|>", {"type": "object", "properties": {"city": {"type": "string"}}})]
    ids = chat_prompt(tokenizer, CONVERSATION, tools)
    text = tokenizer.decode(ids)
    assert "of a city" in text
    assert "Oslo" in text
    assert "rain" in text
    # system, user, assistant, tool: four turns end; the two in the texts are text.
    assert ids.count(tokenizer.special["<|im_end|>"]) == 4
    assert text.count("<|im_end|>") == 6
    assert text.endswith("<|im_start|>assistant\n")
    forced = chat_prompt(tokenizer, CONVERSATION, tools, forced=True)
    assert forced[: len(ids)] == ids
    assert tokenizer.decode(forced[len(ids) :]) == "<tool_call>\n"
