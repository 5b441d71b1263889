"""Merges of adapters: equal to PEFT's, and what each promises."""

import logging
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from nanohydra.adapt.adapter import Adapter, Metadata
from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.folder import load_adapter, save_adapter
from nanohydra.adapt.merging import METHODS, combine, merge_tensors, prune
from nanohydra.errors import UserError

TARGETS = ("q_proj", "v_proj", "up_proj")
WEIGHTS = [0.7, 0.5, -0.3]


@pytest.fixture
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 31, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=2, num_key_value_heads=1)).eval()


def adapter(base: LlamaForCausalLM, seed: int, **settings: object) -> Adapter:
    config = AdapterConfig(**{"rank": 4, "alpha": 6.0, "target_modules": TARGETS, **settings})  # type: ignore[arg-type]
    with Adapters(base) as adapters:
        made = adapters.create("a", config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in made.parameters():
            p += 0.1 * torch.randn(p.shape, generator=generator)
    return made.requires_grad_(False)


@pytest.mark.parametrize("method", [*METHODS, "cat"])
def test_equals_peft(base: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    logging.getLogger("peft").setLevel(logging.ERROR)
    adapters = [adapter(base, seed) for seed in range(3)]
    folders = [tmp_path / str(seed) for seed in range(3)]
    for made, folder in zip(adapters, folders, strict=True):
        save_adapter(made, folder)
    theirs = peft.PeftModel.from_pretrained(base, folders[0], adapter_name="0")
    for name in ("1", "2"):
        theirs.load_adapter(folders[int(name)], adapter_name=name)
    inject = theirs.base_model.inject_adapter

    def inject_then_seed(*args: object, **kwargs: object) -> None:
        inject(*args, **kwargs)  # draws initial values from the same generator as DARE's masks
        torch.manual_seed(7)

    monkeypatch.setattr(theirs.base_model, "inject_adapter", inject_then_seed)
    theirs.add_weighted_adapter(["0", "1", "2"], WEIGHTS, "m", combination_type=method, density=0.4)
    generator = torch.Generator().manual_seed(7)
    ours = combine(adapters, WEIGHTS, method, density=0.4, generator=generator)
    assert len(ours.paths) == 6
    for path, layer in ours.layers.items():
        other = theirs.get_submodule(f"base_model.model.{path}")
        delta = other.get_delta_weight("m")
        assert delta.abs().max() > 1e-4
        assert torch.allclose(layer.delta(), delta, atol=1e-6)


def test_cat_is_the_exact_sum_whatever_the_methods_and_ranks(base: LlamaForCausalLM) -> None:
    adapters = [
        adapter(base, 0),
        adapter(base, 1, rank=2, rslora=True),
        adapter(base, 2, rank=2, method="loha"),
        adapter(base, 3, rank=2, method="lokr", target_modules=("q_proj", "k_proj")),
    ]
    weights = [1.0, -0.5, 2.0, 0.3]
    merged = combine(adapters, weights, "cat")
    assert len(merged.paths) == 8
    for path, layer in merged.layers.items():
        want = sum(w * a.layers[path].delta() for a, w in zip(adapters, weights, strict=True) if path in a.paths)
        assert torch.allclose(layer.delta(), want, atol=1e-5)


def test_svd_of_one_adapter_is_that_adapter(base: LlamaForCausalLM) -> None:
    one = adapter(base, 0, method="loha", rank=2)
    merged = combine([one], [1.0], "svd", rank=4)  # LoHa of rank 2 is of rank 4
    for path, layer in merged.layers.items():
        assert torch.allclose(layer.delta(), one.layers[path].delta(), atol=1e-5)


def test_svd_error_is_the_dropped_singular_values(base: LlamaForCausalLM) -> None:
    adapters = [adapter(base, seed) for seed in range(2)]
    merged = combine(adapters, [1.0, 1.0], "svd")
    for path, layer in merged.layers.items():
        want = sum(a.layers[path].delta() for a in adapters)
        dropped = torch.linalg.svdvals(want)[4:].square().sum().sqrt()
        assert torch.allclose((layer.delta() - want).norm(), dropped, atol=1e-5)


def test_result_survives_saving(base: LlamaForCausalLM, tmp_path: Path) -> None:
    adapters = [adapter(base, 0), adapter(base, 1, rank=2, target_modules=("v_proj",))]
    adapters[0].metadata = Metadata(lessons=("a", "b"))
    adapters[1].metadata = Metadata(lessons=("b", "c"))
    merged = combine(adapters, [1.0, 1.0], "cat")
    folder = tmp_path / "m"
    save_adapter(merged, folder)
    again = load_adapter(folder)
    assert again.metadata.lessons == ("a", "b", "c")
    for path, layer in merged.layers.items():
        assert torch.equal(again.layers[path].delta(), layer.delta())


def test_refusals(base: LlamaForCausalLM) -> None:
    a, b = adapter(base, 0), adapter(base, 1, rank=2)
    for call, match in [
        (lambda: combine([a, b], [1, 1], "tise"), 'Did you mean "ties"'),
        (lambda: combine([a, b], [1], "svd"), "one weight for each"),
        (lambda: combine([], [], "svd"), "needs adapters"),
        (lambda: combine([a, b], [1, 1], "linear"), "one rank"),
        (lambda: combine([a, b], [1, 1], "svd", density=0.0), "density"),
        (lambda: combine([a, adapter(base, 2, dora=True)], [1, 1], "svd"), "DoRA"),
    ]:
        with pytest.raises(UserError, match=match):
            call()
    b.metadata = Metadata(base="other")
    with pytest.raises(UserError, match="different bases"):
        combine([a, b], [1, 1], "svd")


tensors = st.integers(0, 2**31).map(lambda seed: torch.randn(6, 7, generator=torch.Generator().manual_seed(seed)))


@settings(max_examples=30, deadline=None)
@given(tensors, st.floats(0.05, 1.0))
def test_pruning_keeps_the_largest(tensor: torch.Tensor, density: float) -> None:
    pruned = prune(tensor, density, "magnitude")
    kept = pruned != 0
    assert int(kept.sum()) == (42 if density >= 1 else int(density * 42))
    assert torch.equal(pruned[kept], tensor[kept])
    if kept.any() and not kept.all():
        assert tensor[kept].abs().min() >= tensor[~kept].abs().max()


def test_random_pruning_keeps_the_mean() -> None:
    pruned = prune(torch.ones(100_000), 0.3, "random", torch.Generator().manual_seed(0))
    assert set(pruned.unique().tolist()) == {0.0, float(torch.tensor(1.0) / 0.3)}
    assert abs(pruned.mean().item() - 1) < 0.02


@settings(max_examples=30, deadline=None)
@given(st.lists(tensors, min_size=1, max_size=4))
def test_ties_never_mixes_signs(given_tensors: list[torch.Tensor]) -> None:
    merged = merge_tensors(given_tensors, [1.0] * len(given_tensors), "ties", density=1.0)
    total = torch.stack(given_tensors).sum(0)
    assert bool(((merged * total) >= 0).all())
    # and is the mean of those that agree, so at least as large as the plain mean
    assert bool((merged.abs() + 1e-6 >= total.abs() / len(given_tensors)).all())


def test_identical_adapters_merge_to_themselves() -> None:
    t = torch.randn(6, 7)
    for method in ("ties", "dare_ties"):
        assert torch.allclose(merge_tensors([t, t, t], [1.0] * 3, method, density=1.0), t)
