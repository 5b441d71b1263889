"""Whole jobs at toy size: recipes are repeatable and resumable, splits never mix, fine-tuning reads the usual layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nanohydra.data.config import CorpusConfig, QualityConfig, ShardConfig
from nanohydra.data.tinyworld.config import ExamConfig
from nanohydra.data.tinyworld.documents import Document
from nanohydra.data.tinyworld.exam import exam
from nanohydra.data.tokens import Tokens
from nanohydra.errors import UserError
from nanohydra.jobs.config import DataSection, Recipe, SftRecipe, set_dotted
from nanohydra.jobs.data import learned, prepare, world_chats, world_of
from nanohydra.jobs.sft import conversation, run_sft
from nanohydra.jobs.shards import prepare_shards
from nanohydra.jobs.train import execute, run_recipe, train
from nanohydra.model.hub import load_base

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 256}


def toy(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "model": {"preset": "tiny-0.5m", "config": SMALL},
        "data": {"seq_len": 32, "vocab_size": 300, "world_tokens": 6000, "validation_share": 0.2},
        "train": {"steps": 4, "batch_size": 2},
    }
    for key, value in changes.items():
        set_dotted(values, key.replace("__", "."), value)
    return Recipe.from_dict(values)


def test_a_recipe_survives_its_yaml_form() -> None:
    recipe = toy(model__config__positions="alibi", data__tinyworld__people=12)
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(UserError, match="poeple"):
        toy(data__tinyworld__poeple=3)
    with pytest.raises(UserError, match="train"):
        Recipe.from_dict({})


def test_same_recipe_same_losses_and_another_seed_another_world(tmp_path: Path) -> None:
    first = run_recipe(toy(), tmp_path / "a", quiet=True)
    again = run_recipe(toy(), tmp_path / "b", quiet=True)
    other = run_recipe(toy(seed=1), tmp_path / "c", quiet=True)
    assert first.result.loss == again.result.loss
    assert first.estimates["val_loss"] == again.estimates["val_loss"]
    assert first.result.loss != other.result.loss
    assert world_of(toy().data, 0).people[0] != world_of(toy().data, 1).people[0]


def test_a_finished_run_is_opened_again_and_another_recipe_is_refused(tmp_path: Path) -> None:
    first = run_recipe(toy(), tmp_path, quiet=True)
    assert run_recipe(toy(), tmp_path, quiet=True).result.loss == first.result.loss
    with pytest.raises(UserError, match="another recipe"):
        run_recipe(toy(train__steps=5), tmp_path, quiet=True)


def test_the_saved_base_is_the_trained_model(tmp_path: Path) -> None:
    trained = run_recipe(toy(), tmp_path, quiet=True)
    model, tokenizer = load_base(tmp_path / "base")
    assert tokenizer.id == trained.prepared.tokenizer.id
    for name, tensor in trained.model.state_dict().items():
        assert np.array_equal(tensor.numpy(), model.state_dict()[name].numpy()), name


def test_fine_tuning_after_the_training_takes_part_in_the_recipe(tmp_path: Path) -> None:
    recipe = toy(sft={"steps": 2, "batch_size": 2}, sft_tokens=1500, eval__exam=1, data__seq_len=128)
    trained = run_recipe(recipe, tmp_path, quiet=True)
    assert (tmp_path / "sft" / "metrics.jsonl").read_text().count("\n") == 2
    assert trained.graded
    assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_execute_gives_a_lab_its_numbers(tmp_path: Path) -> None:
    recipe = toy(eval__exam=1)
    result = execute(recipe.to_dict(), tmp_path)
    assert {"val_loss", "val_bits_per_byte", "recall_unseen_wordings"} <= result["metrics"].keys()
    assert result["tokens"] == 4 * 2 * 32
    assert result["flops"] > 6 * result["parameters"] * 0.1 * result["tokens"]
    items = [json.loads(line) for line in (tmp_path / "items.jsonl").read_text().splitlines()]
    assert items
    assert all(value in (0.0, 1.0) for row in items for name, value in row.items() if name != "item")


def test_watching_changes_nothing_and_leaves_its_files(tmp_path: Path) -> None:
    plain = train(toy(train__steps=10), tmp_path / "plain", quiet=True)
    watched = train(toy(train__steps=10, watch={"diagnostics": 2, "profile": True}), tmp_path / "watched", quiet=True)
    assert plain["val_loss"] == watched["val_loss"]
    assert (tmp_path / "watched" / "diagnostics.jsonl").read_text().count("\n") >= 5
    assert list((tmp_path / "watched" / "profile").iterdir())


def test_a_diverged_run_says_so(tmp_path: Path) -> None:
    recipe = toy(train__lr=1e18, train__steps=50, train__grad_clip=0.0, train__warmup=0.0, train__dtype="fp32")
    result = execute(recipe.to_dict(), tmp_path)
    assert result["status"] == "diverged"
    assert "step" in result["reason"]


def test_validation_text_is_never_trained_on(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text(" ".join(f"word{i:05d}" for i in range(4000)))
    data = DataSection(corpus=str(file), tokenizer="characters", validation_share=0.25)
    prepared = prepare(data, 0)
    assert isinstance(prepared.train, Tokens)
    assert isinstance(prepared.validation, Tokens)
    train, held_out = (
        prepared.tokenizer.decode(part.slice(0, len(part)).tolist(), skip_special=True)
        for part in (prepared.train, prepared.validation)
    )
    assert train + held_out == file.read_text()
    assert len(held_out) == pytest.approx(0.25 * len(file.read_text()), abs=1)
    assert prepared.validation_bytes == len(held_out)


@pytest.mark.parametrize("words", [1, 31, 32, 33, 100])
def test_every_token_of_a_long_text_is_predicted_once(words: int) -> None:
    tokenizer = prepare(toy().data, 0).tokenizer
    document = Document("stories", text=" ".join(["word"] * words))
    pieces = learned(tokenizer, document, 32)
    predicted = [i for ids, _ in pieces for i in ids[1:]]
    assert predicted == [*tokenizer.encode(document.text), tokenizer.eos_id]
    assert all(len(ids) <= 33 for ids, _ in pieces)


def test_no_exam_question_is_in_the_training_text() -> None:
    """The same recipe makes both: no question of the exam, of any kind, stands in the text or in the fine-tuning."""
    recipe = toy(data__world_tokens=150_000, data__tinyworld__people=20, sft_tokens=30_000)
    world = world_of(recipe.data, recipe.seed)
    prepared = prepare(recipe.data, recipe.seed)
    assert isinstance(prepared.train, list)
    text = "\n".join(prepared.tokenizer.decode(ids) for ids, _ in prepared.train)
    text += "\n".join(str(message["content"]) for chat in world_chats(recipe, prepared.tokenizer) for message in chat)
    items = exam(world, ExamConfig(items=60), seed=recipe.seed + 1, training=recipe.data.tinyworld)
    kinds = {item.kind for item in items if item.question in text}
    assert not kinds, kinds


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"instruction": "Q", "input": "", "output": "A"},
        {"instruction": "Q", "context": None, "response": "A"},
        {"question": "Q", "answer": "A"},
        {"prompt": "Q", "completion": "A"},
    ],
)
def test_conversations_in_the_usual_layouts(row: dict[str, Any]) -> None:
    assert conversation(row, "here") == [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


def test_a_row_that_is_no_conversation_is_named() -> None:
    with pytest.raises(UserError, match=r"file, line 3.*speech"):
        conversation({"speech": "hello"}, "file, line 3")


def test_sft_changes_the_base_on_the_answers(tmp_path: Path) -> None:
    run_recipe(toy(), tmp_path / "base_run", quiet=True)
    rows = [{"instruction": f"Say {i}", "output": f"It is {i}."} for i in range(20)]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = SftRecipe.from_dict(
        {
            "base": str(tmp_path / "base_run" / "base"),
            "data": str(tmp_path / "chats.jsonl"),
            "seq_len": 64,
            "train": {"steps": 12, "batch_size": 2, "lr": 0.01},
        }
    )
    result = run_sft(recipe, tmp_path / "sft")
    losses = [json.loads(line)["loss"] for line in (tmp_path / "sft" / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < losses[0] - 0.5
    assert "val_loss" in result.evaluation
    load_base(tmp_path / "sft" / "base")


def test_training_from_prepared_shards_equals_training_from_the_text(tmp_path: Path) -> None:
    for split in ("train", "validation"):
        lines = [json.dumps({"text": f"The {split} text number {i} is short."}) for i in range(80)]
        (tmp_path / f"{split}.jsonl").write_text("\n".join(lines))
    source = CorpusConfig(source=str(tmp_path))
    quality = QualityConfig(exact_duplicates=False, contamination_ngram=0)
    list(prepare_shards(source, ["train", "validation"], tmp_path / "s", None, 300, ShardConfig(), quality))
    texts = {
        "data__corpus": str(tmp_path),
        "data__validation": "validation",
        "data__tokenizer": str(tmp_path / "s/tokenizer"),
    }
    shards = {
        "data__corpus": str(tmp_path / "s/train"),
        "data__validation": str(tmp_path / "s/validation"),
        "data__tokenizer": str(tmp_path / "s/tokenizer"),
    }
    losses = [
        run_recipe(toy(**data), tmp_path / f"run{i}", quiet=True).result.loss for i, data in enumerate((texts, shards))
    ]
    assert losses[0] == losses[1]
