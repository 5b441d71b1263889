"""The server over the real engine: its process loads a base, answers as offline decoding does, forms and adapters included."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from serve_server import Running, served, wait_for
from serve_tiny import tiny_adapter, tiny_base

from nanohydra.data.chat import render_chat
from nanohydra.infer.config import EngineConfig, SamplingParams
from nanohydra.jobs.bases import open_engine
from nanohydra.serve.config import ServeConfig

ENGINE = EngineConfig(max_slots=4, max_seq_len=1024, prefix_tokens=512, prefill_tokens=64)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("bases") / "tiny")


@pytest.fixture(scope="module")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_adapter(base, tmp_path_factory.mktemp("adapters") / "a")


@pytest.fixture(scope="module")
def server(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    database = tmp_path_factory.mktemp("served") / "test.db"
    config = ServeConfig(base=str(base), database=f"sqlite:///{database}", web=False, engine=ENGINE, temperature=0)
    with served(config) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="local", max_retries=0, timeout=60) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **options: Any) -> Any:
    options = {"model": "tiny", "max_tokens": 24, **options}
    return client.chat.completions.create(messages=[{"role": "user", "content": text}], **options)


def test_answers_equal_offline_decoding(client: openai.OpenAI, base: Path) -> None:
    engine = open_engine(str(base), config=ENGINE)
    texts = [f"the fox {i} " * (1 + i % 5) for i in range(12)]
    settings = [{"temperature": 0.0}, {"temperature": 1.0, "seed": 7, "top_p": 0.9}]

    def offline(i: int) -> str:
        ids, _ = render_chat(engine.tokenizer, [{"role": "user", "content": texts[i]}], add_generation_prompt=True)
        return engine.generate([ids], SamplingParams(max_tokens=24, **settings[i % 2]))[0].text  # type: ignore[arg-type]

    def online(i: int) -> str:
        if i % 3:
            return str(ask(client, texts[i], **settings[i % 2]).choices[0].message.content)
        chunks = ask(client, texts[i], stream=True, **settings[i % 2])
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(online, range(len(texts))))
    assert answers == [offline(i) for i in range(len(texts))]
    assert len(set(answers)) > 1


def test_a_json_schema_is_kept(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["fox", "dog"]}, "legs": {"type": "integer", "minimum": 0, "maximum": 9}},
        "required": ["name", "legs"],
        "additionalProperties": False,
    }
    form: Any = {"type": "json_schema", "json_schema": {"name": "animal", "schema": schema, "strict": True}}
    answer = ask(client, "an animal", response_format=form, max_tokens=100)
    animal = json.loads(answer.choices[0].message.content)
    assert animal["name"] in ("fox", "dog")
    assert 0 <= animal["legs"] <= 9
    assert answer.choices[0].finish_reason == "stop"
    form["json_schema"]["schema"] = {"type": "no such type"}
    with pytest.raises(openai.BadRequestError):
        ask(client, "an animal", response_format=form)


def test_a_forced_tool_call_is_well_formed(client: openai.OpenAI) -> None:
    parameters = {
        "type": "object",
        "properties": {"x": {"type": "boolean"}},
        "required": ["x"],
        "additionalProperties": False,
    }
    tools: Any = [{"type": "function", "function": {"name": name, "parameters": parameters}} for name in ("f", "g")]
    chosen: Any = {"type": "function", "function": {"name": "g"}}
    choice = ask(client, "call", tools=tools, tool_choice=chosen, max_tokens=150).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls[0].function.name == "g"
    assert set(json.loads(choice.message.tool_calls[0].function.arguments)) == {"x"}


def test_logprobs_and_embeddings(client: openai.OpenAI) -> None:
    content = ask(client, "fox", logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert all(entry.logprob <= 0 and len(entry.top_logprobs) == 3 for entry in content)
    assert all(entry.token == entry.top_logprobs[0].token for entry in content)  # greedy
    vectors = [entry.embedding for entry in client.embeddings.create(model="tiny", input=["fox", "dog", "fox"]).data]
    assert sum(x * x for x in vectors[0]) == pytest.approx(1, abs=1e-4)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-5)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-3)


def test_adapters_by_name_and_by_default(client: openai.OpenAI, server: Running, adapter: Path, base: Path) -> None:
    plain = ask(client, "the fox").choices[0].message.content
    with server.http() as http:
        loaded = http.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": str(adapter)})
        assert loaded.status_code == 200, loaded.text
        again = http.post("/v1/load_lora_adapter", json={"lora_name": "a", "lora_path": str(adapter)})
        assert again.status_code == 400
        assert http.get("/adapters").json()["adapters"][0]["loaded"]
        assert [model.id for model in client.models.list().data] == ["tiny", "a"]
        adapted = ask(client, "the fox", model="a").choices[0].message.content
        assert adapted != plain
        embedded = [client.embeddings.create(model=name, input="fox").data[0].embedding for name in ("tiny", "a")]
        assert embedded[0] != pytest.approx(embedded[1], abs=1e-3)
        assert http.post("/switch_adapter", json={"adapter": "a"}).json() == {"default": "a"}
        assert ask(client, "the fox").choices[0].message.content == adapted
        assert http.post("/switch_adapter", json={"adapter": None}).status_code == 200
        assert ask(client, "the fox").choices[0].message.content == plain

        engine = open_engine(str(base), config=ENGINE, adapters=True)
        assert engine.adapters is not None
        name = engine.adapters.load(adapter)
        ids, _ = render_chat(engine.tokenizer, [{"role": "user", "content": "the fox"}], add_generation_prompt=True)
        assert engine.generate([ids], SamplingParams(max_tokens=24), name)[0].text == adapted

        # Killed, the engine comes back, with the adapter.
        assert server.services.engine.pid is not None
        os.kill(server.services.engine.pid, signal.SIGKILL)
        wait_for(lambda: server.services.engine.state != "ready")
        assert http.get("/health").status_code == 503
        assert ask(client, "the fox", model="a").choices[0].message.content == adapted
        assert http.get("/health").status_code == 200
        text = http.get("/metrics").text
        assert "nanohydra_engine_restarts 1.0" in text
        assert 'vllm:request_success_total{adapter="a",finished_reason="length",model_name="tiny"}' in text
        assert "vllm:num_requests_running" in text

        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "a"}).status_code == 200
        assert http.post("/v1/unload_lora_adapter", json={"lora_name": "a"}).status_code == 404
        with pytest.raises(openai.NotFoundError):
            ask(client, "the fox", model="a")
        wrong = http.post("/v1/load_lora_adapter", json={"lora_name": "b", "lora_path": str(base)})
        assert wrong.status_code == 400


def test_a_base_that_is_not_there_ends_the_server(tmp_path: Path) -> None:
    config = ServeConfig(base=str(tmp_path), database=f"sqlite:///{tmp_path / 'test.db'}", web=False)
    with served(config, ready=False) as running:
        wait_for(lambda: running.services.engine.state == "failed")
        assert "no model folder" in running.services.engine.error
        with running.http() as http:
            answer = http.post("/v1/completions", json={"prompt": "x"})
            assert answer.status_code == 503
            assert "no model folder" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
