"""Packed and int8 weights: same results up to their rounding, rows apart, and every equality of the engine still holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_engine import OPTIONS, TOKENIZER, make, prompts

from nanohydra.errors import UserError
from nanohydra.infer.engine import Engine
from nanohydra.infer.quantize import Int8Linear, PackedLinear, pack, quantize
from nanohydra.infer.sampling import SamplingParams
from nanohydra.model.transformer import Transformer

SHAPES = st.tuples(st.integers(1, 70), st.integers(1, 70), st.integers(1, 9), st.booleans(), st.integers(0, 10**6))


def case(shape: tuple[int, int, int, bool, int]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    inside, outside, rows, biased, seed = shape
    g = torch.Generator().manual_seed(seed)
    bias = torch.randn(outside, generator=g) if biased else None
    x = torch.randn(rows, inside, generator=g) * 10.0 ** torch.randint(-4, 4, (rows, 1), generator=g)
    return x, torch.randn(outside, inside, generator=g), bias


@settings(deadline=None)
@given(SHAPES)
def test_packed_equals_linear(shape):
    x, weight, bias = case(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(weight, bias)(x), F.linear(x, weight, bias), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(PackedLinear(weight, bias)(x[None, None]), PackedLinear(weight, bias)(x)[None, None])


@settings(deadline=None)
@given(SHAPES)
def test_int8_is_the_exact_product_of_rounded_numbers(shape):
    x, weight, bias = case(shape)
    layer = Int8Linear(weight, bias)
    low, high = x.amin(1, keepdim=True).clamp(max=0), x.amax(1, keepdim=True).clamp(min=0)
    step = torch.addcdiv(layer.least, high - low, layer.levels)
    shift = (low / step).round()
    levels = torch.floor(torch.addcdiv(0.5 - shift, x, step))
    assert levels.min() >= 0
    assert levels.max() <= layer.levels + 1
    inputs = (levels + shift).double() * step.double()
    weights = (weight / layer.scale[:, None]).round().double() * layer.scale.double()[:, None]
    y, added = layer(x), 0 if bias is None else bias.double()
    size = x.abs().amax(1, keepdim=True).double() * weights.abs().sum(1)  # terms may cancel: fp32 rounds by their size
    assert ((y - (inputs @ weights.T + added)).abs() <= 1e-5 * (size + 1)).all()
    # Each factor is off by at most half a step.
    bound = 0.5 * step * weight.abs().sum(1) + 0.5 * layer.scale * (x.abs() + 0.5 * step).sum(1, keepdim=True)
    assert ((y - F.linear(x, weight, bias)).abs() <= bound * 1.001 + 1e-5 * (size + 1)).all()


@settings(deadline=None)
@given(SHAPES)
def test_int8_rows_do_not_see_each_other(shape):
    x, weight, bias = case(shape)
    layer = Int8Linear(weight, bias)
    assert layer(x).equal(torch.cat([layer(row[None]) for row in x]))


def test_int8_keeps_zeros():
    layer = Int8Linear(torch.zeros(3, 4), torch.ones(3))
    assert layer(torch.randn(2, 4)).equal(torch.ones(2, 3))
    layer = Int8Linear(torch.randn(3, 4), None)
    assert layer(torch.zeros(2, 4)).equal(torch.zeros(2, 3))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_packed_model_answers_as_before(options):
    asked, greedy = prompts(5), SamplingParams(10, ignore_eos=True)
    expected = Engine(make(**options), TOKENIZER).generate(asked, greedy)
    model = pack(make(**options))
    for slots in (1, 4):
        answers = Engine(model, TOKENIZER, max_slots=slots).generate(asked, greedy)
        assert [a.ids for a in answers] == [a.ids for a in expected]
    ids = torch.tensor([asked[0]])
    with torch.inference_mode():
        torch.testing.assert_close(model(ids), make(**options)(ids), atol=1e-4, rtol=1e-4)


def test_a_packed_bf16_model_is_as_near_to_fp32_as_a_plain_one():
    ids = torch.tensor([prompts(1, longest=60)[0]])
    with torch.inference_mode():
        exact = make()(ids)
        plain, packed = (f(make().bfloat16())(ids).float() for f in (lambda m: m, pack))
    assert (packed - exact).norm() < 1.2 * (plain - exact).norm() < 0.1 * exact.norm()
    engine = Engine(pack(make().bfloat16()), TOKENIZER)
    assert {b.dtype for b in engine.cache.buffers} == {torch.float32}
    assert len(engine.generate([[1, 2]], SamplingParams(5, ignore_eos=True))[0].ids) == 5


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_an_int8_model_is_near_and_batched_equals_one_by_one(options):
    model, asked = quantize(make(**options)), prompts(5)
    ids = torch.tensor([asked[0]])
    with torch.inference_mode():
        exact, near = make(**options)(ids), model(ids)
    assert F.cosine_similarity(exact, near, dim=-1).min() > 0.99
    params = [SamplingParams(10, temperature=t, seed=i, ignore_eos=True) for i, t in enumerate((0, 1, 0.5, 2, 0))]
    alone = [Engine(model, TOKENIZER).generate([p], s)[0].ids for p, s in zip(asked, params)]
    together = Engine(model, TOKENIZER, max_slots=5).generate(asked, params)
    assert [a.ids for a in together] == alone


def test_the_embedding_stays_and_no_other_linear_layer_is_left():
    model = make(tie_word_embeddings=True)
    weight = model.model.embed_tokens.weight
    quantize(model)
    assert model.model.embed_tokens.weight.equal(weight)
    assert isinstance(model.lm_head, Int8Linear)
    assert torch.nn.Linear not in {type(m) for m in model.modules()}


def test_it_is_for_cpus():
    with torch.device("meta"):
        model = Transformer(make().config)
    with pytest.raises(UserError, match="leave int8 off on a GPU"):
        quantize(model)


@pytest.mark.slow
def test_the_decode_benchmark_runs(tmp_path):
    out = tmp_path / "decode.json"
    bench = Path(__file__).parents[1] / "bench" / "decode.py"
    small = [
        "--preset",
        "tiny-0.5m",
        "--prompt",
        "4",
        "--tokens",
        "4",
        "--runs",
        "2",
        "--batches",
        "1",
        "2",
        "--threads",
        "1",
    ]
    subprocess.run([sys.executable, bench, *small, "--out", out], check=True, timeout=250)
    speed = json.loads(out.read_text())["speed"]
    assert [(row["ours"], row["batch"]) for row in speed] == [(n, b) for n in ("bf16", "fp32", "int8") for b in (1, 2)]
    assert all(row["ratio"] > 0 and row["floor_tokens_per_second"] > 0 for row in speed)
