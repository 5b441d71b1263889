"""Training adapters: staying near the base, and not computing frozen layers twice."""

import pytest
import torch
import torch.nn.functional as F

from nanohydra.adapt.attach import Adapters
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.distill import near_base
from nanohydra.adapt.prefix_cache import PrefixCache
from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.model.config import ModelConfig
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.objectives import next_token
from nanohydra.train.trainer import Trainer

IDS = torch.randint(0, 31, (12, 10), generator=torch.Generator().manual_seed(0))


def make(config: AdapterConfig, **settings: object) -> tuple[Transformer, Adapters]:
    torch.manual_seed(0)
    shape = {
        "vocab_size": 31,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "initializer_range": 0.3,
    }
    model = Transformer(ModelConfig.from_dict({**shape, **settings}))
    adapters = Adapters(model)
    adapter = adapters.create("a", config)
    with torch.no_grad():
        for p in adapter.parameters():
            p += 0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1))
    adapters.select("a")
    return model, adapters


def batch(first: int = 0, rows: int = 4) -> Batch:
    ids = IDS[first : first + rows]
    targets = ids[:, 1:].clone()
    targets[:, :3] = -100  # a prompt
    return Batch(ids[:, :-1], targets)


class Source:
    """Four rows a step, three steps an epoch."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        return batch(4 * (step % 3))


# --- near_base -------------------------------------------------------------------------------------------------------


def test_loss_is_cross_entropy_plus_kl() -> None:
    model, adapters = make(AdapterConfig(rank=2), dropout=0.1)
    model.eval()
    one = batch()
    loss, count, metrics = near_base(adapters, 0.5, temperature=2.0)(model, one)
    logits = model(one.input_ids)
    with torch.no_grad(), adapters.using(None):
        base = model(one.input_ids)
    kept = one.targets != -100
    ce = F.cross_entropy(logits[kept], one.targets[kept], reduction="sum")
    p, q = (torch.log_softmax(x[kept] / 2.0, -1) for x in (base, logits))
    kl = 4.0 * (p.exp() * (p - q)).sum()
    assert kl > 0.1
    assert torch.allclose(loss, ce + 0.5 * kl, rtol=1e-5)
    assert int(count) == int(kept.sum()) == 24
    assert metrics["kl"].item() == pytest.approx(kl.item() / 24, rel=1e-4)
    assert metrics["ce"].item() == pytest.approx(ce.item() / 24, rel=1e-4)
    assert metrics["kl"].requires_grad is False


def test_an_adapter_that_does_nothing_has_no_kl() -> None:
    model, adapters = make(AdapterConfig(rank=2))
    adapters.create("zero", AdapterConfig(rank=2))
    adapters.select("zero")
    one = batch()
    assert near_base(adapters, 1.0)(model, one)[2]["kl"].item() == pytest.approx(0.0, abs=1e-6)
    loss, count, _ = near_base(adapters, 0.0)(model, one)
    want, want_count, _ = next_token(model, one)
    assert torch.allclose(loss, want)
    assert count == want_count


def test_kl_counts_for_the_chosen_rows_only() -> None:
    model, adapters = make(AdapterConfig(rank=2))
    both = near_base(adapters, 1.0)(model, batch(0, 2))[2]["kl"] * 12
    chosen = [
        near_base(adapters, 1.0, lambda b, i=i: torch.arange(2) == i)(model, batch(0, 2))[2]["kl"] * 12 for i in (0, 1)
    ]
    assert torch.allclose(chosen[0] + chosen[1], both, rtol=1e-4)
    assert chosen[0] > 0
    none = near_base(adapters, 1.0, lambda b: torch.zeros(2, dtype=torch.bool))(model, batch(0, 2))
    assert none[2]["kl"] == 0


def test_gradient_of_the_kl_pulls_towards_the_base() -> None:
    class Five(Source):
        def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
            rows = super().batch(step)
            return Batch(rows.input_ids, torch.where(rows.targets == -100, -100, 5))  # far from what the base says

    drifts = []
    for weight in (0.0, 10.0):
        model, adapters = make(AdapterConfig(rank=2))
        config = TrainConfig(steps=30, batch_size=4, lr=1e-2, weight_decay=0.0, dtype="fp32")
        Trainer(model, near_base(adapters, weight), Five(), config, quiet=True).fit()
        drifts.append(near_base(adapters, 1.0)(model, batch())[2]["kl"].item())
        assert all(p.grad is None for p in model.model.parameters())
    assert drifts[1] < 0.3 * drifts[0]


# --- prefix cache ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_cached_training_is_the_same_training(dtype: str, kl: float) -> None:
    results = []
    for cached in (False, True):
        model, adapters = make(AdapterConfig(rank=2, top_layers=1))
        objective = near_base(adapters, kl) if kl else next_token
        if cached:
            objective = PrefixCache(objective, adapters, "a")
        config = TrainConfig(steps=9, batch_size=4, micro_batch_size=2, lr=1e-2, dtype=dtype)  # type: ignore[arg-type]
        Trainer(model, objective, Source(), config, quiet=True).fit()
        results.append(adapters.state_dict())
        if isinstance(objective, PrefixCache):
            assert objective.depth == 2
            assert objective.hits == 12  # two micro-batches in each of six steps after the first epoch
            assert objective.bytes == 12 * 9 * 32 * (4 if dtype == "fp32" else 2)
        assert len(model.model.layers) == 3
    for key, value in results[0].items():
        assert torch.equal(results[1][key], value)


def test_lower_layers_are_not_run_again() -> None:
    model, adapters = make(AdapterConfig(rank=2, top_layers=1))
    calls: list[int] = []
    model.model.layers[0].register_forward_hook(lambda *_: calls.append(0))
    objective = PrefixCache(next_token, adapters, "a")
    losses = [objective(model, batch())[0] for _ in range(3)]
    assert calls == [0]
    assert torch.equal(losses[0], losses[2])
    other = batch()
    other.segment_ids = torch.tensor([0] * 4 + [1] * 5).repeat(4, 1)  # the same ids, seen otherwise
    assert not torch.equal(objective(model, other)[0], losses[0])
    assert calls == [0, 0]


def test_memory_limit_is_kept() -> None:
    model, adapters = make(AdapterConfig(rank=2, top_layers=1))
    row = 9 * 32 * 4
    objective = PrefixCache(next_token, adapters, "a", max_bytes=5 * row)
    for first in (0, 4, 8, 0, 4, 8):
        objective(model, batch(first))
    assert objective.bytes == 5 * row
    assert objective.hits == 1


def test_a_failing_objective_leaves_the_model_whole() -> None:
    model, adapters = make(AdapterConfig(rank=2, top_layers=1))

    def fail(model: Transformer, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        next_token(model, batch)
        raise RuntimeError

    objective = PrefixCache(fail, adapters, "a")
    for _ in range(2):
        with pytest.raises(RuntimeError):
            objective(model, batch())
    assert objective.hits == 1
    assert len(model.model.layers) == 3
    assert not any(layer._forward_pre_hooks for layer in model.model.layers)


def test_refusals() -> None:
    model, adapters = make(AdapterConfig(rank=2))
    with pytest.raises(UserError, match="top_layers"):
        PrefixCache(next_token, adapters, "a")
    model, adapters = make(AdapterConfig(rank=2, top_layers=1), dropout=0.1)
    with pytest.raises(UserError, match="dropout"):
        PrefixCache(next_token, adapters, "a")(model, batch())
