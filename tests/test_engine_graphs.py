"""Recorded decode steps: the plans that they run through give the same answers, on a CPU step by step, on a GPU replayed."""

from __future__ import annotations

import pytest
import torch
from test_engine import OPTIONS, TOKENIZER, computed_anew, make, prompts

from nanohydra.infer.engine import Engine
from nanohydra.infer.graphs import DecodeGraphs
from nanohydra.infer.sampling import SamplingParams

FIXED = {name: options for name, options in OPTIONS.items() if name != "alibi"}
GREEDY = SamplingParams(25, ignore_eos=True)


@pytest.mark.parametrize("options", FIXED.values(), ids=FIXED.keys())
@pytest.mark.parametrize(
    "settings", [{}, {"kv_tokens": 150, "prefix_tokens": 320}, {"prefill_tokens": 5, "speculate": 2}]
)
def test_plans_of_fixed_shape_answer_as_others(options, settings):
    """While requests join and leave, prompts are read beside them, and rows are moved."""
    model, asked = make(**options).eval(), prompts(9)
    engine = Engine(model, TOKENIZER, max_slots=5, **settings)
    engine._graphs = DecodeGraphs(model, engine.cache, record=False)
    first = engine.submit(asked[0], GREEDY)
    engine.step()
    dropped = engine.submit(asked[1], GREEDY)
    for _ in range(7):
        engine.step()
    engine.abort(dropped)
    answers = engine.generate(asked[2:], GREEDY)
    assert [a.ids for a in (first.completion, *answers)] == [
        computed_anew(model, p, 25) for p in (asked[0], *asked[2:])
    ]
    assert engine._graphs._steps


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_recorded_steps_answer_as_others(options):
    model, asked = make(**options).eval().cuda(), prompts(9)
    plain = Engine(model, TOKENIZER, max_slots=5).generate(asked, GREEDY)
    engine = Engine(model, TOKENIZER, max_slots=5, kv_tokens=300, cuda_graphs=True)
    assert [a.ids for a in engine.generate(asked, GREEDY)] == [a.ids for a in plain]
    assert [a.ids for a in engine.generate(asked, GREEDY)] == [a.ids for a in plain]
