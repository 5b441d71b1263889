"""The training loop: one step is the same however it is cut up, hooks, budgets, divergence."""

import math

import pytest
import torch
import torch.nn.functional as F
from train_toy import Progressions, make_trainer, tiny_model

from nanohydra.errors import UserError
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.schedules import lr_share
from nanohydra.train.watch import Diverged


class Record(Hook):
    """Notes each step's loss, and what was called when."""

    def __init__(self):
        self.losses, self.norms, self.shares, self.calls = [], [], [], []

    def on_start(self, trainer):
        self.calls.append(("start", trainer.step))

    def before_step(self, trainer):
        assert all(p.grad is None for p in trainer.parameters.values())
        self.calls.append(("before", trainer.step))

    def after_backward(self, trainer):
        self.calls.append(("backward", trainer.step))

    def after_step(self, trainer):
        self.calls.append(("after", trainer.step))
        self.losses.append(trainer.loss)
        self.norms.append(trainer.grad_norm)
        self.shares.append(trainer.lr_share)


def fit(**settings):
    record = Record()
    trainer = make_trainer(hooks=(record,), **settings)
    return trainer, trainer.fit(), record


def test_equals_a_plain_loop():
    config = TrainConfig(steps=8, dtype="fp32", grad_clip=0.5, lr=3e-3, schedule="cosine")
    model = tiny_model()
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=config.betas)
    losses = []
    for step in range(8):
        batch = Progressions(ignored=0.3).batch(step)
        loss = F.cross_entropy(model(batch.input_ids).flatten(0, 1), batch.targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * lr_share((step + 0.5) / 8, config)
        optimizer.step()
        losses.append(loss.item())
    trainer, _, record = fit(steps=8, grad_clip=0.5, lr=3e-3)
    assert record.losses == pytest.approx(losses, rel=1e-5)
    for a, b in zip(trainer.model.parameters(), model.parameters()):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("micro", [1, 3, 8, 100])
def test_any_micro_batch_size_gives_the_same_step(micro):
    _, whole, a = fit(steps=6)
    _, parts, b = fit(steps=6, micro_batch_size=micro)
    assert b.losses == pytest.approx(a.losses, rel=1e-5)
    assert b.norms == pytest.approx(a.norms, rel=1e-4)
    assert parts.evaluation["val_loss"] == pytest.approx(whole.evaluation["val_loss"], rel=1e-4)


def test_two_trainings_are_equal_to_the_bit_and_seeds_differ():
    def losses(**kw):
        return fit(model=tiny_model(dropout=0.2), steps=6, **kw)[2].losses

    assert losses(seed=1) == losses(seed=1)
    assert losses(seed=1) != losses(seed=2)


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_half_precision_learns_alike_and_keeps_fp32_weights(dtype, optimizer):
    settings = {"steps": 30, "optimizer": optimizer, "lr": 5e-3}
    _, exact, _ = fit(**settings)
    trainer, half, _ = fit(dtype=dtype, **settings)
    assert half.evaluation["val_loss"] == pytest.approx(exact.evaluation["val_loss"], abs=0.05)
    assert half.evaluation["val_loss"] < 2.5 < math.log(32)
    for p in trainer.model.parameters():
        assert isinstance(p, torch.nn.Parameter)
        assert p.dtype == torch.float32


def test_frozen_weights_stay_and_the_rest_trains():
    model = tiny_model()
    for p in model.model.layers[0].parameters():
        p.requires_grad_(False)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    trainer, _, _ = fit(model=model, steps=3, dtype="bf16")
    for name, p in model.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    assert not any(n.startswith("model.layers.0") for n in trainer.parameters)


def test_activation_checkpointing_changes_nothing():
    a = fit(model=tiny_model(dropout=0.1), steps=4)[2].losses
    b = fit(model=tiny_model(dropout=0.1), steps=4, activation_checkpointing=True)[2].losses
    assert b == pytest.approx(a, rel=1e-5)


@pytest.mark.slow
def test_compiled_layers_learn_the_same():
    a = fit(steps=6)
    b = fit(steps=6, compile="always")
    assert b[2].losses == pytest.approx(a[2].losses, rel=1e-4)
    assert b[1].evaluation["val_loss"] == pytest.approx(a[1].evaluation["val_loss"], rel=1e-4)


def test_clipping_bounds_the_step_and_0_means_none():
    class Norm(Hook):
        def after_step(self, trainer):
            self.norm = torch.nn.utils.get_total_norm([p.grad for p in trainer.parameters.values()])

    for clip in (0.01, 0.0):
        hook = Norm()
        trainer = make_trainer(hooks=(hook,), steps=1, grad_clip=clip)
        trainer.fit()
        assert float(hook.norm) == pytest.approx(clip or trainer.grad_norm, rel=1e-3)
        assert trainer.grad_norm > 0.1


def test_ema_is_the_weighted_mean_of_the_weights():
    class Mean(Hook):
        def on_start(self, trainer):
            self.mean = {n: p.detach().clone() for n, p in trainer.parameters.items()}

        def after_step(self, trainer):
            self.last = {n: p.detach().clone() for n, p in trainer.parameters.items()}
            self.mean = {n: 0.8 * m + 0.2 * self.last[n] for n, m in self.mean.items()}

    hook = Mean()
    trainer = make_trainer(hooks=(hook,), steps=10, ema=0.8)
    result = trainer.fit()
    for name, p in trainer.model.named_parameters():
        torch.testing.assert_close(p, hook.mean[name], atol=1e-6, rtol=1e-4)
        assert torch.equal(trainer.ema[name], hook.last[name])
    assert result.evaluation == trainer.evaluate(trainer.model)


def test_hooks_are_called_in_order_and_may_change_gradients():
    class Freeze(Hook):
        def after_backward(self, trainer):
            for p in trainer.parameters.values():
                p.grad.zero_()

    record = Record()
    trainer = make_trainer(hooks=(Freeze(), record), steps=2, weight_decay=0.0)
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.fit()
    steps = [("before", 0), ("backward", 0), ("after", 1), ("before", 1), ("backward", 1), ("after", 2)]
    assert record.calls == [("start", 0), *steps]
    assert record.norms == [0.0, 0.0]
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters()))


def test_budget_in_tokens():
    _, result, record = fit(tokens=8 * 16 * 5 - 1)
    assert (result.step, result.tokens) == (5, 8 * 16 * 5)
    assert len(record.losses) == 5


def test_budget_in_seconds_cools_down_on_a_slow_machine(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("nanohydra.train.trainer.time.monotonic", lambda: now[0])

    class Slow(Hook):
        def before_step(self, trainer):
            # The machine stalls at every fifth step, and is loaded for good from the twentieth on.
            now[0] += (0.3 if trainer.step % 5 == 4 else 0.05) * (1 if trainer.step < 20 else 3)

    record = Record()
    trainer = make_trainer(hooks=(Slow(), record), seconds=10.0, schedule="wsd", decay=0.5, warmup=0.0)
    result = trainer.fit()
    assert 10.0 <= result.seconds < 11.0
    assert record.shares[0] == record.shares[10] == 1.0
    assert 0.0 <= record.shares[-1] < 0.1
    assert all(b <= a for a, b in zip(record.shares, record.shares[1:]))


def test_a_batch_without_targets_is_refused():
    trainer = make_trainer(steps=1)
    trainer.batches = Progressions(ignored=1.0)
    with pytest.raises(UserError, match="no targets"):
        trainer.fit()


class Poison(Hook):
    """Breaks one step in the way asked for."""

    def __init__(self, step, how):
        self.step, self.how = step, how

    def before_step(self, trainer):
        if trainer.step == self.step and self.how == "weights":
            next(iter(trainer.parameters.values())).data[0] = math.nan

    def after_backward(self, trainer):
        if trainer.step == self.step and self.how == "gradient":
            next(iter(trainer.parameters.values())).grad[0] = math.inf


@pytest.mark.parametrize(
    ("how", "at", "words"),
    [
        ("weights", 4, "loss is nan at step 4.*weights were already NaN.*step-00000004"),
        ("gradient", 14, "gradient's norm is inf at step 14.*suspect this step's batch.*step-00000014"),
        ("gradient", 3, "within the first 3 steps.*learning rate .* is probably too high.*step-00000002"),
        ("gradient", 0, "step 0.*first step.*No checkpoint"),
    ],
)
def test_nan_stops_with_step_cause_and_checkpoint(tmp_path, how, at, words):
    trainer = make_trainer(tmp_path / "run", hooks=(Poison(at, how),), save_every=2, lr=1e-4)
    with pytest.raises(Diverged, match=words) as error:
        trainer.fit()
    assert "\n" not in str(error.value)
    if how == "gradient":
        assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


def test_a_far_too_high_learning_rate_is_named_as_the_cause():
    def hyperbola(model, batch):
        # exp(exp(...)) of weights that grow by `lr` a step: the loss climbs ever faster until it is infinite.
        total = sum(p.mean() for p in model.parameters())
        return (-total).exp().exp() * batch.targets.numel(), torch.tensor(batch.targets.numel()), {}

    trainer = make_trainer(steps=200, lr=0.0, schedule="constant", grad_clip=0.0)
    trainer.objective = hyperbola

    class Climb(Hook):
        def after_backward(self, trainer):
            for p in trainer.parameters.values():
                p.data.add_(p.grad.sign(), alpha=0.005)

    trainer.hooks = (Climb(),)
    with pytest.raises(Diverged, match=r"learning rate .* is probably too high.*gradient's norm reached"):
        trainer.fit()


def test_fp16_overflow_skips_the_step_and_lowers_the_scale():
    class Overflow(Hook):
        def after_backward(self, trainer):
            if trainer.step == 1:
                next(iter(trainer.parameters.values())).grad[0] = math.inf

    class Weights(Hook):
        def __init__(self):
            self.seen = []

        def after_step(self, trainer):
            self.seen.append(next(iter(trainer.parameters.values())).detach().clone())

    weights = Weights()
    trainer = make_trainer(hooks=(Overflow(), weights), steps=3, dtype="fp16")
    trainer.fit()
    assert torch.equal(weights.seen[0], weights.seen[1])
    assert not torch.equal(weights.seen[1], weights.seen[2])
    assert trainer.loss_scale.scale == 2.0**15
