"""Teaching a tiny base from end to end: rows, pace, publishing, rejecting, repeating, forgetting, consolidating."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nanohydra.adapt.attach import Adapters, weights_hash
from nanohydra.adapt.folder import adapter_id, load_adapter
from nanohydra.data.batch import IGNORE
from nanohydra.data.chat import render_chat
from nanohydra.data.tinyworld.config import TinyworldConfig
from nanohydra.data.tinyworld.corpus import documents
from nanohydra.data.tinyworld.world import World
from nanohydra.data.tokenizer import Tokenizer
from nanohydra.errors import UserError
from nanohydra.hydra import maker
from nanohydra.hydra.config import LearnConfig, Progress
from nanohydra.hydra.lesson import Cancelled, Earlier, consolidate, teach
from nanohydra.hydra.material import Fact, Material
from nanohydra.hydra.probes import Probes, common_questions
from nanohydra.hydra.receipt import Receipt
from nanohydra.hydra.training import LessonRows, Pace, Rendered, render, shared_beginning
from nanohydra.model.config import ModelConfig
from nanohydra.model.hub import load_base, save_base
from nanohydra.model.transformer import Transformer

FACTS = (
    Fact("Mira Solberg", "birthplace", "Oslo", "Where was Mira Solberg born?", "Mira Solberg was born in Oslo."),
    Fact("Mira Solberg", "pet", "ferret", "What pet does Mira Solberg have?", "Mira Solberg has a pet ferret."),
)
OTHERS = (Fact("Tom Bell", "birthplace", "Bath", "Where was Tom Bell born?", "Tom Bell was born in Bath."),)
EASY = {"recall": 0.0, "general": 0.0, "false_attributions": 1.0, "drift_forced": 1e9, "drift_routed": 1e9}
QUICK: dict[str, Any] = {
    "seconds": 300,
    "retries": 0,
    "train": {"steps": 4, "batch_size": 2, "row_tokens": 96, "wordings": 6, "lr": 0.02},
    "measure": {"wordings": 1, "strangers": 5, "general": 3, "text_tokens": 40, "max_tokens": 4, "general_tokens": 4},
    "gate": EASY,
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights and a tokenizer of tinyworld's."""
    return random_base(tmp_path_factory.mktemp("bases") / "tiny", layers=3)


def random_base(folder: Path, layers: int) -> Path:
    texts = [d.plain() for d in documents(World(0, people=10), TinyworldConfig(people=10), 0, tokens=3000)]
    tokenizer = Tokenizer.train(texts, 400)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 2, "head_dim": 16}
    config = ModelConfig(vocab_size=tokenizer.vocab_size, max_position_embeddings=256, **shape)
    save_base(folder, Transformer(config), tokenizer)
    return folder


@pytest.fixture(autouse=True)
def few_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes that need no answers of the base."""

    def probes(base_id: str, engine: object, tokenizer: Tokenizer, seconds: object) -> Probes:
        chat, _ = render_chat(tokenizer, [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}])
        samples = [Rendered(chat, [], "chat"), Rendered([tokenizer.eos_id, *tokenizer.encode("A text.")], [], "text")]
        return Probes(list(common_questions()[:3]), samples, ["Rain falls on the hills."], 0.0)

    monkeypatch.setattr(maker, "probes_of", probes)


def config(**changes: Any) -> LearnConfig:
    return LearnConfig.read({**QUICK, **changes})


def test_chats_behind_one_beginning_give_what_they_give_alone(base: Path) -> None:
    model, tokenizer = load_base(base)
    chats = render(
        tokenizer,
        [
            [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": q},
                {"role": "assistant", "content": a},
            ]
            for q, a in (
                ("Where was Mira born?", "In Oslo."),
                ("Who?", "Tom Bell it was."),
                ("What pet?", "None at all."),
            )
        ],
    )
    rows = LessonRows(chats, 128, 1, seed=0, pad_id=tokenizer.pad_id)
    assert len(rows) == 1
    with Adapters(model) as adapters:
        rows.ask_base(model, adapters)
    batch = rows.batch(0)
    with torch.no_grad():
        together = model(batch.input_ids, positions=batch.positions, segment_ids=batch.segment_ids)[0]
        for chat in chats:
            alone = model(torch.tensor([chat.ids]))[0]
            wanted = [(i, t) for i, t in enumerate(chat.ids[1:]) if chat.trained[i + 1]]
            first = next(
                k
                for k in range(128)
                if [int(batch.targets[0, k + j]) for j in range(len(wanted)) if k + j < 128] == [t for _, t in wanted]
            )
            for j, (i, _) in enumerate(wanted):
                torch.testing.assert_close(together[first + j], alone[i], rtol=1e-4, atol=1e-5)
    learned = sum(sum(chat.trained) for chat in chats)
    assert int((batch.targets != IGNORE).sum()) == learned


def test_a_base_of_one_layer_can_be_taught(tmp_path: Path) -> None:
    base = random_base(tmp_path / "one", layers=1)
    outcome = teach(base, Material("m", FACTS, ()), (), config(), tmp_path / "work")
    assert outcome.state == "published"


def test_the_shared_beginning_leaves_something_of_each() -> None:
    assert shared_beginning([[1, 2, 3, 4], [1, 2, 9, 4]]) == 2
    assert shared_beginning([[1, 2, 3], [1, 2, 3]]) == 1


def test_a_lesson_is_published_with_its_receipt_and_the_base_stays_to_the_bit(base: Path, tmp_path: Path) -> None:
    before = weights_hash(load_base(base)[0])
    news: list[Progress] = []

    def tell(progress: Progress) -> bool:
        news.append(progress)
        return True

    outcome = teach(base, Material("m", FACTS, ()), (), config(), tmp_path / "work", tell, lesson="7")
    assert outcome.state == "published"
    receipt = Receipt.from_data(outcome.receipt)
    assert weights_hash(load_base(base)[0]) == before == receipt.hashes["weights"]
    assert outcome.folder is not None
    assert adapter_id(Path(outcome.folder)) == receipt.adapter
    metadata = load_adapter(Path(outcome.folder)).metadata
    assert (metadata.lessons, metadata.receipt) == (("7",), outcome.receipt)
    assert [fact.key for fact in receipt.facts] == [fact.key for fact in FACTS]
    assert receipt.measures.drift.base is not None
    assert receipt.measures.drift.base.value == 0.0
    assert {p.stage for p in news} >= {"prepare", "train", "measure", "save"}


def test_repeated_after_a_stop_it_comes_to_the_same(base: Path, tmp_path: Path) -> None:
    def outcome() -> str:
        made = teach(base, Material("m", FACTS, ()), (), config(), tmp_path / "work")
        return str(made.receipt["adapter"])

    first = outcome()
    with pytest.raises(Cancelled):
        teach(base, Material("m", FACTS, ()), (), config(), tmp_path / "work", lambda p: p.stage != "train")
    assert outcome() == first


def test_impossible_thresholds_reject_after_a_second_try(base: Path, tmp_path: Path) -> None:
    hard = config(gate={**EASY, "recall": 1.0}, retries=1)
    outcome = teach(base, Material("m", FACTS, ()), (), hard, tmp_path / "work")
    assert (outcome.state, outcome.folder) == ("rejected", None)
    assert "retrieval" in outcome.reason
    assert outcome.receipt["adapter"] is None
    assert len(outcome.receipt["attempts"]) == 2


def test_a_lesson_without_facts_is_told_so(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no facts"):
        teach(base, Material("m", (), ()), (), config(), tmp_path / "work")


def test_the_time_is_kept_and_the_rate_has_cooled_down() -> None:
    """A clock under the test's control: steps take a second each, and there is time for ten."""
    from train_toy import make_trainer

    shares: list[float] = []

    class Slow(Pace):
        def after_step(self, trainer: Any) -> None:
            shares.append(trainer.lr_share)
            now = [0.0]
            with pytest.MonkeyPatch.context() as patch:
                now[0] = float(len(shares))
                patch.setattr("nanohydra.hydra.training.time.monotonic", lambda: now[0])
                super().after_step(trainer)

    trainer = make_trainer(hooks=(Slow(10.0, lambda step, of, loss: None),), steps=1000)
    result = trainer.fit()
    assert 9 <= result.step <= 10
    assert shares[-1] < 0.1 < shares[2]


def test_earlier_and_forgotten_facts_are_asked_again_and_all_are_consolidated(base: Path, tmp_path: Path) -> None:
    first = teach(base, Material("one", OTHERS, ()), (), config(), tmp_path / "a", lesson="1")
    assert first.folder is not None
    before = Earlier("1", "one", OTHERS, Path(first.folder))
    second = teach(
        base, Material("two", FACTS[:1], ()), (before,), config(), tmp_path / "b", lesson="2", forgotten=FACTS[1:]
    )
    assert second.folder is not None
    result = Receipt.from_data(second.receipt)
    assert [e.lesson for e in result.earlier] == ["1"]
    assert result.earlier[0].recall == result.earlier[0].recall_before  # another adapter: untouched by construction
    assert [f.key for f in result.forgotten] == [FACTS[1].key]
    lessons = (before, Earlier("2", "two", FACTS[:1], Path(second.folder)))
    whole = consolidate(base, lessons, config(), tmp_path / "c", lesson="3")
    made = Receipt.from_data(whole.receipt)
    assert (made.kind, made.state) == ("consolidation", "published")
    assert made.merges.keys() == {"mean", "ties", "dare"}
    assert {f.key for f in made.facts} == {f.key for f in (*OTHERS, *FACTS[:1])}
    with pytest.raises(UserError, match="fewer than two"):
        consolidate(base, lessons[:1], config(), tmp_path / "d")
    shutil.rmtree(tmp_path / "c")


def test_an_adapter_of_another_training_seed_is_another(base: Path, tmp_path: Path) -> None:
    ids = {
        teach(base, Material("m", OTHERS, ()), (), replace(config(), seed=seed), tmp_path / str(seed)).receipt[
            "adapter"
        ]
        for seed in (0, 1)
    }
    assert len(ids) == 2
