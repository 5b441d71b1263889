"""Which optimizer trains what, and its state as named tensors."""

import pytest
import torch
from train_toy import Progressions, tiny_model

from nanohydra.errors import UserError
from nanohydra.train.config import TrainConfig
from nanohydra.train.objectives import next_token
from nanohydra.train.optimizers import load_optimizer_tensors, make_optimizers, optimizer_tensors, set_lr


def named(model):
    return dict(model.named_parameters())


def gradients(model, step=0):
    loss, targets, _ = next_token(model, Progressions().batch(step))
    (loss / targets).backward()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_one_optimizer_and_only_matrices_decay(kind, tied):
    model = tiny_model(tie_word_embeddings=tied, positions="learned")
    optimizers = make_optimizers(named(model), TrainConfig(steps=1, optimizer=kind))
    names = {p: n for n, p in model.named_parameters()}
    seen = []
    for optimizer in optimizers.values():
        for group in optimizer.param_groups:
            for p in group["params"]:
                seen.append(names[p])
                assert (group["weight_decay"] > 0) == (p.ndim >= 2)
    assert sorted(seen) == sorted(names.values())
    if kind == "muon":
        muon = {names[p] for g in optimizers["muon"].param_groups for p in g["params"]}
        assert muon == {n for n, p in model.named_parameters() if n.startswith("model.layers") and p.ndim == 2}


def test_a_muon_step_moves_by_a_near_orthogonal_matrix():
    model = tiny_model()
    optimizers = make_optimizers(named(model), TrainConfig(steps=1, optimizer="muon", matrix_lr=0.5, weight_decay=0.0))
    weight = model.model.layers[0].self_attn.q_proj.weight
    before = weight.detach().clone()
    gradients(model)
    optimizers["muon"].step()
    gradient = torch.linalg.svdvals(weight.grad)
    step = torch.linalg.svdvals((before - weight.detach()) / 0.5)
    assert gradient.median() < 0.1 * gradient.max()
    assert 0.6 < step.median() < step.max() < 1.4


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_goes_through_names_and_back(kind):
    config = TrainConfig(steps=1, optimizer=kind)
    model, twin = tiny_model(), tiny_model()
    first = make_optimizers(named(model), config)
    for step in range(3):
        model.zero_grad()
        gradients(model, step)
        for optimizer in first.values():
            optimizer.step()
    twin.load_state_dict(model.state_dict())
    second = make_optimizers(named(twin), config)
    load_optimizer_tensors(optimizer_tensors(first, named(model)), second, named(twin))
    for each, optimizers in ((model, first), (twin, second)):
        each.zero_grad()
        gradients(each, 3)
        for optimizer in optimizers.values():
            optimizer.step()
    for (name, a), b in zip(model.named_parameters(), twin.parameters()):
        assert torch.equal(a, b), name


def test_rates_follow_their_own_peaks():
    optimizers = make_optimizers(named(tiny_model()), TrainConfig(steps=1, optimizer="muon", lr=0.01, matrix_lr=0.2))
    set_lr(optimizers, 0.5)
    assert {g["lr"] for g in optimizers["adamw"].param_groups} == {0.005}
    assert {g["lr"] for g in optimizers["muon"].param_groups} == {0.1}


def test_bad_input():
    with pytest.raises(UserError, match="Nothing to train"):
        make_optimizers({}, TrainConfig(steps=1))
    model = tiny_model()
    optimizers = make_optimizers(named(model), TrainConfig(steps=1))
    with pytest.raises(UserError, match=r"other\.weight"):
        load_optimizer_tensors({"exp_avg/other.weight": torch.zeros(2)}, optimizers, named(model))
