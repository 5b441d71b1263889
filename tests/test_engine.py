"""The engine: batched = one by one, cached = computed anew, chunked = whole, ours = transformers' generate."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from nanohydra.agent.calculator import CALCULATOR
from nanohydra.data.chat import parse_assistant
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.infer.engine import Engine
from nanohydra.infer.sampling import SamplingParams
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer

TOKENIZER = Tokenizer.train(["the quick brown fox", "jumps over 0123456789 lazy dogs +-*/()."] * 3, 300)
V = TOKENIZER.vocab_size
SHAPE = {"vocab_size": V, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
OPTIONS = {
    "llama": {"qk_norm": False, "tie_word_embeddings": False},
    "grouped": {"num_key_value_heads": 2},
    "window": {"sliding_window": 5, "layer_types": ("sliding_attention", "full_attention")},
    "learned": {"positions": "learned", "norm": "layernorm", "mlp": "gelu"},
    "alibi": {"positions": "alibi"},
}


def make(seed: int = 0, **options) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(ModelConfig(**SHAPE, max_position_embeddings=128, **options))
    with torch.no_grad():  # spread the logits, so that greedy choices are no ties
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


def prompts(count: int, seed: int = 0, longest: int = 40) -> list[list[int]]:
    chooser = random.Random(seed)
    return [[chooser.randrange(V) for _ in range(chooser.randint(1, longest))] for _ in range(count)]


def computed_anew(model: Transformer, prompt: list[int], tokens: int) -> list[int]:
    """Greedy decoding with no cache at all."""
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1, :V].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_cached_batched_and_chunked_equal_full_recompute(options):
    model, asked = make(**options), prompts(7)
    greedy = SamplingParams(max_tokens=12, ignore_eos=True)
    expected = [computed_anew(model, p, 12) for p in asked]
    for settings_ in ({"max_slots": 1}, {"max_slots": 3}, {"max_slots": 8, "prefill_tokens": 7}):
        answers = Engine(model, TOKENIZER, **settings_).generate(asked, greedy)
        assert [a.ids for a in answers] == expected
        assert {a.finish_reason for a in answers} == {"length"}


def test_equals_transformers_generate():
    model = make(**OPTIONS["llama"])
    c = model.config
    theirs = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=c.intermediate_size,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            rms_norm_eps=c.rms_norm_eps,
            rope_theta=c.rope_theta,
            tie_word_embeddings=False,
        )
    ).eval()
    theirs.load_state_dict(model.state_dict())
    for prompt, params in zip(
        prompts(3), (SamplingParams(), SamplingParams(repetition_penalty=1.5), SamplingParams(repetition_penalty=0.7))
    ):
        ours = Engine(model, TOKENIZER).generate(
            [prompt], SamplingParams(20, repetition_penalty=params.repetition_penalty, ignore_eos=True)
        )
        reference = theirs.generate(
            torch.tensor([prompt]),
            max_new_tokens=20,
            do_sample=False,
            repetition_penalty=params.repetition_penalty,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert ours[0].ids == reference[0, len(prompt) :].tolist()


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(3, 64))
def test_a_seed_gives_the_same_answer_in_any_company(seed, slots, prefill):
    model, asked = make(), prompts(5, seed)
    params = [
        SamplingParams(10, temperature=1.5, seed=seed),
        SamplingParams(6, temperature=0.8, top_k=20, seed=seed + 1),
        SamplingParams(9, temperature=1.0, top_p=0.9, repetition_penalty=1.2, seed=seed),
        SamplingParams(7),
        SamplingParams(8, temperature=2.0, min_p=0.05, seed=3),
    ]
    alone = [Engine(model, TOKENIZER).generate([p], s)[0] for p, s in zip(asked, params)]
    order = list(range(5))
    random.Random(seed).shuffle(order)
    engine = Engine(model, TOKENIZER, max_slots=slots, prefill_tokens=prefill)
    together = engine.generate([asked[i] for i in order], [params[i] for i in order])
    for i, answer in zip(order, together):
        assert (answer.ids, answer.text) == (alone[i].ids, alone[i].text)
    assert engine.idle
    assert engine.cache.active == []


def test_without_a_seed_answers_differ():
    answers = Engine(make(), TOKENIZER).generate([[5, 6]] * 2, SamplingParams(20, temperature=2.0))
    assert answers[0].ids != answers[1].ids


def test_requests_join_and_leave_a_running_batch():
    model, asked = make(), prompts(4)
    greedy = SamplingParams(15, ignore_eos=True)
    expected = [computed_anew(model, p, 15) for p in asked]
    engine = Engine(model, TOKENIZER, max_slots=3)
    first, dropped = engine.submit(asked[0], greedy), engine.submit(asked[1], greedy)
    for _ in range(5):
        engine.step()
    late, waiting = engine.submit(asked[2], greedy), engine.submit(asked[3], greedy)
    engine.step()
    assert len(engine.cache.active) == 3
    engine.abort(dropped)
    assert len(engine.cache.active) == 2
    while not engine.idle:
        engine.step()
    assert [r.completion.ids for r in (first, late, waiting)] == [expected[0], expected[2], expected[3]]
    assert dropped.completion.finish_reason == "abort"
    assert dropped.completion.ids == expected[1][: len(dropped.completion.ids)]
    engine.abort(first)
    assert first.completion.finish_reason == "length"


def test_a_waiting_request_can_be_taken_back():
    engine = Engine(make(), TOKENIZER, max_slots=1)
    a, b = (engine.submit([7], SamplingParams(3, ignore_eos=True)) for _ in range(2))
    engine.step()
    engine.abort(b)
    while not engine.idle:
        engine.step()
    assert (a.completion.finish_reason, b.completion.finish_reason) == ("length", "abort")
    assert b.completion.ids == []


def test_stream_joins_to_the_text_and_closing_it_frees_the_slot():
    engine = Engine(make(), TOKENIZER)
    params = SamplingParams(30, temperature=1.0, seed=4, ignore_eos=True)
    whole = engine.generate([[9, 8, 7]], params)[0]
    deltas = list(engine.stream([9, 8, 7], params))
    assert "".join(d.text for d in deltas) == whole.text == deltas[-1].completion.text
    assert [d.completion for d in deltas[:-1]] == [None] * (len(deltas) - 1)
    stream = engine.stream([9, 8, 7], params)
    next(stream)
    stream.close()
    assert engine.idle
    assert engine.cache.active == []
    timing = whole.timing
    assert 0 < timing.first_token < timing.seconds
    assert timing.tokens_per_second == pytest.approx(29 / (timing.seconds - timing.first_token))


def test_dropout_is_off_and_the_training_mode_comes_back():
    model = make(dropout=0.5).train()
    answers = Engine(model, TOKENIZER).generate([[1, 2, 3]] * 2, SamplingParams(10))
    assert answers[0].ids == answers[1].ids
    assert model.training


def test_the_context_is_the_last_limit():
    engine = Engine(make(), TOKENIZER, max_seq_len=16)
    answer = engine.generate([[3] * 10], SamplingParams(100, ignore_eos=True))[0]
    assert (answer.finish_reason, len(answer.ids)) == ("length", 6)
    assert answer.ids == computed_anew(engine.model, [3] * 10, 6)
    assert len(engine.generate([[3] * 15], SamplingParams(100, ignore_eos=True))[0].ids) == 1
    with pytest.raises(UserError, match=r"20 tokens and the context holds 16.*by at least 5"):
        engine.submit([3] * 20, SamplingParams())
    with pytest.raises(UserError, match="empty"):
        engine.submit([], SamplingParams())
    with pytest.raises(UserError, match="outside the model's vocabulary"):
        engine.submit([V + 1], SamplingParams())
    with pytest.raises(UserError, match="context"):
        engine.generate([[1], [2] * 99], SamplingParams())
    assert engine.idle


def scripted(*chains: str) -> Transformer:
    """A model in which each token has one successor: it goes along the chains of tokens, whatever came before."""
    special = TOKENIZER.special
    config = ModelConfig(**{**SHAPE, "hidden_size": V, "num_hidden_layers": 1}, tie_word_embeddings=False)
    model = Transformer(config)
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(torch.eye(V))
        model.model.layers[0].self_attn.o_proj.weight.zero_()
        model.model.layers[0].mlp.down_proj.weight.zero_()
        model.lm_head.weight.zero_()
        for chain in chains:
            ids = [special[piece] if piece in special else TOKENIZER.encode(piece)[0] for piece in chain.split(" ")]
            model.lm_head.weight[ids[1:], ids[:-1]] = 1
    return model


def test_the_calculator_answers_inside_a_batch():
    model = scripted(
        "A <|calc|> 1 2 + 3 0 <|result|>", "<|end_calc|> . <|im_end|>", "B C D E F G H I J K L", "L <|endoftext|>"
    )
    engine = Engine(model, TOKENIZER, tools=(CALCULATOR,), max_slots=2)
    starts = [TOKENIZER.encode(c) for c in ("A", "B", "A")]
    called, plain, again = engine.generate(starts, SamplingParams(50))
    assert called.text == "42."
    assert called.parts == [
        {"type": "calculator", "expression": "12+30", "result": "42"},
        {"type": "text", "text": "."},
    ]
    assert called.parts == parse_assistant(TOKENIZER, called.ids) == again.parts
    assert TOKENIZER.decode(called.ids) == "<|calc|>12+30<|result|>42<|end_calc|>.<|im_end|>"
    assert plain.text == "CDEFGHIJKL"
    assert {a.finish_reason for a in (called, plain, again)} == {"stop"}
    deltas = list(engine.stream(starts[0], SamplingParams(50)))
    assert [(d.text, d.part) for d in deltas[:-1]] == [("42", called.parts[0]), (".", None)]


def test_a_tools_answer_respects_the_limit_and_calls_without_tools_stay_text():
    model = scripted("A <|calc|> 2 * 5 <|result|>", "<|end_calc|> ! <|im_end|>")
    start = TOKENIZER.encode("A")
    cut = Engine(model, TOKENIZER, tools=(CALCULATOR,)).generate([start], SamplingParams(6))[0]
    assert (len(cut.ids), cut.finish_reason, cut.text) == (6, "length", "10")
    unanswered = Engine(model, TOKENIZER, tools=(CALCULATOR,)).generate([start], SamplingParams(3))[0]
    assert unanswered.text == "<|calc|>2*"
    assert unanswered.parts == parse_assistant(TOKENIZER, unanswered.ids)
    bare = Engine(model, TOKENIZER).generate([start], SamplingParams(5))[0]
    assert bare.text == "<|calc|>2*5<|result|>"


def test_stop_strings_end_the_answer_before_themselves():
    model = scripted("A B C D E F G H <|im_end|>")
    start = TOKENIZER.encode("A")
    engine = Engine(model, TOKENIZER)
    answer = engine.generate([start], SamplingParams(50, stop=("EF", "XY")))[0]
    assert (answer.text, answer.finish_reason) == ("BCD", "stop")
    assert "".join(d.text for d in engine.stream(start, SamplingParams(50, stop=("EF",)))) == "BCD"
    unmet = engine.generate([start], SamplingParams(50, stop=("GHX",)))[0]
    assert (unmet.text, unmet.finish_reason) == ("BCDEFGH", "stop")
    assert engine.generate([start], SamplingParams(3, stop=("D!",)))[0].text == "BCD"


def test_chat_renders_the_conversation():
    model = make()
    answer = Engine(model, TOKENIZER, (CALCULATOR,)).chat([{"role": "user", "content": "fox"}], SamplingParams(5))
    prompt = "<|im_start|>user\nfox<|im_end|>\n<|im_start|>assistant\n"
    ids = TOKENIZER.encode_with_special(prompt).ids
    assert answer.ids == computed_anew(model, ids, 5)[: len(answer.ids)]
