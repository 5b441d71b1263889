"""Adapters in the engine: a mixed batch equals one by one, and what is unknown or in the wrong order is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_engine import OPTIONS, TOKENIZER, V, make, prompts

from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.errors import UserError
from nanohydra.infer.engine import Engine
from nanohydra.infer.quantize import pack, quantize
from nanohydra.infer.sampling import SamplingParams
from nanohydra.model.transformer import Transformer

CONFIGS = {
    "a": AdapterConfig(rank=4),
    "b": AdapterConfig(rank=2, target_modules=("q_proj", "v_proj", "lm_head")),
    "c": AdapterConfig(rank=3, dora=True, top_layers=1),
}


def attach(model: Transformer, folder: Path) -> Adapters:
    """Three adapters that change what the model says, saved and thus frozen."""
    adapters = Adapters(model, base="f" * 64)
    for seed, (name, config) in enumerate(CONFIGS.items()):
        generator = torch.Generator().manual_seed(seed)
        for parameter in adapters.create(name, config, seed=seed).parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        adapters.save(name, folder / name)
    return adapters


def alone(model: Transformer, adapters: Adapters, prompt: list[int], tokens: int, adapter: str | None) -> list[int]:
    """Greedy decoding with no cache and no batch, through the path that training takes."""
    ids = list(prompt)
    with torch.inference_mode(), adapters.using(adapter):
        for _ in range(tokens):
            ids.append(int(model(torch.tensor([ids]))[0, -1, :V].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("options", [OPTIONS["grouped"], {"tie_word_embeddings": False}, OPTIONS["window"]])
def test_a_mixed_batch_equals_one_by_one(options, tmp_path):
    model = make(**{"tie_word_embeddings": False, **options}).eval()
    adapters = attach(model, tmp_path)
    asked, used = prompts(7), [None, "a", "b", "c", "a", None, "b"]
    expected = [alone(model, adapters, p, 8, adapter) for p, adapter in zip(asked, used)]
    assert len({tuple(alone(model, adapters, asked[0], 8, adapter)) for adapter in (None, *CONFIGS)}) == 4
    greedy = SamplingParams(8, ignore_eos=True)
    for settings in ({"max_slots": 1}, {"max_slots": 3, "prefill_tokens": 9}, {"max_slots": 8, "speculate": 3}):
        answers = Engine(model, TOKENIZER, adapters=adapters, **settings).generate(asked, greedy, used)
        assert [answer.ids for answer in answers] == expected


def test_adapters_go_on_top_of_packed_weights(tmp_path):
    plain, packed = make().eval(), pack(make().eval())
    adapters = {name: AdapterConfig(rank=4) for name in "a"}
    answers = []
    for model in (plain, packed):
        attached = Adapters(model)
        for parameter in attached.create("a", adapters["a"]).parameters():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        attached.save("a", tmp_path / str(len(answers)))
        engine = Engine(model, TOKENIZER, adapters=attached)
        answers.append([a.ids for a in engine.generate(prompts(4), SamplingParams(8), [None, "a"] * 2)])
    assert answers[0] == answers[1]


def test_weights_are_packed_before_adapters_are_attached(tmp_path):
    for lay_out in (pack, quantize):
        model = make().eval()
        attach(model, tmp_path / lay_out.__name__)
        with pytest.raises(UserError, match="adapters attached"):
            lay_out(model)


def test_unknown_adapters_are_refused_with_the_known_ones(tmp_path):
    model = make().eval()
    with pytest.raises(UserError, match=r'No adapter "a" is loaded\. Load it first'):
        Engine(model, TOKENIZER).submit([1], SamplingParams(), "a")
    engine = Engine(model, TOKENIZER, adapters=attach(model, tmp_path))
    with pytest.raises(UserError, match=r'No adapter "d" is loaded\. Loaded: a, b, c\.'):
        engine.submit([1], SamplingParams(), "d")
    with pytest.raises(UserError, match="Loaded: a, b, c"):
        engine.embed([[1]], "d")
    assert engine.idle


def test_adapters_come_and_go_while_others_run(tmp_path):
    model = make().eval()
    adapters = attach(model, tmp_path)
    engine = Engine(model, TOKENIZER, adapters=adapters, max_slots=2)
    greedy = SamplingParams(10, ignore_eos=True)
    stays, goes, waits = (engine.submit([7, 8, 9], greedy, name) for name in ("a", "b", "b"))
    for _ in range(3):
        engine.step()
    engine.abort(goes)
    engine.abort(waits)
    adapters.remove("b")
    adapters.load(tmp_path / "b", "again")
    again = engine.submit([7, 8, 9], greedy, "again")
    while not engine.idle:
        engine.step()
    assert stays.completion.ids == alone(model, adapters, [7, 8, 9], 10, "a")
    assert again.completion.ids == alone(model, adapters, [7, 8, 9], 10, "again")
    assert again.completion.ids[: len(goes.completion.ids)] == goes.completion.ids


def test_embeddings_are_means_of_hidden_states(tmp_path):
    model = make().eval()
    engine = Engine(model, TOKENIZER, adapters=attach(model, tmp_path), prefill_tokens=50)
    texts = prompts(6)
    for adapter in (None, "a"):
        with torch.inference_mode(), engine.adapters.using(adapter):
            means = [model.hidden(torch.tensor([ids]))[0].mean(0) for ids in texts]
        expected = torch.stack([mean / mean.norm() for mean in means])
        torch.testing.assert_close(engine.embed(texts, adapter), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(engine.embed(texts), expected, atol=1e-2)
    assert engine.embed([]).shape == (0, 32)
