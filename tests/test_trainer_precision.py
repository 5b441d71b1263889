"""Lent weight copies, the choice of number format and of compiling, memory that stays."""

import platform
import resource

import pytest
import torch
from train_toy import Progressions, tiny_model

from nanohydra.errors import UserError
from nanohydra.train import compiling
from nanohydra.train.config import TrainConfig
from nanohydra.train.memory import keep_freed_memory
from nanohydra.train.objectives import next_token
from nanohydra.train.precision import LossScale, WeightCopies, resolve_dtype

CPU = torch.device("cpu")


def test_copies_are_lent_tied_and_given_back():
    model = tiny_model(tie_word_embeddings=True)
    before = dict(model.named_parameters(remove_duplicate=False))
    copies = WeightCopies(model, torch.bfloat16)

    def fail():
        with copies.lent():
            assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
            assert model.lm_head.weight is model.model.embed_tokens.weight
            raise RuntimeError("objective")

    with pytest.raises(RuntimeError, match="objective"):
        fail()
    after = dict(model.named_parameters(remove_duplicate=False))
    assert after.keys() == before.keys()
    assert all(after[n] is before[n] for n in before)


def test_gradients_reach_the_fp32_weights_and_add_up_there():
    model, whole = tiny_model(), tiny_model()
    copies = WeightCopies(model, torch.bfloat16)
    for step in range(3):
        batch = Progressions().batch(step)
        with copies.lent():
            next_token(model, batch)[0].backward()
        next_token(whole, batch)[0].backward()
    for (name, a), b in zip(model.named_parameters(), whole.parameters()):
        assert a.grad.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(a.grad.flatten(), b.grad.flatten(), 0) > 0.99, name


def test_frozen_weights_are_copied_once():
    model = tiny_model()
    model.lm_head.weight.requires_grad_(False)
    copies = WeightCopies(model, torch.bfloat16)
    seen = []
    for _ in range(2):
        with copies.lent():
            seen.append(model.lm_head.weight)
    assert seen[0] is seen[1]
    assert not seen[0].requires_grad


def test_loss_scale_falls_on_overflow_and_rises_again():
    scale = LossScale(torch.float16)
    scale.update(overflow=True)
    assert scale.scale == 2.0**15
    for _ in range(1999):
        scale.update(overflow=False)
    twin = LossScale(torch.float16)
    twin.load_state_dict(scale.state_dict())
    for each in (scale, twin):
        each.update(overflow=False)
        assert each.scale == 2.0**16
    exact = LossScale(torch.bfloat16)
    exact.update(overflow=False)
    assert exact.scale == 1.0


@pytest.mark.parametrize(("flags", "dtype"), [({"avx512_bf16"}, torch.bfloat16), ({"avx2"}, torch.float32)])
def test_auto_is_bf16_where_the_processor_has_it(monkeypatch, flags, dtype):
    monkeypatch.setattr("nanohydra.train.precision._cpu_flags", lambda: flags)
    assert resolve_dtype("auto", CPU) == dtype
    assert resolve_dtype("fp16", CPU) == torch.float16


def test_compiling_is_decided_by_the_config_alone(monkeypatch):
    model = tiny_model()

    def wants(**settings):
        return compiling.wants_compile(TrainConfig(**settings), model, CPU)

    monkeypatch.setattr(compiling, "has_cpp_compiler", lambda: True)
    assert wants(seconds=3600)
    assert not wants(seconds=10)
    assert wants(tokens=10**12)
    assert not wants(steps=10)
    assert wants(steps=10, compile="always")
    assert not wants(seconds=3600, compile="never")
    model.adapters = torch.nn.Module()  # what attached adapters look like
    assert not wants(seconds=3600)
    assert wants(steps=10, compile="always")
    monkeypatch.setattr(compiling, "has_cpp_compiler", lambda: False)
    assert not wants(seconds=3600)
    with pytest.raises(UserError, match="C\\+\\+ compiler"):
        wants(steps=10, compile="always")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_freed_memory_is_used_again():
    def page_faults(times):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(times):
            torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_memory()
    page_faults(5)
    # 10 x 64 MiB have 163,840 pages; without the setting each is mapped anew.
    assert page_faults(10) < 5000
