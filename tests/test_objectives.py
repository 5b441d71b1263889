"""Objectives: sums over targets, logits only where there is a loss."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from train_toy import Progressions, tiny_model

from nanohydra.data.batch import IGNORE, Batch
from nanohydra.train.objectives import _CrossEntropySum, cross_entropy_sum, next_token, validation


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(2, 50), st.integers(1, 200), st.floats(0.1, 30), st.integers(0, 10))
def test_cross_entropy_equals_torch(rows, vocab, chunk, size, seed):
    torch.manual_seed(seed)
    logits = (torch.randn(rows, vocab) * size).requires_grad_()
    targets = torch.randint(0, vocab, (rows,))
    expected = F.cross_entropy(logits, targets, reduction="sum")
    (wanted,) = torch.autograd.grad(expected * 0.37, logits)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_CrossEntropySum, "CHUNK", chunk)
        loss = cross_entropy_sum(logits, targets)
        (got,) = torch.autograd.grad(loss * 0.37, logits)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-5)


def test_cross_entropy_of_bf16_logits_is_computed_in_fp32():
    torch.manual_seed(0)
    logits = (torch.randn(64, 300) * 5).bfloat16().requires_grad_()
    targets = torch.randint(0, 300, (64,))
    loss = cross_entropy_sum(logits, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, F.cross_entropy(logits.float(), targets, reduction="sum"))
    loss.backward()
    assert logits.grad.dtype == torch.bfloat16
    wanted = torch.autograd.grad(F.cross_entropy(logits.float(), targets, reduction="sum"), logits)[0]
    # One unit in bf16's last place: the two sum in another order before they round.
    torch.testing.assert_close(logits.grad, wanted, rtol=2**-7, atol=1e-12)


def test_huge_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4], [3e38, 0.0]], requires_grad=True)
    loss = cross_entropy_sum(logits, torch.tensor([0, 0]))
    loss.backward()
    assert loss == 0
    assert torch.isfinite(logits.grad).all()


def test_ignored_targets_add_nothing_and_cost_no_logits(monkeypatch):
    model = tiny_model()
    batch = Progressions(ignored=0.7).batch(0)
    kept = batch.targets != IGNORE
    seen = []
    logits = model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(len(hidden)) or logits(hidden))
    loss, count, _ = next_token(model, batch)
    assert seen == [int(kept.sum())]
    assert int(count) == int(kept.sum())
    expected = F.cross_entropy(
        logits(model.hidden(batch.input_ids)).flatten(0, 1), batch.targets.flatten(), reduction="sum"
    )
    torch.testing.assert_close(loss, expected)


def test_no_targets_at_all_is_zero_not_nan():
    batch = Progressions().batch(0)
    loss, count, _ = next_token(tiny_model(), Batch(batch.input_ids, torch.full_like(batch.targets, IGNORE)))
    assert (loss.item(), int(count)) == (0.0, 0)
    loss.backward()


def test_validation_weighs_by_targets():
    model = tiny_model()
    batches = [Progressions(rows=2, ignored=0.8).batch(0), Progressions(rows=7).batch(1)]
    sums = [next_token(model, b) for b in batches]
    expected = sum(s[0].item() for s in sums) / sum(int(s[1]) for s in sums)
    assert validation(next_token, batches)(model)["val_loss"] == pytest.approx(expected)
