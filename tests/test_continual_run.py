"""An experiment from its recipe to its report: jobs that go on where they were killed, errors of one line."""

from __future__ import annotations

import copy
import errno
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from continual_toy import Counting, domain, domains, journey, make, train_config

from nanohydra.cli import main
from nanohydra.continual.config import ContinualRecipe
from nanohydra.continual.domains import TEXT, Domain, base_domain, load_text, make_domains
from nanohydra.continual.measures import Accuracy, Loss, longest_beginnings
from nanohydra.continual.plan import Plan
from nanohydra.continual.reports import write_report
from nanohydra.continual.results import read_results
from nanohydra.continual.router import CentroidRouter, by_perplexity
from nanohydra.continual.runner import run_experiment
from nanohydra.data.order import Int64s
from nanohydra.errors import UserError
from nanohydra.jobs.data import prepare
from nanohydra.lab.worker import run_job
from nanohydra.model.hub import load_base
from nanohydra.train import checkpoint

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 256}
TOY: dict[str, Any] = {
    "name": "toy",
    "question": "Does it run?",
    "seeds": [0, 1],
    "base": {
        "questions": 4,
        "recipe": {
            "model": {"preset": "tiny-0.5m", "config": SMALL},
            "data": {
                "seq_len": 32,
                "vocab_size": 400,
                "world_tokens": 6000,
                "validation_share": 0.2,
                "tinyworld": {"people": 12, "attributes": ["birthplace", "trade"]},
            },
            "train": {"steps": 3, "batch_size": 4},
        },
    },
    "domains": [
        {"name": "s1", "session": {"number": 0, "people": 4, "tokens": 2500, "questions": 4}},
        {"name": "s2", "session": {"number": 1, "people": 4, "tokens": 2500, "questions": 4}, "steps": 2},
    ],
    "seq_len": 32,
    "eval_rows": 4,
    "metric": "loss",
    "train": {"steps": 3, "batch_size": 4, "lr": 0.001},
    "adapter": {"rank": 2, "alpha": 4},
    "strategies": {"naive": {}, "joint": {}, "alone": {}, "lora": {"views": ["oracle", "perplexity"]}},
}


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(TOY), **changes}


def run_here(plan: Plan, out: Path) -> None:
    """What the processes of a lab do, one after the other in this one."""
    plan.save(out)
    for lab in (plan.bases_lab(out), plan.strategies_lab(out)):
        for job in lab.jobs():
            job.prepare(lab.spec.execute)
            run_job(job.folder)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("continual") / "toy"
    run_here(Plan.of(TOY), out)
    return out


def test_an_experiment_has_a_report_with_every_row_and_domain(finished: Path) -> None:
    results = read_results(finished)
    assert results.rows == ["naive", "joint", "alone", "lora oracle", "lora perplexity"]
    assert not results.missing
    run = results.of("naive")[1]
    assert run.matrices["loss"].values.shape == (3, 3)
    assert run.matrices["recall"].domains == ("base", "s1", "s2")
    path = write_report(results, finished)
    text = path.read_text("utf-8")
    for word in ("Does it run?", "lora perplexity", "forgetting", "intransigence", "bytes a domain", "matrix-loss.png"):
        assert word in text
    assert (finished / "curves-recall.png").stat().st_size > 1000
    numbers = json.loads((finished / "results.json").read_text("utf-8"))
    assert len(numbers) == 5 * 2
    first = next(n for n in numbers if n["row"] == "naive" and n["seed"] == 1)
    np.testing.assert_allclose(first["matrices"]["loss"]["R"], run.matrices["loss"].values)
    scores = (finished / "scores.csv").read_text("utf-8")
    assert scores.count("\n") == 11
    assert main(["continual", "report", str(finished)]) == 0


def test_all_strategies_start_from_the_same_base(finished: Path) -> None:
    results = read_results(finished)
    for metric in ("loss", "recall"):
        for seed in (0, 1):
            rows = [results.of(row)[seed].matrices[metric].values[0].tolist() for row in results.rows]
            assert all(row == rows[0] for row in rows)
    starts = [results.of("naive")[seed].matrices["loss"].values[0, 0] for seed in (0, 1)]
    assert starts[0] != starts[1]  # each seed has a world and a base of its own


def test_finished_jobs_are_not_repeated_and_words_that_change_nothing_rename_nothing(finished: Path) -> None:
    said: list[str] = []
    run_experiment(Plan.of(changed(question="Really?", baseline="joint", seeds=[1, 0])), finished, say=said.append)
    assert any("8 runs, 8 finished before" in line for line in said)
    more = Plan.of(changed(strategies={**TOY["strategies"], "replay": {"bytes": 9000}}))
    jobs = more.strategies_lab(finished).jobs()
    assert [job.variant for job in jobs if job.result is None] == ["replay", "replay"]
    slower = Plan.of(changed(train={**TOY["train"], "lr": 0.01}))
    assert all(job.result is None for job in slower.strategies_lab(finished).jobs())
    run_experiment(Plan.of(TOY), finished, say=said.append)


def test_another_experiment_does_not_get_the_folder(finished: Path) -> None:
    with pytest.raises(UserError, match="holds another experiment, toy"):
        run_experiment(Plan.of(changed(name="other")), finished)


def test_an_unfinished_experiment_is_reported_as_such(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "part"
    plan = Plan.of(TOY)
    plan.save(out)
    lab, whole = plan.strategies_lab(out), plan.strategies_lab(finished)
    for job, done in zip(lab.jobs(), whole.jobs()):
        if job.variant == "naive":
            job.prepare(lab.spec.execute)
            job.folder.with_name(job.folder.name + ".json").write_text(json.dumps(done.result))
    text = write_report(read_results(out), out).read_text("utf-8")
    assert "6 runs have no result yet (joint seed 0" in text
    with pytest.raises(UserError, match="no recipe"):
        read_results(tmp_path / "nothing")


@pytest.mark.slow
def test_the_command_runs_processes_and_prints_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(changed(seeds=[0], strategies={"naive": {}, "replay": {}})))
    args = ["continual", "run", str(tmp_path / "toy.yaml"), "--out", str(tmp_path / "out"), "--jobs", "1"]
    assert main(args) == 0
    assert capsys.readouterr().out.strip().endswith("report.md")
    assert main(args) == 0
    assert "2 runs, 2 finished before" in capsys.readouterr().out


# ---------------------------------------------------------------- what goes wrong


def test_a_full_disk_while_saving_loses_no_finished_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = journey(make("replay", bytes=900)).run()
    writes = iter([False, False, True])
    save = checkpoint.save_file

    def failing(*args: Any, **kwargs: Any) -> None:
        if next(writes):
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", failing)
    with pytest.raises(UserError, match="No space left while writing") as e:
        journey(make("replay", bytes=900), tmp_path).run()
    assert "\n" not in str(e.value)
    monkeypatch.setattr(checkpoint, "save_file", save)
    resumed = journey(make("replay", bytes=900), tmp_path)
    assert resumed._resume() == 2
    assert journey(make("replay", bytes=900), tmp_path).run()["values"] == whole["values"]


def test_a_torn_stage_is_passed_over(tmp_path: Path) -> None:
    whole = journey(make("naive")).run()
    led = journey(make("naive"), tmp_path)
    for number in (0, 1):
        led._stage(number)
        led._save(number)
    (tmp_path / "step-00000001" / "state.json").write_text("{")
    (tmp_path / "step-00000000").mkdir(exist_ok=True)
    with pytest.raises(UserError, match="damaged"):
        journey(make("naive"), tmp_path).run()
    for folder in list(tmp_path.iterdir()):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert journey(make("naive"), tmp_path).run()["values"] == whole["values"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "cannot be used"),
        ("too short\n" * 3, "cannot be used"),
        ("a few rows but no batch of them. " * 30, "a batch needs 64"),
    ],
)
def test_an_empty_or_short_domain_is_told_in_one_line(text: str, word: str, finished: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text(text)
    section = {"name": "notes", "text": {"corpus": str(tmp_path / "notes.txt"), "validation_share": 0.3}}
    train = {**TOY["train"], "batch_size": 64}
    recipe = Plan.of(changed(domains=[section], train=train)).recipe
    folder = Plan.of(TOY).base_folder(finished, 0)
    _, tokenizer = load_base(folder, torch.float32)
    with pytest.raises(UserError, match=word) as e:
        make_domains(recipe, tokenizer, folder, 0)
    assert str(e.value).startswith("The domain notes")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"strategis": {}}, "strategies"),
        ({"domains": []}, "at least one domain"),
        ({"domains": [{"name": "s1", "session": {"peopel": 3}}]}, "people"),
        ({"domains": [{"name": "s1"}]}, "exactly one"),
        ({"domains": [{"name": "a b", "session": {}}]}, "letters"),
        ({"domains": [{"name": "base", "session": {}}]}, "called"),
        ({"seq_len": 64}, "must be equal"),
        ({"base": {}}, "either recipe"),
        ({"base": {"path": "smollm2"}}, "session of tinyworld"),
        ({"seeds": [0, 0]}, "twice"),
        ({"strategies": {"a/b": {}}}, "letters"),
        ({"train": {"steps": 3, "batch": 4}}, "batch_size"),
    ],
)
def test_wrong_recipes_are_told_in_one_line(change: dict[str, Any], word: str) -> None:
    with pytest.raises(UserError, match=word) as e:
        ContinualRecipe.from_dict(changed(**change))
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="lacks domains"):
        ContinualRecipe.from_dict({k: v for k, v in TOY.items() if k != "domains"})


def test_wrong_strategies_stop_the_command_before_any_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(changed(strategies={"nave": {}})))
    assert main(["continual", "run", str(tmp_path / "toy.yaml"), "--out", str(tmp_path / "out")]) == 1
    assert 'Did you mean "naive"' in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- domains and what they are measured by


def test_the_bases_text_comes_back_as_it_was_trained_on(finished: Path) -> None:
    plan = Plan.of(TOY)
    folder = Path(plan.base_folder(finished, 0))
    _, tokenizer = load_base(folder, torch.float32)
    assert plan.recipe.base.recipe is not None
    data = plan.recipe.base.recipe.data
    fresh, kept = prepare(data, 0), load_text(folder, tokenizer)
    assert (folder / TEXT).exists()
    for a, b in ((fresh.rows(data, 4, 0), kept.rows(data, 4, 0)),):
        for step in (0, 5):
            assert torch.equal(a.batch(step).input_ids, b.batch(step).input_ids)
            assert torch.equal(a.batch(step).targets, b.batch(step).targets)
    assert torch.equal(fresh.validation_rows(data).targets, kept.validation_rows(data).targets)
    known = base_domain(plan.recipe, folder, tokenizer, 0)
    assert [test.name for test in known.tests] == ["loss", "recall"]


def test_a_sessions_people_are_new_and_its_steps_its_own(finished: Path) -> None:
    plan = Plan.of(TOY)
    folder = plan.base_folder(finished, 0)
    _, tokenizer = load_base(folder, torch.float32)
    made = make_domains(plan.recipe, tokenizer, folder, 0)
    questions = [{i.question for i in d.tests[1].items} for d in made]  # type: ignore[attr-defined]
    assert questions[0]
    assert not questions[0] & questions[1]
    assert [d.steps for d in made] == [None, 2]


def test_a_loss_is_the_same_however_its_rows_are_routed() -> None:
    strategy = make("naive")
    rows = Counting(3).take(np.arange(10))
    test = Loss(rows, batch_rows=3)

    def one(prompts: Any) -> Any:
        yield list(range(len(prompts))), strategy.model

    def split(prompts: Any) -> Any:
        assert len(prompts[0]) == 3  # a quarter of the row
        yield [0, 3, 7], strategy.model
        yield [1, 2, 4, 5, 6, 8, 9], strategy.model

    assert test.measure(one) == pytest.approx(test.measure(split), rel=1e-6)


def test_labels_are_scored_by_the_whole_likelihood_of_their_words() -> None:
    strategy = make("naive")
    strategy.model.eval()
    prompts = [[3, 4, 5], [7, 8], [9, 9, 9, 9]]
    labels = [(1, 2, 0), (1, 3, 0), (4, 0), (1, 2, 5, 0)]
    assert longest_beginnings(labels) == [(1, 2, 5), (1, 3), (4,)]
    test = Accuracy(prompts, labels, [0, 0, 0])
    with torch.no_grad():
        found = test._scores(strategy.model, prompts)
        for i, prompt in enumerate(prompts):
            for j, label in enumerate(labels):
                chances = torch.log_softmax(strategy.model(torch.tensor([[*prompt, *label]])), -1)[0]
                wanted = sum(float(chances[len(prompt) + n - 1, token]) for n, token in enumerate(label))
                assert float(found[i, j]) == pytest.approx(wanted, abs=1e-4)
        best = found.argmax(1).tolist()

    def asked(given: Any) -> Any:
        yield [2, 0], strategy.model
        yield [1], strategy.model

    assert Accuracy(prompts, labels, best).measure(asked) == 1.0
    assert Accuracy(prompts, labels, [best[0], best[1], (best[2] + 1) % 4]).measure(asked) == pytest.approx(2 / 3)


def test_labels_of_a_dataset_become_a_domain(finished: Path, tmp_path: Path) -> None:
    rows = [{"sentence": f"number {i}", "label": "very even" if i % 2 == 0 else "odd"} for i in range(60)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    section = {"name": "parity", "labels": {"corpus": str(tmp_path), "examples": 40, "tests": 15}}
    recipe = Plan.of(changed(domains=[section])).recipe
    folder = Plan.of(TOY).base_folder(finished, 0)
    _, tokenizer = load_base(folder, torch.float32)
    (made,) = make_domains(recipe, tokenizer, folder, 0)
    test = made.tests[0]
    assert isinstance(test, Accuracy)
    assert len(test.prompts) == 15
    assert len(test.labels) == 2
    assert made.source is not None
    batch = made.source.take(np.array([0]))
    learned = batch.targets[batch.targets >= 0].tolist()
    assert (
        tokenizer.decode(learned, skip_special=True).split().count("even") + tokenizer.decode(learned).count("odd") > 0
    )
    (again,) = make_domains(recipe, tokenizer, folder, 0)
    assert again.tests[0].prompts == test.prompts  # type: ignore[attr-defined]
    (tmp_path / "train.jsonl").write_text('{"text": "no label"}\n')
    with pytest.raises(UserError, match="sentence and label"):
        make_domains(recipe, tokenizer, folder, 0)


def test_the_centroid_router_tells_gaussian_classes_apart_and_learns_them_one_by_one() -> None:
    class Embedding:
        """Stands for a model whose hidden states are what the tokens say."""

        def parameters(self) -> Any:
            return iter([torch.zeros(1)])

        def hidden(self, ids: torch.Tensor) -> torch.Tensor:
            table = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
            return table[ids]

    class Source:
        def __init__(self, first: int) -> None:
            self.first = first

        def take(self, numbers: Int64s) -> Any:
            draw = torch.Generator().manual_seed(self.first)
            ids = torch.randint(self.first, self.first + 5, (len(numbers), 12), generator=draw)
            return type("Rows", (), {"input_ids": ids})

    over: Any = Embedding()
    router = CentroidRouter()
    for name, first in (("a", 0), ("b", 10), ("c", 20)):
        router.learn(name, over, Source(first).take(np.arange(60)))
    for name, first in (("a", 0), ("b", 10), ("c", 20)):
        prompts = Source(first).take(np.arange(50)).input_ids[:, :8].tolist()
        assert router.route(over, prompts).count(name) >= 48
    again = CentroidRouter()
    again.load_state_dict(router.state_dict())
    prompts = Source(10).take(np.arange(50)).input_ids.tolist()
    assert again.route(over, prompts) == router.route(over, prompts)
    together = torch.cat(
        [
            _features(over, Source(first).take(np.arange(60)).input_ids) - router.means[n]
            for n, first in (("a", 0), ("b", 10), ("c", 20))
        ]
    )
    torch.testing.assert_close(router.scatter, together.T @ together, rtol=1e-4, atol=1e-4)


def _features(over: Any, ids: torch.Tensor) -> torch.Tensor:
    return over.hidden(ids).mean(1)  # type: ignore[no-any-return]


def test_the_perplexity_router_takes_whoever_loses_least() -> None:
    led = {
        name: journey(make("naive", train_config(steps=60)), of=[domain("none", 2), domain(name, step)])
        for name, step in (("threes", 3), ("fives", 5))
    }
    for one in led.values():
        one.run()

    from contextlib import nullcontext

    prompts = [
        *Counting(3).take(np.arange(20, 24)).input_ids.tolist(),
        *Counting(5).take(np.arange(20, 24)).input_ids.tolist(),
    ]
    found = by_perplexity(["threes", "fives"], prompts, lambda name: nullcontext(led[str(name)].strategy.model))
    assert found == ["threes"] * 4 + ["fives"] * 4


def test_a_domain_without_rows_is_only_watched() -> None:
    watched = Domain("before", None, 0, [domains()[0].tests[0]])
    record = journey(make("replay", bytes=900), of=[watched, domains()[1]]).run()
    assert len(record["values"][""]["before"]["loss"]) == 2
    assert record["stored"][0] == {"buffer": 0}
