"""The API as the official openai client uses it, against an engine that says what it is told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from serve_server import Running, fake_base, fake_engine, served

from nanohydra.serve.config import ServeConfig

WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("served")
    base = fake_base(folder / "demo")
    config = ServeConfig(base=str(base), database=f"sqlite:///{folder / 'test.db'}", web=False)
    with served(config, fake_engine(base)) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="local", max_retries=0, timeout=30) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    return client.chat.completions.create(model="demo", messages=[{"role": "user", "content": text}], **options)


def test_a_chat(client: openai.OpenAI) -> None:
    answer = ask(client, "SAY:Hello, world!")
    assert answer.object == "chat.completion"
    assert answer.model == "demo"
    assert answer.choices[0].message.content == "Hello, world!"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.usage.completion_tokens > 3
    assert answer.id.startswith("chatcmpl-")


def test_a_stream_has_the_shape_that_clients_expect(client: openai.OpenAI) -> None:
    chunks = list(ask(client, "SAY:Hello, world!", stream=True, stream_options={"include_usage": True}))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == "Hello, world!"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == ask(client, "SAY:Hello, world!").usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_the_bytes_of_a_stream(server: Running) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "SAY:\u00e9t\u00e9"}], "stream": True}
    with server.http() as http, http.stream("POST", "/v1/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        lines = [line for line in response.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    assert lines[-1] == "data: [DONE]"
    first = json.loads(lines[0][6:])
    assert first["choices"] == [
        {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    ]
    assert "usage" not in first


def test_several_answers(client: openai.OpenAI) -> None:
    answer = ask(client, "SAY:twice", n=2, seed=1)
    assert [(c.index, c.message.content) for c in answer.choices] == [(0, "twice"), (1, "twice")]
    one = ask(client, "SAY:twice")
    assert answer.usage.prompt_tokens == one.usage.prompt_tokens
    assert answer.usage.completion_tokens == 2 * one.usage.completion_tokens
    texts = ["", ""]
    for chunk in ask(client, "SAY:twice", n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["twice", "twice"]


def test_stop_and_length(client: openai.OpenAI) -> None:
    text = "SAY:one two three four"
    assert ask(client, text, stop=["o th", "zzz"]).choices[0].message.content == "one tw"
    streamed = list(ask(client, text, stop="o th", stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == "one tw"
    cut = ask(client, text, max_tokens=2).choices[0]
    assert cut.finish_reason == "length"
    assert text[4:].startswith(cut.message.content)
    assert ask(client, text, max_completion_tokens=2).choices[0] == cut


def test_logprobs(client: openai.OpenAI) -> None:
    content = ask(client, "SAY:abc", logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert "".join(entry.token for entry in content) == "abc"
    assert bytes(content[0].bytes).decode() == content[0].token
    assert content[0].logprob == -0.5
    assert [top.logprob for top in content[0].top_logprobs] == [-0.5, -1.5]
    chunks = list(ask(client, "SAY:abc", logprobs=True, stream=True))
    streamed = [entry for c in chunks if c.choices[0].logprobs for entry in c.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in content]
    assert ask(client, "SAY:abc").choices[0].logprobs is None


def test_tool_calls(client: openai.OpenAI) -> None:
    choice = ask(client, f"SAY:Let me see.\n{CALL}", tools=[WEATHER]).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "Let me see."
    (call,) = choice.message.tool_calls
    assert (call.type, call.function.name, json.loads(call.function.arguments)) == (
        "function",
        "weather",
        {"city": "Paris"},
    )
    answer = client.chat.completions.create(
        model="demo",
        tools=[WEATHER],
        messages=[
            {"role": "user", "content": "and?"},
            choice.message.model_dump(),
            {"role": "tool", "tool_call_id": call.id, "content": "SAY:It rains."},
        ],
    )
    assert answer.choices[0].message.content == "It rains."
    assert answer.choices[0].message.tool_calls is None


def test_tool_calls_stream(client: openai.OpenAI) -> None:
    chunks = list(ask(client, f"SAY:{CALL}\n{CALL}", tools=[WEATHER], stream=True))
    deltas = [call for c in chunks for call in c.choices[0].delta.tool_calls or ()]
    assert [(d.index, d.function.name, d.type) for d in deltas if d.id] == [
        (0, "weather", "function"),
        (1, "weather", "function"),
    ]
    assert len(deltas) > 4  # arguments come in pieces
    for index in (0, 1):
        arguments = "".join(d.function.arguments for d in deltas if d.index == index)
        assert json.loads(arguments) == {"city": "Paris"}
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == ""
    single = ask(client, f"SAY:{CALL}\n{CALL}", tools=[WEATHER], parallel_tool_calls=False)
    assert len(single.choices[0].message.tool_calls) == 1


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
def test_forced_tool_calls(client: openai.OpenAI, choice: Any) -> None:
    text = 'SAY:{"name": "weather", "arguments": {"city": "Rome"}}'
    message = ask(client, text, tools=[WEATHER], tool_choice=choice).choices[0].message
    assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Rome"}
    assert message.content is None


def test_tool_choice_none_leaves_text(client: openai.OpenAI) -> None:
    message = ask(client, f"SAY:{CALL}", tools=[WEATHER], tool_choice="none").choices[0].message
    assert message.content == CALL
    assert message.tool_calls is None


def test_completions(client: openai.OpenAI, server: Running) -> None:
    answer = client.completions.create(model="demo", prompt=["SAY:one", "SAY:two"], n=2, max_tokens=50, logprobs=1)
    assert [(c.index, c.text) for c in answer.choices] == [(0, "one"), (1, "one"), (2, "two"), (3, "two")]
    logprobs = answer.choices[2].logprobs
    assert "".join(logprobs.tokens) == "two"
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:i])) for i in range(len(logprobs.tokens))]
    assert answer.usage.prompt_tokens == sum(len(server.services.tokenizer.encode(p)) for p in ("SAY:one", "SAY:two"))
    chunks = list(
        client.completions.create(
            model="demo", prompt="SAY:one", echo=True, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(c.choices[0].text for c in chunks[:-1]) == "SAY:oneone"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.prompt_tokens > 0
    ids = server.services.tokenizer.encode("SAY:ids")
    assert client.completions.create(model="demo", prompt=ids).choices[0].text == "ids"
    assert client.completions.create(model="demo", prompt=[ids, ids]).choices[1].text == "ids"
    assert client.completions.create(model="demo", prompt="").choices[0].text == "hello"


def test_models_and_embeddings(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == "demo"
    assert client.models.retrieve("demo") == model
    made = client.embeddings.create(model="demo", input=["a text", "another"])  # the client asks for base64
    assert [entry.embedding for entry in made.data] == [[0.5, -0.5, -0.5, -0.5]] * 2
    plain = client.embeddings.create(model="demo", input="a text", encoding_format="float")
    assert plain.data[0].embedding == [0.5, -0.5, -0.5, -0.5]
    assert plain.usage.prompt_tokens > 0


@pytest.mark.parametrize(
    ("options", "error", "param"),
    [
        ({"model": "nobody"}, openai.NotFoundError, "model"),
        ({"temperature": 5}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 0}, openai.BadRequestError, "max_tokens"),
        ({"n": 100}, openai.BadRequestError, "n"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": [{"role": "wizard", "content": ""}]}, openai.BadRequestError, "messages.0.role"),
        ({"messages": [{"role": "user", "content": "x" * 4000}]}, openai.BadRequestError, "messages"),
        ({"presence_penalty": 1}, openai.BadRequestError, "presence_penalty"),
        ({"tool_choice": "required"}, openai.BadRequestError, "tool_choice"),
        ({"response_format": {"type": "json_schema"}}, openai.BadRequestError, "response_format"),
        ({"top_logprobs": 50, "logprobs": True}, openai.BadRequestError, "top_logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_told_as_the_client_knows_them(
    client: openai.OpenAI, options: dict[str, Any], error: type[openai.APIStatusError], param: str, stream: bool
) -> None:
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], **options}
    with pytest.raises(error) as e:
        client.chat.completions.create(stream=stream, **body)
    assert e.value.param == param
    assert e.value.body["message"]
    assert e.value.request_id


def test_an_engine_that_dies_in_mid_answer_is_an_error_of_the_stream(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIError, match="broke down") as e:
        list(ask(client, "CRASH:3 SAY:this goes on for a while", stream=True))
    assert not isinstance(e.value, openai.APIStatusError)
    # What waits while it restarts is answered.
    assert ask(client, "SAY:back").choices[0].message.content == "back"
    with pytest.raises(openai.InternalServerError, match="broke down"):
        ask(client, "CRASH:3 SAY:this goes on for a while")
