"""Diagnostics: they measure what they say, change nothing, name planted faults and stay silent on healthy runs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.foundations.makemore.data import Vocabulary, examples
from nanohydra.foundations.makemore.mlp import MLP, MLPConfig
from nanohydra.foundations.makemore.recurrent import Recurrent, RecurrentConfig
from nanohydra.foundations.makemore.train import FitConfig, fit
from nanohydra.model.attention import Attention
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.diagnostics import Diagnostics
from nanohydra.train.diagnostics_log import BINS, FILE, histogram_edges, read_diagnostics
from nanohydra.train.diagnostics_plots import plot_diagnostics
from nanohydra.train.diagnostics_rules import LossWatch, layer_name
from nanohydra.train.diagnostics_stats import (
    ROWS,
    ActivationMeter,
    histogram,
    logit_scale,
    thin,
    thin_rows,
)
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token
from nanohydra.train.run import Run
from nanohydra.train.trainer import Trainer

SHAPE = ModelConfig(
    vocab_size=32, hidden_size=32, num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=16
)


class MarkovText:
    """A language of 32 words where each word has its likely followers: learnable within some tens of steps."""

    def __init__(self, seed: int, rows: int = 8, length: int = 16) -> None:
        self.seed, self.rows, self.length = seed, rows, length
        self.table = torch.softmax(3 * torch.randn(32, 32, generator=torch.Generator().manual_seed(0)), -1)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        generator = torch.Generator().manual_seed(1000 * self.seed + step)
        words = [torch.randint(32, (self.rows,), generator=generator)]
        for _ in range(self.length):
            words.append(torch.multinomial(self.table[words[-1]], 1, generator=generator)[:, 0])
        text = torch.stack(words, dim=1)
        return Batch(text[:, :-1], text[:, 1:])


def train(
    hooks: list[Hook], shape: ModelConfig = SHAPE, seed: int = 0, run: Run | None = None, steps: int = 30, **config: Any
) -> Trainer:
    torch.manual_seed(seed)
    settings = TrainConfig(**{"steps": steps, "batch_size": 8, "lr": 3e-3, "seed": seed, "dtype": "fp32", **config})
    trainer = Trainer(Transformer(shape), next_token, MarkovText(seed), settings, run=run, hooks=hooks, quiet=True)
    trainer.fit()
    return trainer


def names(count: int = 300) -> list[str]:
    draws = torch.randint(12, (count, 6), generator=torch.Generator().manual_seed(3)).tolist()
    return ["".join("bdklmnrstaei"[(a * b + i) % 12] for i, (a, b) in enumerate(pairwise(row))) for row in draws]


def makemore(model: nn.Module, seed: int, lr: float = 0.01, steps: int = 120) -> Diagnostics:
    """Trains one of the ladder's models with diagnostics on."""
    vocabulary = Vocabulary.of(names())
    diagnostics = Diagnostics(every=20)
    data = examples(names(), vocabulary, model.context)  # type: ignore[arg-type]
    rows = 32 if model.context is None else 192
    fit(model, data, FitConfig(steps=steps, batch_size=rows, lr=lr, seed=seed), [diagnostics])
    return diagnostics


def mlp(seed: int, **shape: Any) -> MLP:
    torch.manual_seed(seed)
    return MLP(len(Vocabulary.of(names())), MLPConfig(**shape))


# --- what is measured -------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=50))
def test_histogram_counts_all_between_its_edges(values: list[float]) -> None:
    edges = histogram_edges()
    assert edges == sorted(edges)
    counts = histogram(torch.tensor(values))
    expected, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    assert int(counts.sum()) == len(values)
    assert np.abs(np.cumsum(counts.numpy()) - np.cumsum(expected)).max() <= sum(  # at an edge, rounding may decide
        any(math.isclose(v, e, rel_tol=1e-4, abs_tol=1e-6) for e in edges) for v in values
    )


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(1, 40), st.integers(1, 400))
def test_thin_spreads_over_all_columns(rows: int, columns: int, limit: int) -> None:
    weight = torch.arange(rows * columns).view(rows, columns)
    kept = thin(weight, limit).long()
    assert len(kept) <= limit
    assert len({int(i) % columns for i in kept}) == min(columns, len(kept))
    kept.zero_()
    assert weight[-1, -1] == rows * columns - 1  # a copy, not a view


@pytest.mark.parametrize("length", [8, 64, 256])
def test_thin_rows_sees_every_position(length: int) -> None:
    positions = torch.arange(length).expand(2 * ROWS, length).reshape(-1, 1)
    kept = thin_rows(positions)
    assert ROWS // 3 <= len(kept) <= ROWS
    assert len(kept.unique()) == length


@pytest.mark.parametrize("kind", ["tanh", "sigmoid", "relu", "plain"])
def test_meter_measures_the_activations(kind: Any) -> None:
    torch.manual_seed(0)
    x = 3 * torch.randn(60, 5)
    y = {"tanh": x.tanh(), "sigmoid": x.sigmoid(), "relu": x.relu(), "plain": x}[kind]
    y[:, 2] = 0.0
    meter = ActivationMeter(kind)
    meter.add(y[:20].view(4, 5, 5))
    meter.add(y[20:])
    mean, std, saturated, dead, *counts = meter.result().tolist()
    assert mean == pytest.approx(y.mean().item(), abs=1e-5)
    assert std == pytest.approx(y.std(correction=0).item(), abs=1e-4)
    flat = {"tanh": y.abs() > 0.97, "sigmoid": (y < 0.03) | (y > 0.97)}.get(kind, torch.zeros(1))
    assert saturated == pytest.approx(flat.float().mean().item(), abs=1e-6)
    assert dead == pytest.approx(0.2 if kind == "relu" else 0.0)
    assert len(counts) == BINS
    assert sum(counts) == pytest.approx(1000, abs=0.1)


@settings(deadline=None)
@given(st.floats(-100, 100))
def test_logit_scale_is_of_differences(shift: float) -> None:
    logits = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(logit_scale(logits), logit_scale(logits + shift), atol=1e-3)
    assert torch.allclose(3 * logit_scale(logits), logit_scale(3 * logits), atol=1e-4)


def test_gradients_and_updates_are_those_of_the_step() -> None:
    class Reference(Hook):
        def after_backward(self, trainer: Trainer) -> None:
            p = trainer.parameters["model.layers.0.mlp.up_proj.weight"]
            assert p.grad is not None
            self.gradient, self.before = p.grad.norm().item(), p.detach().clone()

        def after_step(self, trainer: Trainer) -> None:
            p = trainer.parameters["model.layers.0.mlp.up_proj.weight"]
            self.update = ((p - self.before).norm() / self.before.norm()).item()

    reference, diagnostics = Reference(), Diagnostics(every=1)
    train([diagnostics, reference], steps=3, micro_batch_size=4, grad_clip=0.01)
    measured = diagnostics.records[-1]["parameters"]["model.layers.0.mlp.up_proj.weight"]
    assert measured["gradient"] == pytest.approx(reference.gradient, rel=1e-3)
    assert measured["update"] == pytest.approx(reference.update, rel=1e-3)
    assert measured["weight"] == pytest.approx(reference.before.norm().item(), rel=1e-3)


def test_a_record_covers_every_layer() -> None:
    diagnostics = Diagnostics(every=10)
    train([diagnostics], replace(SHAPE, mlp="relu2", intermediate_size=0))
    assert [r["step"] for r in diagnostics.records] == [1, 2, 3, 5, 9, 11, 21]
    record = diagnostics.records[-1]
    layers = [f"model.layers.{i}{part}" for i in range(3) for part in ("", ".mlp")]
    assert sorted(record["layers"]) == layers
    assert all(("dead" in layer) == (layer["kind"] == "relu") for layer in record["layers"].values())
    assert sorted(record["attention"]) == [f"model.layers.{i}.self_attn" for i in range(3)]
    assert all(0 < a["share"] <= 1 for a in record["attention"].values())
    assert record["logits"]["vocabulary"] == 32
    matrices = {
        n for n, p in Transformer(replace(SHAPE, mlp="relu2", intermediate_size=0)).named_parameters() if p.ndim == 2
    }
    assert set(record["parameters"]) == matrices


# --- what they leave alone --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [{}, {"activation_checkpointing": True}, {"micro_batch_size": 3}, {"dtype": "bf16"}])
def test_training_is_the_same_to_the_bit(config: dict[str, Any]) -> None:
    plain, watched = (train(hooks, steps=6, **config) for hooks in ([], [Diagnostics(every=2)]))
    assert plain.loss == watched.loss
    for a, b in zip(plain.model.parameters(), watched.model.parameters(), strict=True):
        assert torch.equal(a, b)
    for module in watched.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not (isinstance(module, Attention) and module.observer)


def test_compiled_layers_are_looked_into_and_stay_compiled() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.tanh = nn.Linear(4, 3), nn.Tanh()

        def forward(self, x: Tensor) -> Tensor:
            return self.tanh(self.linear(x))  # type: ignore[no-any-return]

    model = nn.Sequential(Layer())
    calls = []

    def backend(graph: Any, inputs: Any) -> Any:
        calls.append(graph)
        return graph.forward

    model[0].compile(backend=backend)
    sampled = Diagnostics(every=100)

    class Loop:
        run, step, loss, parameters = None, 0, 1.0, dict(model.named_parameters())

    loop: Any = Loop()
    loop.model, loop.say = model, print
    for _ in range(8):
        sampled.before_step(loop)
        model(torch.randn(5, 4)).sum().backward()
        sampled.after_backward(loop)
        loop.step += 1
        sampled.after_step(loop)
    assert [r["step"] for r in sampled.records] == [1, 2, 3, 5]
    assert all(r["layers"]["0.tanh"]["rows"] == 5 for r in sampled.records)
    assert len(calls) == 1  # steps 4, 6, 7, 8 ran the one compiled graph


def test_other_processes_stay_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    diagnostics = Diagnostics(folder=tmp_path / "run")
    vocabulary = Vocabulary.of(names())
    fit(mlp(0, init="normal"), examples(names(), vocabulary, 3), FitConfig(steps=3), [diagnostics])
    assert not diagnostics.records
    assert not diagnostics.findings
    assert not (tmp_path / "run").exists()


# --- the file ---------------------------------------------------------------------------------------------------------


class Stop(Hook):
    def __init__(self, at: int) -> None:
        self.at = at

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == self.at:
            raise RuntimeError("killed")


def test_a_killed_run_leaves_the_same_file_as_an_undisturbed_one(tmp_path: Path) -> None:
    config: dict[str, Any] = {"lr": 0.1, "schedule": "constant", "save_every": 5, "save_seconds": 0}
    whole = Run.create(tmp_path / "whole", {})
    train([Diagnostics(every=3)], run=whole, steps=14, **config)
    cut = Run.create(tmp_path / "cut", {})
    with pytest.raises(RuntimeError, match="killed"):
        train([Diagnostics(every=3), Stop(at=13)], run=cut, steps=14, **config)
    with (cut.folder / FILE).open("a") as file:
        file.write('{"step": 13, "los')  # torn by the kill
    assert read_diagnostics(cut.folder).records[-1]["step"] == 13
    train([Diagnostics(every=3)], run=Run.open(cut.folder), steps=14, **config)
    assert (cut.folder / FILE).read_text() == (whole.folder / FILE).read_text()
    assert read_diagnostics(whole.folder).findings  # a learning rate of 0.1 is a fault, said once in both


def test_the_file_is_strict_json_and_reads_back(tmp_path: Path) -> None:
    diagnostics = Diagnostics(every=2, folder=tmp_path)
    vocabulary = Vocabulary.of(names())
    fit(mlp(0, activation="relu", init="normal"), examples(names(), vocabulary, 3), FitConfig(steps=6), [diagnostics])
    for line in (tmp_path / FILE).read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    log = read_diagnostics(tmp_path)
    assert log.records == list(diagnostics.records)
    assert log.findings == diagnostics.findings != []
    dead = log.series("layers", "dead")
    assert [step for step, _ in dead["hidden.1"]] == [1, 2, 3, 5]
    assert log.series("layers", "saturated") == {}
    assert read_diagnostics(tmp_path / "nothing").records == []


def test_pictures(tmp_path: Path) -> None:
    train([Diagnostics(every=2, folder=tmp_path)], replace(SHAPE, num_hidden_layers=1, layer_types=()), steps=3)
    for path in plot_diagnostics(tmp_path, tmp_path / "plots"):
        assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match="no diagnostics"):
        plot_diagnostics(tmp_path / "empty")


def test_bad_interval() -> None:
    with pytest.raises(UserError, match="1 or more"):
        Diagnostics(every=0)


# --- the warnings -----------------------------------------------------------------------------------------------------


HEALTHY: dict[str, dict[str, Any]] = {
    "tanh": {},
    "relu": {"activation": "relu"},
    "batch norm": {"batch_norm": True},
    "deep tanh": {"layers": 5, "hidden": 64},
    "deep relu": {"layers": 5, "hidden": 64, "activation": "relu"},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", HEALTHY)
def test_silent_on_healthy_perceptrons(name: str, seed: int) -> None:
    assert makemore(mlp(seed, **HEALTHY[name]), seed, lr=0.005).findings == []


@pytest.mark.parametrize("cell", ["rnn", "lstm", "gru"])
def test_silent_on_healthy_recurrent_nets(cell: str) -> None:
    torch.manual_seed(0)
    model = Recurrent(len(Vocabulary.of(names())), RecurrentConfig(cell, hidden=32))
    assert makemore(model, 0, lr=0.003, steps=60).findings == []


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shape", "config"),
    [
        (SHAPE, {}),
        (SHAPE, {"optimizer": "muon"}),
        (replace(SHAPE, mlp="relu2", intermediate_size=0, init="zero_output"), {}),
        (replace(SHAPE, mlp="gelu", intermediate_size=0, norm="layernorm", positions="learned", qk_norm=False), {}),
    ],
    ids=["default", "muon", "relu2", "gpt2"],
)
def test_silent_on_healthy_transformers(shape: ModelConfig, config: dict[str, Any], seed: int) -> None:
    diagnostics = Diagnostics(every=20)
    trainer = train([diagnostics], shape, seed, steps=35, **config)
    assert diagnostics.findings == []
    assert trainer.loss < 2.9  # of ln 32 = 3.5: it did learn


def kinds(diagnostics: Diagnostics) -> set[str]:
    return {finding.kind for finding in diagnostics.findings}


@pytest.mark.parametrize("seed", range(3))
def test_flags_a_bad_init(seed: int) -> None:
    found = makemore(mlp(seed, init="normal"), seed, lr=0.005, steps=3)
    assert kinds(found) >= {"saturated", "first_loss"}
    text = next(f.text for f in found.findings if f.kind == "saturated")
    share = found.records[0]["layers"]["hidden.1"]["saturated"]
    assert text == f"hidden.1: {share:.0%} of tanh units saturated: init or learning rate too large?"


@pytest.mark.parametrize("seed", range(3))
def test_flags_dead_relus(seed: int) -> None:
    model = mlp(seed, activation="relu")
    with torch.no_grad():
        model.hidden[0].bias.fill_(-10.0)  # type: ignore[union-attr, operator]
    found = makemore(model, seed, lr=0.005, steps=3)
    assert kinds(found) == {"dead"}
    assert found.findings[0].where == "hidden.1"


def test_flags_dead_relus_in_a_transformer() -> None:
    class Kill(Hook):
        def before_step(self, trainer: Trainer) -> None:
            if trainer.step == 2:
                with torch.no_grad():
                    trainer.parameters["model.layers.1.mlp.up_proj.bias"].fill_(-10.0)

    diagnostics = Diagnostics(every=20)
    train([diagnostics, Kill()], replace(SHAPE, mlp="relu2", mlp_bias=True, intermediate_size=0), steps=5)
    assert [(f.kind, f.where) for f in diagnostics.findings if f.kind == "dead"] == [("dead", "layer 1 mlp")]


@pytest.mark.parametrize("seed", range(3))
def test_flags_vanishing_gradients(seed: int) -> None:
    found = makemore(mlp(seed, activation="sigmoid", layers=6, hidden=64), seed, lr=0.001, steps=6)
    assert kinds(found) == {"vanishing"}
    assert found.findings[0].where == "hidden.0"


@pytest.mark.parametrize("seed", range(3))
def test_flags_a_signal_that_fades(seed: int) -> None:
    model = mlp(seed, layers=5, hidden=64)
    with torch.no_grad():
        for layer in model.hidden:
            if isinstance(layer, nn.Linear):
                layer.weight.mul_(0.05)
    assert "faint" in kinds(makemore(model, seed, steps=3))


def test_flags_exploding_gradients() -> None:
    class Amplify(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + (20 * x - (20 * x).detach())  # the value stays, the gradient grows 21-fold

    model = mlp(0, layers=4, hidden=32)
    model.hidden = nn.Sequential(*(part for layer in model.hidden for part in (layer, Amplify())))
    assert "exploding" in kinds(makemore(model, 0, lr=1e-6, steps=3))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_flags_a_too_large_learning_rate(activation: str, seed: int) -> None:
    assert "learning_rate" in kinds(makemore(mlp(seed, activation=activation), seed, lr=0.5, steps=5))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("config", [{"lr": 0.1}, {"optimizer": "muon", "matrix_lr": 0.5}])
def test_flags_a_too_large_learning_rate_of_a_transformer(config: dict[str, Any], seed: int) -> None:
    diagnostics = Diagnostics(every=20)
    train([diagnostics], seed=seed, steps=10, **config)
    assert "learning_rate" in kinds(diagnostics)


def test_flags_collapsed_attention() -> None:
    diagnostics = Diagnostics()
    train([diagnostics], replace(SHAPE, qk_norm=False, initializer_range=2.0), steps=1)
    assert {f.where for f in diagnostics.findings if f.kind == "attention"} == {
        f"layer {i} self_attn" for i in range(3)
    }


def test_says_each_fault_once() -> None:
    found = makemore(mlp(0, init="normal"), 0, lr=1e-6, steps=100)
    assert len(found.records) > 5
    assert len(found.findings) == len({(f.kind, f.where) for f in found.findings}) == 2


@settings(deadline=None)
@given(st.integers(0, 10_000), st.floats(0.01, 0.3))
def test_noise_is_no_spike_and_a_jump_is(seed: int, noise: float) -> None:
    generator = np.random.default_rng(seed)
    losses = 2 + 3 * np.exp(-np.arange(300) / 60) + noise * generator.standard_normal(300)
    watch = LossWatch()
    assert not [f for step, loss in enumerate(losses, 1) for f in watch.add(step, float(loss))]
    jumps = watch.add(301, float(losses[-50:].mean() + 20 * noise + 1))
    assert [f.kind for f in jumps] == ["spike"]


def test_a_rising_loss_is_said() -> None:
    watch = LossWatch()
    found = [f for step in range(60) for f in watch.add(step, 3.0 + 0.05 * step)]
    assert found[0].kind == "rising"
    again = LossWatch()
    again.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    assert again.add(60, 9.0) == watch.add(60, 9.0) != []


def test_layer_names_are_plain() -> None:
    assert layer_name("model.layers.3.mlp") == "layer 3 mlp"
    assert layer_name("model.layers.3") == "layer 3"
    assert layer_name("hidden.1") == "hidden.1"
