"""Adapters on a model: rows of a batch with their own, nesting, merging, and a base that never changes."""

import asyncio
import contextlib
import copy
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.adapt.attach import Adapters, Row, weights_hash
from nanohydra.adapt.config import AdapterConfig
from nanohydra.adapt.linear import linear_layers
from nanohydra.adapt.nf4 import NF4Linear
from nanohydra.adapt.qlora import quantize_base
from nanohydra.data.batch import Batch
from nanohydra.errors import UserError
from nanohydra.infer.cache import KVCache
from nanohydra.infer.quantize import pack, quantize
from nanohydra.model.config import ModelConfig
from nanohydra.model.families import to_native
from nanohydra.model.transformer import Transformer
from nanohydra.train.config import TrainConfig
from nanohydra.train.hooks import Hook
from nanohydra.train.objectives import next_token
from nanohydra.train.run import Run
from nanohydra.train.trainer import Trainer

SHAPE = ModelConfig(
    vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, init="normal"
)
CONFIGS = {
    "lora": AdapterConfig(rank=4),
    "attention": AdapterConfig(rank=2, rslora=True, target_modules=("q_proj", "v_proj")),
    "top": AdapterConfig(rank=6, top_layers=1),
    "dora": AdapterConfig(rank=4, dora=True),
    "loha": AdapterConfig(rank=2, method="loha"),
    "lokr": AdapterConfig(rank=2, method="lokr"),
    "mixed": AdapterConfig(rank=3, rank_pattern={"up_proj": 5}, alpha_pattern={"k_proj": 4.0}),
}
STACKS: list[Row] = [None, *CONFIGS, ("lora", "dora"), ("dora", "lora"), ("top", "loha", "dora")]


def make_model(seed: int = 0, **settings: object) -> Transformer:
    torch.manual_seed(seed)
    return Transformer(ModelConfig.from_dict({**SHAPE.to_dict(), "attention_bias": True, **settings})).eval()


def shake(adapter: torch.nn.Module, seed: int = 1, size: float = 0.05) -> None:
    """Moves every value away from its start, where an adapter does nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in adapter.parameters():
            p += size * torch.randn(p.shape, generator=generator)


def full_set(model: Transformer) -> Adapters:
    adapters = Adapters(model)
    for i, (name, config) in enumerate(CONFIGS.items()):
        shake(adapters.create(name, config, seed=i), seed=i)
        adapters.freeze(name)
    return adapters


def full_set_like(model: Transformer, other: Adapters) -> Adapters:
    """The same adapters on another model."""
    adapters = Adapters(model)
    for name in other.names:
        adapters.add(name, copy.deepcopy(other[name]))
    return adapters


@pytest.fixture(scope="module")
def hydra() -> tuple[Transformer, Adapters]:
    model = make_model()
    return model, full_set(model)


IDS = torch.randint(0, 61, (12, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(adapters: Adapters, model: Transformer, row: Row, ids: torch.Tensor) -> torch.Tensor:
    with adapters.using(row):
        return model(ids)


# --- rows of one batch -----------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(STACKS), min_size=1, max_size=6))
def test_mixed_batch_equals_one_by_one(hydra: tuple[Transformer, Adapters], rows: Sequence[Row]) -> None:
    model, adapters = hydra
    ids = IDS[: len(rows)]
    with torch.no_grad(), adapters.rows(rows):
        together = model(ids)
    base = model(ids)
    for i, row in enumerate(rows):
        alone = logits(adapters, model, row, ids[i : i + 1])[0]
        assert torch.allclose(together[i], alone, atol=1e-5)
        if row is None:
            assert torch.equal(together[i], base[i])
        else:
            assert not torch.allclose(together[i], base[i], atol=1e-2)


def test_rows_without_adapters_are_the_base_to_the_bit(hydra: tuple[Transformer, Adapters]) -> None:
    model, adapters = hydra
    base = model(IDS)
    with torch.no_grad(), adapters.rows([None] * 12):
        assert torch.equal(model(IDS), base)
    with torch.no_grad(), adapters.rows([*CONFIGS, *[None] * 5]):
        mixed = model(IDS)
    assert torch.equal(mixed[7:].view(torch.int32), base[7:].view(torch.int32))


def test_a_base_is_saved_without_its_adapters(hydra: tuple[Transformer, Adapters]) -> None:
    model, _ = hydra
    _, state = to_native(model)
    assert state.keys() == to_native(make_model())[1].keys()


def test_decoding_with_a_cache_equals_whole_sequences(hydra: tuple[Transformer, Adapters]) -> None:
    model, adapters = hydra
    rows: list[Row] = ["lora", None, "dora", "loha"]
    cache = KVCache(model.config, slots=4)
    slots = [cache.allocate() for _ in rows]
    with torch.no_grad(), adapters.rows(rows):
        whole = model(IDS[:4])
        steps = [model(IDS[:4, :5], cache=cache.rows(slots))]
        steps += [model(IDS[:4, i : i + 1], cache=cache.rows(slots)) for i in range(5, 9)]
    assert torch.allclose(torch.cat(steps, 1), whole, atol=1e-5)


def test_bf16_base(hydra: tuple[Transformer, Adapters]) -> None:
    model = make_model().to(torch.bfloat16)
    adapters = full_set(model)
    rows: list[Row] = ["lora", None, "dora", ("lora", "dora")]
    base = model(IDS[:4])
    with torch.no_grad(), adapters.rows(rows):
        mixed = model(IDS[:4])
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed[1], base[1])
    exact_model, exact = hydra
    for i, row in enumerate(rows):
        want = logits(exact, exact_model, row, IDS[i : i + 1])[0]
        assert (mixed[i].float() - want).norm() < 0.03 * want.norm()
    model.float()  # what was gathered for bf16 must not be used now
    with torch.no_grad(), adapters.rows(rows):
        assert model(IDS[:4]).dtype == torch.float32


def test_packed_and_int8_bases(hydra: tuple[Transformer, Adapters]) -> None:
    exact_model, exact = hydra
    packed_model, int8_model = pack(make_model()), quantize(make_model())
    packed = full_set_like(packed_model, exact)
    rows: list[Row] = [*CONFIGS, None]
    with torch.no_grad(), exact.rows(rows):
        want = exact_model(IDS[:8])
    with torch.no_grad(), packed.rows(rows):
        assert torch.allclose(packed_model(IDS[:8]), want, atol=1e-5)
    with torch.no_grad(), packed.using("dora"):
        assert torch.allclose(packed_model(IDS[3:4])[0], want[3], atol=1e-5)
    with pytest.raises(UserError, match="packed"):
        packed.merge("lora")

    int8 = full_set_like(int8_model, exact)
    base = int8_model(IDS[:2])
    with torch.no_grad(), int8.rows(["lora", None]):
        mixed = int8_model(IDS[:2])
    assert (mixed[0] - want[0]).norm() < 0.05 * want[0].norm()
    assert torch.equal(mixed[1], base[1])
    with pytest.raises(UserError, match="int8"), torch.no_grad(), int8.rows(["dora"]):  # needs the weights themselves
        pass


def test_a_higher_rank_and_new_paths_may_come_later() -> None:
    model = make_model()
    adapters = Adapters(model)
    shake(adapters.create("small", AdapterConfig(rank=1, target_modules=("v_proj",))))
    adapters.freeze("small")
    with torch.no_grad(), adapters.rows(["small", None]):
        before = model(IDS[:2])
    shake(adapters.create("large", AdapterConfig(rank=9)))
    adapters.freeze("large")
    with torch.no_grad(), adapters.rows(["small", "large"]):
        after = model(IDS[:2])
    assert torch.allclose(before[0], after[0], atol=1e-6)
    assert torch.allclose(after[1], logits(adapters, model, "large", IDS[1:2])[0], atol=1e-5)


def test_rows_follow_an_adapter_in_training() -> None:
    model = make_model()
    adapters = Adapters(model)
    adapter = adapters.create("new", AdapterConfig(rank=2))
    for seed in range(3):
        shake(adapter, seed)
        with torch.no_grad(), adapters.rows(["new", None]):
            assert torch.allclose(model(IDS[:2])[0], logits(adapters, model, "new", IDS[:1])[0], atol=1e-5)
    with pytest.raises(ValueError, match="no gradients"), adapters.rows(["new"]):
        model(IDS[:1])


def test_wrong_number_of_rows_is_refused(hydra: tuple[Transformer, Adapters]) -> None:
    model, adapters = hydra
    for rows in (["lora", "dora"], ["lora", None]):
        with torch.no_grad(), adapters.rows(rows), pytest.raises(ValueError, match="3 rows"):
            model(IDS[:3])


def test_unknown_adapter_is_one_clear_line(hydra: tuple[Transformer, Adapters]) -> None:
    _, adapters = hydra
    with pytest.raises(UserError, match='Did you mean "lora"'), adapters.rows(["lorra"]):
        pass


def test_threads_and_tasks_do_not_see_each_other(hydra: tuple[Transformer, Adapters]) -> None:
    model, adapters = hydra
    names = list(CONFIGS)
    want = {name: logits(adapters, model, name, IDS[:2]) for name in names}
    wrong: list[str] = []
    barrier = threading.Barrier(len(names))

    def request(name: str) -> None:
        with torch.no_grad(), adapters.rows([name, name]):
            barrier.wait()  # all are inside their context at once
            for _ in range(3):
                if not torch.allclose(model(IDS[:2]), want[name], atol=1e-5):
                    wrong.append(name)

    threads = [threading.Thread(target=request, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []

    async def task(name: str) -> bool:
        with adapters.rows([name, name]):
            await asyncio.sleep(0.01)
            with torch.no_grad():  # a thread's, not a task's: it must not last over an await
                return torch.allclose(model(IDS[:2]), want[name], atol=1e-5)

    async def all_tasks() -> list[bool]:
        return await asyncio.gather(*map(task, names))

    assert all(asyncio.run(all_tasks()))


# --- nesting and merging ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", STACKS, ids=str)
def test_merged_equals_unmerged(hydra: tuple[Transformer, Adapters], row: Row) -> None:
    model, adapters = hydra
    before = weights_hash(model)
    want = logits(adapters, model, row, IDS)
    adapters.merge(row)
    try:
        assert torch.allclose(model(IDS), want, atol=1e-5)
        if row is not None:
            with pytest.raises(UserError, match="unmerge"), adapters.rows(["lora"]):
                pass
    finally:
        adapters.unmerge()
    assert weights_hash(model) == before


def test_order_of_nested_adapters_counts(hydra: tuple[Transformer, Adapters]) -> None:
    model, adapters = hydra
    a, b = (logits(adapters, model, row, IDS) for row in (("lora", "dora"), ("dora", "lora")))
    assert not torch.allclose(a, b, atol=1e-3)
    # Applying one after the other to the weights is what the order means.
    linears = linear_layers(model)
    path = "model.layers.1.mlp.up_proj"
    weight = linears[path].weight
    for name in ("dora", "lora"):
        weight = adapters[name].layers[path].merged(weight)
    adapters.merge(("dora", "lora"))
    assert torch.allclose(linears[path].weight, weight, atol=1e-6)
    adapters.unmerge()


def test_an_adapter_over_another_starts_as_the_other(tmp_path: Path) -> None:
    model = make_model()
    adapters = Adapters(model)
    shake(adapters.create("below", CONFIGS["lora"]))
    with pytest.raises(UserError, match="save"):
        adapters.create("early", CONFIGS["dora"], over=("below",))
    adapters.freeze("below")
    adapters.save("below", f"{tmp_path}/below")
    for name in ("lora", "dora", "lokr"):
        adapters.create(f"over-{name}", CONFIGS[name], over=("below",))
        want = logits(adapters, model, "below", IDS)
        assert torch.allclose(logits(adapters, model, f"over-{name}", IDS), want, atol=1e-5)
    adapters.save("over-dora", f"{tmp_path}/over")
    adapters.close()

    fresh = Adapters(model)
    name = fresh.load(f"{tmp_path}/over")
    with pytest.raises(UserError, match="load that one first"), fresh.using(name):
        pass
    below = fresh.load(f"{tmp_path}/below")
    assert fresh.resolve(name) == (below, name)


def test_tied_weights_and_4_bit_weights_cannot_be_merged_into() -> None:
    model = make_model(tie_word_embeddings=True)
    adapters = Adapters(model)
    adapters.create("head", AdapterConfig(target_modules=("lm_head",)))
    with pytest.raises(UserError, match="shared with"):
        adapters.merge("head")
    adapters.close()
    quantize_base(model)
    adapters = Adapters(model)
    adapters.create("a", AdapterConfig(rank=2))
    with pytest.raises(UserError, match="4-bit"):
        adapters.merge("a")


# --- training, and the base ------------------------------------------------------------------------------------------


class Rows:
    """A source that repeats one batch."""

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Batch:
        return Batch(IDS[:4, :-1], IDS[:4, 1:])


@pytest.fixture
def fresh() -> tuple[Transformer, Adapters]:
    model = make_model()
    return model, Adapters(model)


@pytest.mark.parametrize(("name", "dtype"), [*((name, "fp32") for name in CONFIGS), ("lora", "bf16"), ("dora", "bf16")])
def test_training_changes_adapters_only(fresh: tuple[Transformer, Adapters], name: str, dtype: str) -> None:
    model, adapters = fresh
    before = weights_hash(model)
    adapter = adapters.create(name, CONFIGS[name])
    start = {k: v.clone() for k, v in adapter.state_dict().items()}
    adapters.select(name)
    config = TrainConfig(steps=8, batch_size=4, lr=1e-2, weight_decay=0.0, dtype=dtype, warmup=0.0)  # type: ignore[arg-type]
    trainer = Trainer(model, next_token, Rows(), config, quiet=True)
    first = next_token(model, Rows().batch(0))[0].item()
    trainer.fit()
    assert set(trainer.parameters) == {f"adapters.{name}.{k}" for k in start}
    assert next_token(model, Rows().batch(0))[0].item() < first - 1
    moved = [k for k, v in adapter.state_dict().items() if not torch.equal(v, start[k])]
    assert len(moved) == len(start)
    assert weights_hash(model) == before
    adapters.close()
    assert weights_hash(model) == before
    assert all(p.requires_grad for p in model.parameters())


def test_frozen_lower_part_has_no_graph(fresh: tuple[Transformer, Adapters]) -> None:
    model, adapters = fresh
    adapters.create("top", AdapterConfig(rank=2, top_layers=1))
    recorded: list[bool] = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, args, out: recorded.append(out.requires_grad))
    with adapters.using("top"):
        model(IDS).sum().backward()
    assert recorded == [False, True]
    assert all(p.grad is None for n, p in model.named_parameters() if not n.startswith("adapters."))
    assert all(p.grad is not None for p in adapters.parameters())


def test_only_the_upper_of_two_nested_adapters_is_trained(fresh: tuple[Transformer, Adapters]) -> None:
    model, adapters = fresh
    shake(adapters.create("below", CONFIGS["lora"]))
    adapters.freeze("below")
    adapters.create("above", CONFIGS["dora"])
    with adapters.using(("below", "above")):
        model(IDS).sum().backward()
    assert all(p.grad is None for p in adapters["below"].parameters())
    assert all(p.grad is not None for p in adapters["above"].parameters())


def test_activation_checkpointing_gives_the_same_gradients(fresh: tuple[Transformer, Adapters]) -> None:
    model, adapters = fresh
    shake(adapters.create("a", CONFIGS["lora"]))
    adapters.select("a")
    gradients = []
    for on in (False, True):
        model.activation_checkpointing = on
        model(IDS).square().mean().backward()
        gradients.append([p.grad.clone() for p in adapters.parameters() if p.grad is not None])
        adapters.zero_grad()
    assert len(gradients[0]) > 0
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_seed_decides_the_start() -> None:
    states = [Adapters(make_model()).create("a", CONFIGS["lora"], seed=s).state_dict() for s in (1, 1, 2)]
    key = next(k for k in states[0] if k.endswith("lora_A"))
    assert torch.equal(states[0][key], states[1][key])
    assert not torch.equal(states[0][key], states[2][key])


def test_names(fresh: tuple[Transformer, Adapters]) -> None:
    model, adapters = fresh
    adapters.create("a-1", CONFIGS["top"])
    for bad in ("a-1", "a.b", "", "base", "training"):
        with pytest.raises(UserError):
            adapters.create(bad, CONFIGS["top"])
    with pytest.raises(ValueError, match="already"):
        Adapters(model)
    adapters.select("a-1")
    adapters.remove("a-1")
    assert adapters.names == []
    assert torch.equal(model(IDS), make_model()(IDS))


def test_removed_adapter_is_gone_from_what_was_gathered(fresh: tuple[Transformer, Adapters]) -> None:
    model, adapters = fresh
    for seed in (1, 2):
        shake(adapters.create("a", CONFIGS["lora"]), seed)
        adapters.freeze("a")
        with torch.no_grad(), adapters.rows(["a", None]):
            assert torch.allclose(model(IDS[:2])[0], logits(adapters, model, "a", IDS[:1])[0], atol=1e-5)
        adapters.remove("a")


def test_works_over_4_bit_weights() -> None:
    model = make_model()
    quantize_base(model)
    assert isinstance(model.model.layers[0].mlp.up_proj, NF4Linear)
    adapters = full_set(model)
    rows: list[Row] = ["lora", None, "dora"]
    with torch.no_grad(), adapters.rows(rows):
        mixed = model(IDS[:3])
    for i, row in enumerate(rows):
        assert torch.allclose(mixed[i], logits(adapters, model, row, IDS[i : i + 1])[0], atol=1e-5)


def test_a_loaded_adapter_can_be_trained_on(fresh: tuple[Transformer, Adapters], tmp_path: Path) -> None:
    model, adapters = fresh
    shake(adapters.create("a", CONFIGS["lora"]))
    saved = adapters.save("a", tmp_path / "a")
    assert all(not p.requires_grad for p in adapters["a"].parameters())
    name = adapters.load(tmp_path / "a", "b")
    adapters.unfreeze(name)
    assert adapters[name].id is None
    adapters.select(name)
    first = next_token(model, Rows().batch(0))[0].item()
    config = TrainConfig(steps=4, batch_size=4, lr=1e-2, dtype="fp32")
    Trainer(model, next_token, Rows(), config, quiet=True).fit()
    assert next_token(model, Rows().batch(0))[0].item() < first
    assert adapters.save(name, tmp_path / "b") != saved
    assert adapters.save("a", tmp_path / "c") == saved


class Stop(Hook):
    """Ends the process's work after a step, as a kill would, and notes where it began."""

    def __init__(self, step: int) -> None:
        self.step, self.began = step, -1

    def on_start(self, trainer: Trainer) -> None:
        self.began = trainer.step

    def after_step(self, trainer: Trainer) -> None:
        if trainer.step == self.step:
            raise KeyboardInterrupt


def test_killed_training_of_an_adapter_resumes_exactly(tmp_path: Path) -> None:
    def train(run: Run, stop: Stop) -> dict[str, torch.Tensor]:
        model = make_model()
        adapters = Adapters(model)
        adapters.create("a", CONFIGS["dora"])
        adapters.select("a")
        config = TrainConfig(steps=6, batch_size=4, lr=1e-2, dtype="fp32", save_every=2)
        with contextlib.suppress(KeyboardInterrupt):
            Trainer(model, next_token, Rows(), config, run, [stop], quiet=True).fit()
        return adapters.state_dict()

    whole = train(Run.create(tmp_path / "whole", {}), Stop(-1))
    train(Run.create(tmp_path / "killed", {}), Stop(3))
    resumed = train(Run.open(tmp_path / "killed"), again := Stop(-1))
    assert again.began == 2
    for key, value in whole.items():
        assert torch.equal(resumed[key], value)
