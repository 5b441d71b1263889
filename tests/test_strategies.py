"""Every strategy on a case whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from continual_toy import (
    LENGTH,
    ROWS,
    TOKENIZER,
    VOCAB,
    Counting,
    domain,
    domains,
    journey,
    logits,
    make,
    model,
    stage,
    train_config,
)
from torch import Tensor, nn

from nanohydra.adapt.attach import weights_hash
from nanohydra.adapt.config import AdapterConfig
from nanohydra.continual.distill import near_teacher
from nanohydra.continual.domains import Domain
from nanohydra.continual.fisher import diagonal_fisher
from nanohydra.continual.masks import Held
from nanohydra.continual.memory import Rehearsed
from nanohydra.continual.strategies import STRATEGIES
from nanohydra.continual.strategies.ewc import EWC, EWCSettings
from nanohydra.continual.strategies.generative_replay import WholeRows
from nanohydra.continual.strategies.o_lora import overlap
from nanohydra.continual.strategies.online_ewc import OnlineEWC, OnlineEWCSettings
from nanohydra.continual.strategy import Setup, Stage, strategy_class
from nanohydra.data.batch import IGNORE, Batch
from nanohydra.data.loader import Mixed, PackedConversations, RowSource
from nanohydra.data.order import Int64s
from nanohydra.errors import UserError
from nanohydra.infer.config import SamplingParams
from nanohydra.infer.engine import Engine
from nanohydra.train.objectives import Objective, next_token
from nanohydra.train.trainer import Trainer

SETTINGS: dict[str, dict[str, Any]] = {
    "replay": {"bytes": 900},
    "kl_replay": {"bytes": 900},
    "generative_replay": {"samples": 8},
    "ewc": {"rows": 4},
    "online_ewc": {"rows": 4},
    "lora": {"views": ["oracle", "perplexity", "centroid", "linear", "ties"]},
    "sparse_memory": {"slots": 32, "slots_a_domain": 6, "top": 4, "rows": 8},
}


def weights(of: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in of.named_parameters()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# ---------------------------------------------------------------- what holds for all


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_run_resumed_after_any_stage_equals_one_never_stopped(name: str, tmp_path: Any) -> None:
    settings = SETTINGS.get(name, {})
    whole = journey(make(name, **settings)).run()
    started = journey(make(name, **settings), tmp_path, domains())
    for number in (0, 1):
        started._stage(number)
        started._save(number)
    resumed = journey(make(name, **settings), tmp_path).run()
    assert resumed["values"] == whole["values"]
    assert resumed["stored"] == whole["stored"]
    rows = whole["values"][next(iter(whole["values"]))]["ones"]["loss"]
    assert len(rows) == 3


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_file_is_short_and_tells_its_equation(name: str) -> None:
    module = __import__(strategy_class(name).__module__, fromlist=["_"])
    source = open(module.__file__, encoding="utf-8").read()  # noqa: PTH123, SIM115
    assert source.count("\n") <= 200
    assert any(line.startswith("    ") and ("=" in line or "+" in line) for line in module.__doc__.splitlines())


def test_one_adapter_instead_of_all_weights_serves_the_strategies_on_weights(tmp_path: Any) -> None:
    for name in ("naive", "joint", "replay", "kl_replay", "ewc", "lwf"):
        over = model()
        before = weights_hash(over)
        strategy = make(name, over=over, adapter=True, adapters={"rank": 1}, **SETTINGS.get(name, {}))
        record = journey(strategy).run()
        assert weights_hash(over) == before
        assert record["values"][""]["threes"]["loss"][-1] < record["values"][""]["threes"]["loss"][0]
        assert record["stored"][-1]["adapters"] == 4 * sum(p.numel() for p in strategy.learner.trained.values())


# ---------------------------------------------------------------- on weights


def test_naive_is_the_plain_trainer() -> None:
    strategy = make("naive")
    led = journey(strategy, of=domains()[:2])
    led.run()
    config = replace(train_config(), seed=_stage_seed(led, 1))
    plain = model()
    Trainer(plain, next_token, Counting(3), config, quiet=True).fit()
    assert same(weights(strategy.model), weights(plain))


def _stage_seed(led: Any, number: int) -> int:
    from nanohydra.data.order import random_bits

    return int(random_bits(led.seed, np.array([number]))[0] >> np.uint64(33))


def test_joint_is_training_on_the_union_from_the_base() -> None:
    strategy = make("joint")
    led = journey(strategy)
    led.run()
    union = Mixed([Counting(1), Counting(3), Counting(5)], [1, 1, 1], 4)
    plain = model()
    config = train_config(steps=3 * 6, seed=_stage_seed(led, 2))
    Trainer(plain, next_token, union, config, quiet=True).fit()
    assert same(weights(strategy.model), weights(plain))


def test_joint_by_rows_gives_every_row_of_the_union_once_an_epoch() -> None:
    few = Domain("few", Counting(2), 8, [])
    strategy = make("joint", balance="rows")
    source = strategy.batches(Stage(1, few, [domain("many", 1)], train_config()))
    first = [row for step in range((ROWS + 8) // 4) for row in source.batch(step).input_ids.tolist()]
    twos = [row for row in first if (row[1] - row[0]) % VOCAB == 2]
    assert len(twos) == 8
    assert len(first) - len(twos) == ROWS


def test_alone_forgets_what_came_before_by_definition() -> None:
    together = journey(make("alone")).run()
    only = [domains()[0], domains()[1]]
    first = journey(make("alone"), of=only).run()
    assert first["values"][""]["threes"]["loss"][1] == together["values"][""]["threes"]["loss"][1]
    new = make("alone", over=model(3), start="new")
    new.start_stage(stage(1))
    assert not same(weights(new.model), weights(model(3)))
    new_again = make("alone", start="new", over=model(5))
    new_again.start_stage(stage(1))
    assert same(weights(new.model), weights(new_again.model))


class Numbers(RowSource):
    """Rows of two whole numbers each; a batch is all of them, so that every step has the whole gradient."""

    def __init__(self, rows: Sequence[tuple[int, int]]) -> None:
        super().__init__(2, len(rows))
        self.rows = torch.tensor(rows)

    def take(self, numbers: Int64s) -> Batch:
        rows = self.rows[torch.from_numpy(numbers % len(self.rows))]
        return Batch(rows, torch.zeros(len(rows), 1, dtype=torch.int64))  # one target a row


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(2))


def squares(point: Any, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """-log of a Gaussian around theta: the optimum is the rows' mean and the Fisher their variance."""
    return 0.5 * (batch.input_ids - point.theta).square().sum(), torch.tensor(len(batch.input_ids)), {}


class OnSquares:
    def objective(self, stage: Stage) -> Objective:
        return squares


@pytest.mark.parametrize("online", [False, True])
def test_ewc_reaches_the_optimum_of_two_and_three_quadratics(online: bool) -> None:
    base: Any = OnlineEWC if online else EWC
    kind = type("Kind", (OnSquares, base), {})
    weight = 2.0
    settings = (OnlineEWCSettings if online else EWCSettings)(weight=weight)
    config = train_config(steps=600, lr=0.05, weight_decay=0.0, grad_clip=0.0, batch_size=4, schedule="cosine")
    point: Any = Point()
    strategy = kind(Setup(point, TOKENIZER, config, AdapterConfig(), 0, 2), settings)
    rows = [
        [(0, 4), (2, 4), (0, 8), (2, 8)],
        [(4, 0), (6, 2), (4, 2), (6, 0)],
        [(9, 9), (9, 7), (7, 9), (7, 7)],
    ]
    seen: list[Domain] = []
    solved: list[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]] = []
    for number, own in enumerate(rows):
        now = Domain(str(number), Numbers(own), 4, [])
        at = Stage(number, now, seen, config)
        Trainer(point, strategy.objective(at), strategy.batches(at), config, hooks=strategy.hooks(at), quiet=True).fit()
        strategy.end_stage(at)
        mean, variance = np.mean(own, 0), None
        if online and solved:  # one anchor with the sum of the stiffnesses
            stiff = weight * sum(f for f, _ in solved)
            optimum = (mean + stiff * solved[-1][1]) / (1 + stiff)
        else:
            stiff = weight * sum(f for f, _ in solved)
            pulled = weight * sum(f * a for f, a in solved)
            optimum = (mean + pulled) / (1 + stiff)
        np.testing.assert_allclose(point.theta.detach().numpy(), optimum, atol=2e-3)
        variance = np.mean((np.array(own) - point.theta.detach().numpy()) ** 2, 0)
        np.testing.assert_allclose(
            strategy.springs[-1].fisher["theta"] - _earlier(strategy, solved, online), variance, rtol=1e-4
        )
        solved.append((variance, point.theta.detach().numpy().copy()))
        seen.append(now)


def _earlier(strategy: Any, solved: list[Any], online: bool) -> Any:
    return sum(f for f, _ in solved) if online and solved else 0.0


def test_fisher_is_that_of_single_rows_whatever_the_batch() -> None:
    over, source = model(), Counting(3)
    parameters = dict(over.named_parameters())
    whole = source.take(np.arange(8))
    one_batch = diagonal_fisher(over, parameters, next_token, [whole])
    singles = diagonal_fisher(over, parameters, next_token, [whole.rows(i, i + 1) for i in range(8)])
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(8):
        over.zero_grad()
        next_token(over, whole.rows(i, i + 1))[0].backward()
        for name, p in parameters.items():
            total[name] += p.grad**2  # type: ignore[operator]
    over.zero_grad()
    next_token(over, whole)[0].backward()
    for name, p in parameters.items():
        torch.testing.assert_close(one_batch[name], singles[name], rtol=1e-4, atol=1e-10)
        torch.testing.assert_close(one_batch[name], total[name] / (8 * LENGTH), rtol=1e-4, atol=1e-10)
        wrong = (p.grad / 8) ** 2 / LENGTH  # type: ignore[operator]  # the square of the batch's mean gradient
        assert float(wrong.sum()) < 0.6 * float(one_batch[name].sum())


def test_stiffer_springs_move_less() -> None:
    moved = []
    for weight in (0.0, 1e3, 1e7):
        strategy = make("ewc", weight=weight, rows=16)
        journey(strategy, of=domains()[:2]).run()
        start = weights(model())
        moved.append(sum(float((p - start[name]).square().sum()) for name, p in weights(strategy.model).items()))
    assert moved[0] > moved[1] > moved[2]


def test_lwf_with_a_great_weight_stays_where_it_was() -> None:
    """Measured by what is said, not by the weights: Adam's first step has a size of its own."""

    def drift(weight: float) -> float:
        strategy = make("lwf", train_config(steps=40, grad_clip=0.0, lr=0.003), weight=weight)
        journey(strategy, of=domains()[:2]).run()
        ids = Counting(3).take(np.arange(8)).input_ids
        with torch.no_grad():
            before, after = (torch.log_softmax(m(ids), -1) for m in (model(), strategy.model))
        return float((before.exp() * (before - after)).sum(-1).mean())

    free, little, much = drift(0.0), drift(1.0), drift(1e4)
    assert much < 1e-3 < 0.2 * free
    assert much < little < free


def test_the_teachers_term_is_zero_with_its_gradient_where_the_model_is_its_teacher() -> None:
    strategy = make("lwf")
    teacher = strategy.learner.snapshot()
    batch = Counting(3).take(np.arange(4))
    results = []
    for objective in (near_teacher(teacher, 3.0), next_token):
        strategy.model.zero_grad()
        loss, count, _ = objective(strategy.model, batch)
        loss.backward()
        results.append((float(loss), int(count), {n: p.grad.clone() for n, p in strategy.model.named_parameters()}))  # type: ignore[union-attr]
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    assert results[0][1] == results[1][1]
    for name, gradient in results[0][2].items():
        torch.testing.assert_close(gradient, results[1][2][name], rtol=1e-4, atol=1e-5)


def test_the_teachers_term_counts_replayed_rows_only_and_micro_batches_change_nothing() -> None:
    student, teacher = model(0), make("lwf", over=model(1)).learner.snapshot()
    mixed = Rehearsed(Counting(3), Counting(1), 0.5, 8).batch(0)
    assert mixed.replayed is not None
    assert mixed.replayed.tolist() == [False] * 4 + [True] * 4
    with_term = near_teacher(teacher, 1.0, only_replayed=True)
    loss, _, metrics = with_term(student, mixed)
    assert float(metrics["kl"]) > 0
    parts = [with_term(student, mixed.rows(i, i + 2))[0] for i in range(0, 8, 2)]
    torch.testing.assert_close(sum(parts), loss, rtol=1e-5, atol=1e-4)
    new = mixed.rows(0, 4)
    torch.testing.assert_close(with_term(student, new)[0], next_token(student, new)[0])
    plain = near_teacher(teacher, 1.0)(student, mixed.rows(4, 8))[0]
    torch.testing.assert_close(with_term(student, mixed.rows(4, 8))[0], plain)


def test_replay_keeps_what_naive_forgets() -> None:
    longer = train_config(steps=60)
    base = model()
    Trainer(base, next_token, Counting(1), train_config(steps=150), quiet=True).fit()
    start = weights(base)
    lost = {}
    for name in ("naive", "replay", "kl_replay"):
        with torch.no_grad():
            for n, p in base.named_parameters():
                p.copy_(start[n])
        record = journey(make(name, longer, over=base, **SETTINGS.get(name, {})), of=domains()[:2]).run()
        losses = record["values"][""]["ones"]["loss"]
        lost[name] = losses[-1] - losses[0]
    assert lost["naive"] > 1.0
    assert lost["replay"] < 0.5 * lost["naive"]
    assert lost["kl_replay"] < 0.5 * lost["naive"]


def test_generative_replay_learns_every_token_but_padding() -> None:
    conversations = [([5, 6, 7, 8, 9], [False, False, True, False, True]), ([1, 2, 3], [False, False, True])]
    packed = PackedConversations(conversations, 8, 1, pad_id=0)
    batch = WholeRows(packed).take(np.array([0]))
    assert batch.input_ids[0].tolist() == [5, 6, 7, 8, 1, 2, 0, 0]
    assert batch.targets[0].tolist() == [6, 7, 8, 9, 2, 3, IGNORE, IGNORE]
    plain = Counting(3).take(np.arange(2))
    torch.testing.assert_close(WholeRows(Counting(3)).take(np.arange(2)).targets, plain.targets)


def test_generative_replay_rehearses_what_the_model_itself_writes() -> None:
    strategy = make("generative_replay", samples=6)
    texts = strategy.write(3)  # type: ignore[attr-defined]
    assert texts == strategy.write(3)  # type: ignore[attr-defined]
    assert texts != strategy.write(4)  # type: ignore[attr-defined]
    assert len(texts) == 6
    assert all(text[0] == TOKENIZER.eos_id and len(text) <= LENGTH + 1 for text in texts)
    assert strategy.stored() == {}


# ---------------------------------------------------------------- with parts of the model for each domain


def test_held_weights_stay_to_the_bit_under_every_optimizer() -> None:
    for optimizer in ("adamw", "muon"):
        over = model()
        name = "model.layers.0.mlp.up_proj.weight"
        before = over.get_parameter(name).detach().clone()
        mask = torch.rand(before.shape, generator=torch.Generator().manual_seed(0)) < 0.5
        config = train_config(optimizer=optimizer, weight_decay=0.1)
        Trainer(over, next_token, Counting(3), config, hooks=[Held({name: mask})], quiet=True).fit()
        after = over.get_parameter(name)
        assert torch.equal(after[mask], before[mask])
        assert not torch.equal(after[~mask], before[~mask])


def test_packnet_never_changes_what_a_domain_kept() -> None:
    strategy: Any = make("packnet", base_share=0.5, share=0.5)
    led = journey(strategy)
    led._stage(0)
    led._stage(1)
    owners = {name: owner.clone() for name, owner in strategy.owners.items()}
    kept, said = weights(strategy.model), {name: logits(strategy, "", name) for name in ("ones", "threes")}
    led._stage(2)
    for name, before in kept.items():
        now = strategy.model.get_parameter(name)
        if name in owners:
            mine = owners[name] <= 1
            assert torch.equal(now[mine], before[mine])
            assert torch.equal(strategy.owners[name][mine], owners[name][mine])
            counts = [int((strategy.owners[name] == number).sum()) for number in (0, 1, 2)]
            size = before.numel()
            assert counts == [round(size / 2), round(size / 4), round(size / 8)]
            assert (now[strategy.owners[name] == 255] == 0).all()
        else:
            assert torch.equal(now, before)
    for name, before in said.items():
        assert torch.equal(logits(strategy, "", name), before)
    assert not torch.equal(logits(strategy, "", "fives"), said["threes"])


def test_adapters_leave_the_base_and_each_other_as_they_were() -> None:
    strategy: Any = make("lora", views=["oracle", "perplexity"])
    base = logits(strategy, "oracle", "ones")
    hashed = weights_hash(strategy.model)
    led = journey(strategy)
    led._stage(0)
    led._stage(1)
    first = logits(strategy, "oracle", "threes")
    led._stage(2)
    assert weights_hash(strategy.model) == hashed
    assert torch.equal(logits(strategy, "oracle", "ones"), base)
    assert torch.equal(logits(strategy, "oracle", "threes"), first)
    assert not torch.equal(first, base)


def test_learned_routes_find_the_domain_where_it_shows() -> None:
    longer = train_config(steps=80)
    strategy: Any = make("lora", longer, views=["perplexity", "centroid"], adapters={"rank": 4, "alpha": 8})
    journey(strategy).run()
    for name in ("threes", "fives"):
        prompts = next(d for d in domains() if d.name == name).source.take(np.arange(100, 116)).input_ids.tolist()  # type: ignore[union-attr]
        assert strategy.route("perplexity", "unsaid", prompts).count(name) >= 14
        assert strategy.route("oracle", name, prompts) == [name] * 16


def test_the_mean_of_adapters_is_the_linear_view() -> None:
    strategy: Any = make("lora", views=["linear"])
    journey(strategy).run()
    path = "model.layers.1.mlp.up_proj"
    parts = [strategy.adapters[name].layers[path] for name in ("threes", "fives")]
    merged = strategy.adapters["merged-linear"].layers[path]
    a = sum(0.5**0.5 * layer.scale**0.5 * layer.lora_A for layer in parts)
    b = sum(0.5**0.5 * layer.scale**0.5 * layer.lora_B for layer in parts)
    torch.testing.assert_close(merged.delta(), b @ a)


def test_a_nested_stack_keeps_the_answers_below_and_sums_up() -> None:
    strategy: Any = make("nested_lora")
    led = journey(strategy)
    led._stage(0)
    led._stage(1)
    before = logits(strategy, "oracle", "threes")
    led._stage(2)
    assert torch.equal(logits(strategy, "oracle", "threes"), before)
    stacked = logits(strategy, "all", "threes")
    strategy.adapters.merge(["threes", "fives"])
    ids = Counting(3).take(np.arange(4)).input_ids
    with torch.no_grad():
        torch.testing.assert_close(strategy.model(ids), stacked, rtol=1e-4, atol=1e-4)
    strategy.adapters.unmerge()


def test_orthogonal_adapters_listen_to_other_directions() -> None:
    found = []
    for weight in (0.0, 20.0):
        strategy: Any = make("o_lora", train_config(steps=80, grad_clip=0.0), weight=weight)
        journey(strategy).run()
        found.append(overlap(strategy.adapters["threes"], strategy.adapters["fives"]))
    assert found[1] < 1e-3 < 0.2 * found[0]


def test_a_new_column_begins_as_the_base_and_later_ones_leave_it_alone() -> None:
    strategy: Any = make("progressive")
    base = logits(strategy, "", "ones")
    led = journey(strategy)
    led._stage(0)
    strategy.start_stage(stage(1))
    strategy.domains.append("threes")
    assert torch.equal(logits(strategy, "", "threes"), _base_says(3))
    strategy = make("progressive")
    led = journey(strategy)
    led._stage(0)
    led._stage(1)
    first = logits(strategy, "", "threes")
    led._stage(2)
    assert torch.equal(logits(strategy, "", "ones"), base)
    assert torch.equal(logits(strategy, "", "threes"), first)
    assert not torch.equal(first, _base_says(3))
    column = strategy.columns.columns[1]
    assert float(column.laterals[0][1].weight.abs().sum()) > 0  # the second column reads the first


@torch.no_grad()
def _base_says(step: int) -> Tensor:
    over = model().eval()
    said: Tensor = over(Counting(step).take(np.arange(4)).input_ids)
    return said


def test_columns_decode_with_a_cache_as_without() -> None:
    strategy: Any = make("progressive", train_config(steps=30))
    journey(strategy).run()
    prompts = [[3, 6, 9], [1, 6, 11, 16, 21], [7]]
    with strategy.using(2) as speaking, torch.no_grad():
        engine = Engine(speaking, TOKENIZER, max_slots=2, max_seq_len=24)
        found = [c.ids for c in engine.generate(prompts, SamplingParams(max_tokens=8, ignore_eos=True))]
        for prompt, ids in zip(prompts, found):
            whole = list(prompt)
            for _ in range(8):
                whole.append(int(speaking(torch.tensor([whole]))[0, -1].argmax()))
            assert ids == whole[len(prompt) :]
    assert strategy.model.config == model().config


def test_sparse_memory_begins_as_the_base_and_writes_to_its_slots_alone() -> None:
    strategy: Any = make("sparse_memory", **SETTINGS["sparse_memory"])
    led = journey(strategy)
    led._stage(0)
    assert torch.equal(logits(strategy, "", "threes"), _base_says(3))
    led._stage(1)
    first = strategy.table.values.detach().clone()
    written = first.abs().sum(1) > 0
    assert 0 < int(written.sum()) <= 6
    assert torch.equal(written, written & strategy.chosen)
    led._stage(2)
    changed = (strategy.table.values.detach() != first).any(1)
    assert torch.equal(changed, changed & strategy.chosen)
    assert same({n: p for n, p in weights(strategy.model).items() if not n.startswith("memory")}, weights(model()))


def test_sparse_memory_prefers_slots_that_the_old_text_does_not_read() -> None:
    strategy: Any = make("sparse_memory", **SETTINGS["sparse_memory"])
    strategy.rows_met, strategy.rows_reading = 10, torch.zeros(32)
    strategy.rows_reading[:16] = 10.0  # every old row reads these
    strategy._make_keys(stage(1))
    strategy.start_stage(stage(1))
    read = strategy._count(stage(1)).sum(0) > 0
    free = int(read[16:].sum())
    assert int(strategy.chosen[16:].sum()) >= min(6, free)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("nave", {}, "naive"),
        ("replay", {"shar": 0.5}, "share"),
        ("replay", {"share": 1.5}, "between 0 and 1"),
        ("ewc", {"train": {"learning_rate": 1}}, "learning_rate"),
        ("ewc", {"weight": "much"}, "weight"),
        ("lora", {"views": ["tie"]}, "ties"),
        ("lora", {"adapter": True}, "own adapters"),
        ("packnet", {"share": 0.0}, "between 0 and 1"),
        ("sparse_memory", {"slots": 4, "slots_a_domain": 5}, "slots_a_domain"),
        ("replay", {"bytes": 10}, "holds no row"),
    ],
)
def test_wrong_settings_are_told_in_one_line(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as e:
        make(name, **settings)
    assert "\n" not in str(e.value)
